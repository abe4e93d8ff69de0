"""The rate at which a function's jobs start."""

from garivini.store.migration_scripts import run_script

revision = "0008_from_0003"
down_revision = "0007_from_0003"


def upgrade() -> None:
    """Add the columns."""
    run_script(__file__, "up", added={"function": "rate"})


def downgrade() -> None:
    """Drop the columns."""
    run_script(__file__, "down")
