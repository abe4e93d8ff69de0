"""The marks of functions that have cancelled jobs."""

from garivini.store.migration_scripts import run_script

revision = "0009_from_0003"
down_revision = "0008_from_0003"


def upgrade() -> None:
    """Add the columns."""
    run_script(__file__, "up", added={"function": "checked_until"})


def downgrade() -> None:
    """Drop the columns."""
    run_script(__file__, "down")
