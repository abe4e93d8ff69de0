"""How long dead jobs of a function are kept."""

from garivini.store.migration_scripts import run_script

revision = "0006_from_0003"
down_revision = "0005_from_0003"


def upgrade() -> None:
    """Add the column."""
    run_script(__file__, "up", added={"function": "dead_retention"})


def downgrade() -> None:
    """Drop the column."""
    run_script(__file__, "down")
