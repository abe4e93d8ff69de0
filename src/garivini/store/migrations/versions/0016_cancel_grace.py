"""The grace time of a cancelled job: a setting of a function."""

from garivini.store.migration_scripts import run_script

revision = "0016_from_0003"
down_revision = "0015_from_0003"


def upgrade() -> None:
    """Add the column."""
    run_script(__file__, "up", added={"function": "cancel_grace"})


def downgrade() -> None:
    """Drop it."""
    run_script(__file__, "down")
