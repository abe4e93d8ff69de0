"""Reports of running jobs, kept jobs, and the retention of a function."""

from pathlib import Path

from alembic import op
from sqlalchemy import inspect

revision = "0002"
down_revision = "0001"

#: The table of each statement of "up", and a column that shows that the table is ours.
_BROUGHT = (("report", "reported_at"), ("finished", "finished_at"), ("function", "retention"))


def _dialect() -> str:
    name: str = op.get_context().dialect.name
    return "mysql" if name == "mariadb" else name


def _statements(name: str) -> list[str]:
    path = Path(__file__).with_name(f"0002_records.{name}.{_dialect()}.sql")
    return [text for text in path.read_text(encoding="utf-8").split(";\n") if text.strip()]


def upgrade() -> None:
    """Create the tables and the column.

    Each statement commits by itself on MySQL, so an upgrade that failed half way goes on from there.
    """
    for statement in _statements("up"):
        if not (_dialect() == "mysql" and _is_there(statement)):
            op.execute(statement)


def _is_there(statement: str) -> bool:
    if op.get_context().as_sql:
        return False
    tables = inspect(op.get_bind())
    return any(
        f"TABLE {table} " in statement.replace("`", "")
        and tables.has_table(table)
        and column in {found["name"] for found in tables.get_columns(table)}
        for table, column in _BROUGHT
    )


def downgrade() -> None:
    """Drop the tables and the column."""
    for statement in _statements("down"):
        op.execute(statement)
