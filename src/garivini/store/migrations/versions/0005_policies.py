"""Settings for retries and time limits, the origin of settings, and how long kept jobs ran."""

from garivini.store.migration_scripts import run_script

revision = "0005_from_0003"
down_revision = "0004_from_0003"


def upgrade() -> None:
    """Add the columns."""
    run_script(__file__, "up", added={"function": "override", "finished": "seconds"})


def downgrade() -> None:
    """Drop the columns."""
    run_script(__file__, "down")
