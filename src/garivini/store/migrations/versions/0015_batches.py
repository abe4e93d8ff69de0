"""Batches: jobs whose end as a whole inserts another job."""

from garivini.store.migration_scripts import run_script

revision = "0015_from_0003"
down_revision = "0014_from_0003"


def upgrade() -> None:
    """Create the tables."""
    run_script(__file__, "up", added={"batch": "sealed", "batch_member": "jobid"})


def downgrade() -> None:
    """Drop them."""
    run_script(__file__, "down")
