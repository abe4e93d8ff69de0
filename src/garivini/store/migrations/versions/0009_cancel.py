"""The marks of functions that have cancelled jobs."""

from pathlib import Path

from alembic import op
from sqlalchemy import inspect

revision = "0009_from_0003"
down_revision = "0008_from_0003"

#: The table of each statement of "up" on MySQL, and a column that it adds.
_ADDED = (("function", "checked_until"),)


def _dialect() -> str:
    name: str = op.get_context().dialect.name
    return "mysql" if name == "mariadb" else name


def _statements(name: str) -> list[str]:
    path = Path(__file__).with_name(f"0009_cancel.{name}.{_dialect()}.sql")
    return [text for text in path.read_text(encoding="utf-8").split(";\n") if text.strip()]


def upgrade() -> None:
    """Add the columns.

    On MySQL each statement commits by itself, so an interrupted upgrade continues from there.
    """
    for statement in _statements("up"):
        if not (_dialect() == "mysql" and _is_done(statement)):
            op.execute(statement)


def _is_done(statement: str) -> bool:
    if op.get_context().as_sql:
        return False
    tables = inspect(op.get_bind())
    return any(
        f"TABLE {table}" in statement.replace("`", "")
        and column in {found["name"] for found in tables.get_columns(table)}
        for table, column in _ADDED
    )


def downgrade() -> None:
    """Drop them."""
    for statement in _statements("down"):
        op.execute(statement)
