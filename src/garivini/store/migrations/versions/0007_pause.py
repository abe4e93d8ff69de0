"""The time until which a function is paused."""

from pathlib import Path

from alembic import op
from sqlalchemy import inspect

revision = "0007_from_0003"
down_revision = "0006_from_0003"


def _dialect() -> str:
    name: str = op.get_context().dialect.name
    return "mysql" if name == "mariadb" else name


def _execute(name: str) -> None:
    path = Path(__file__).with_name(f"0007_pause.{name}.{_dialect()}.sql")
    op.execute(path.read_text(encoding="utf-8").removesuffix(";\n"))


def upgrade() -> None:
    """Add the column, unless an upgrade that failed has added it: on MySQL it commits by itself."""
    if not (_dialect() == "mysql" and _is_there()):
        _execute("up")


def _is_there() -> bool:
    if op.get_context().as_sql:
        return False
    columns = inspect(op.get_bind()).get_columns("function")
    return any(column["name"] == "paused_until" for column in columns)


def downgrade() -> None:
    """Drop it."""
    _execute("down")
