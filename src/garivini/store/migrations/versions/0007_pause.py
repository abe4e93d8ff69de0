"""The time until which a function is paused."""

from garivini.store.migration_scripts import run_script

revision = "0007_from_0003"
down_revision = "0006_from_0003"


def upgrade() -> None:
    """Add the column."""
    run_script(__file__, "up", added={"function": "paused_until"})


def downgrade() -> None:
    """Drop the column."""
    run_script(__file__, "down")
