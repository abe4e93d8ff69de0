"""The job table, the record of failed attempts, and the database's own id."""

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None


def _run(name: str) -> None:
    dialect = op.get_context().dialect.name
    text = Path(__file__).with_name(f"0001_job.{name}.{dialect}.sql").read_text(encoding="utf-8")
    for statement in filter(str.strip, text.split(";\n")):
        op.execute(statement)


def upgrade() -> None:
    """Create the tables."""
    _run("up")


def downgrade() -> None:
    """Drop the tables."""
    _run("down")
