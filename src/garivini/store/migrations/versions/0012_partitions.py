"""Partitions: the column of a job, the rules of a function, and the turns of jobs."""

from garivini.store.migration_scripts import run_script

revision = "0012_from_0003"
down_revision = "0011_from_0003"


def upgrade() -> None:
    """Add the columns and create the tables."""
    added = {"job": "partition", "function": "fair", "turn": "jobid", "turn_partition": "priority"}
    run_script(__file__, "up", added={**added, "partition_rate": "used_until"})


def downgrade() -> None:
    """Drop them."""
    run_script(__file__, "down")
