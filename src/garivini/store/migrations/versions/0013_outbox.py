"""Follow-ups on their way to another database."""

from garivini.store.migration_scripts import run_script

revision = "0013_from_0003"
down_revision = "0012_from_0003"


def upgrade() -> None:
    """Create the tables."""
    run_script(__file__, "up", added={"outbox": "target", "arrived": "arrived_at"})


def downgrade() -> None:
    """Drop them."""
    run_script(__file__, "down")
