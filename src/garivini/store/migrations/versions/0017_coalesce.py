"""Bundles: the settings of functions whose jobs go together, and the call of each job."""

from garivini.store.migration_scripts import run_script

revision = "0017_from_0003"
down_revision = "0016_from_0003"


def upgrade() -> None:
    """Add the columns."""
    run_script(__file__, "up", added={"job": "bundle", "function": "coalesce_wait"})


def downgrade() -> None:
    """Drop them."""
    run_script(__file__, "down")
