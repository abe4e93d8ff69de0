"""The rate at which a function's jobs start."""

from pathlib import Path

from alembic import op
from sqlalchemy import inspect

revision = "0008_from_0003"
down_revision = "0007_from_0003"


def _dialect() -> str:
    name: str = op.get_context().dialect.name
    return "mysql" if name == "mariadb" else name


def _execute(name: str) -> None:
    path = Path(__file__).with_name(f"0008_rate.{name}.{_dialect()}.sql")
    for statement in path.read_text(encoding="utf-8").split(";\n"):
        if statement.strip():
            op.execute(statement)


def upgrade() -> None:
    """Add the columns, unless an upgrade that failed has added them: on MySQL it commits by itself."""
    if not (_dialect() == "mysql" and _is_there()):
        _execute("up")


def _is_there() -> bool:
    if op.get_context().as_sql:
        return False
    columns = inspect(op.get_bind()).get_columns("function")
    return any(column["name"] == "rate" for column in columns)


def downgrade() -> None:
    """Drop them."""
    _execute("down")
