"""The limit of a function's jobs in flight."""

from garivini.store.migration_scripts import run_script

revision = "0004_from_0003"
down_revision = "0003"


def upgrade() -> None:
    """Add the column."""
    run_script(__file__, "up", added={"function": "max_running"})


def downgrade() -> None:
    """Drop the column."""
    run_script(__file__, "down")
