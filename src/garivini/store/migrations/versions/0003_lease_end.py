"""The end of a lease beside ``run_after``, and the number of starts."""

from pathlib import Path

from alembic import op
from sqlalchemy import inspect

revision = "0003"
down_revision = "0002"


def _dialect() -> str:
    name: str = op.get_context().dialect.name
    return "mysql" if name == "mariadb" else name


def _statements(name: str) -> list[str]:
    path = Path(__file__).with_name(f"0003_lease_end.{name}.{_dialect()}.sql")
    return [text for text in path.read_text(encoding="utf-8").split(";\n") if text.strip()]


def upgrade() -> None:
    """Add the columns, and fill in the current leases.

    On MySQL each statement commits by itself, so an interrupted upgrade continues from there.
    """
    for statement in _statements("up"):
        if "ADD COLUMN" in statement and _dialect() == "mysql" and _is_there():
            continue
        op.execute(statement)


def _is_there() -> bool:
    if op.get_context().as_sql:
        return False
    return any(column["name"] == "runs" for column in inspect(op.get_bind()).get_columns("job"))


def downgrade() -> None:
    """Drop the columns."""
    for statement in _statements("down"):
        op.execute(statement)
