"""Schedules."""

from garivini.store.migration_scripts import run_script

revision = "0010_from_0003"
down_revision = "0009_from_0003"


def upgrade() -> None:
    """Create the table."""
    run_script(__file__, "up", added={"schedule": "next_tick"})


def downgrade() -> None:
    """Drop the table."""
    run_script(__file__, "down")
