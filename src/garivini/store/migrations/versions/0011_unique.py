"""Rules of unique keys, their successors, and the time by which a job must have been handed out."""

from garivini.store.migration_scripts import run_script

revision = "0011_from_0003"
down_revision = "0010_from_0003"


def upgrade() -> None:
    """Add the columns and create the tables."""
    added = {"function": "on_duplicate", "job": "expires", "successor": "due", "recent_key": "ends"}
    run_script(__file__, "up", added=added)


def downgrade() -> None:
    """Drop them."""
    run_script(__file__, "down")
