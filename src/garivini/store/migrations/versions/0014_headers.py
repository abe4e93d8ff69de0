"""Headers: values of a job beside its argument."""

from garivini.store.migration_scripts import run_script

revision = "0014_from_0003"
down_revision = "0013_from_0003"


def upgrade() -> None:
    """Add the columns."""
    run_script(__file__, "up", added={"job": "headers", "successor": "headers", "outbox": "headers"})


def downgrade() -> None:
    """Drop them."""
    run_script(__file__, "down")
