"""Schedules."""

from pathlib import Path

from alembic import op
from sqlalchemy import inspect

revision = "0010_from_0003"
down_revision = "0009_from_0003"


def _dialect() -> str:
    name: str = op.get_context().dialect.name
    return "mysql" if name == "mariadb" else name


def _run(name: str) -> None:
    path = Path(__file__).with_name(f"0010_schedules.{name}.{_dialect()}.sql")
    op.execute(path.read_text(encoding="utf-8").rstrip().removesuffix(";"))


def upgrade() -> None:
    """Create the table. On MySQL this commits by itself, so a second upgrade may find it."""
    if not (_dialect() == "mysql" and _exists()):
        _run("up")


def _exists() -> bool:
    if op.get_context().as_sql:
        return False
    tables = inspect(op.get_bind())
    return tables.has_table("schedule") and "next_tick" in {
        found["name"] for found in tables.get_columns("schedule")
    }


def downgrade() -> None:
    """Drop it."""
    _run("down")
