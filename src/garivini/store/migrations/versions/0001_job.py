"""The job table, the record of failed attempts, and the database's own id."""

from pathlib import Path

from alembic import context, op
from sqlalchemy import inspect

from garivini.errors import SchemaError

revision = "0001"
down_revision = None


def _dialect() -> str:
    name: str = op.get_context().dialect.name
    return "mysql" if name == "mariadb" else name


def _statements(name: str) -> list[str]:
    path = Path(__file__).with_name(f"0001_job.{name}.{_dialect()}.sql")
    return [text for text in path.read_text(encoding="utf-8").split(";\n") if text.strip()]


def upgrade() -> None:
    """Create the tables, or add columns to the job table of the original."""
    original = _dialect() == "mysql" and _is_original()
    there = _add() if _dialect() == "mysql" else set()
    for statement in _statements("up"):
        if not any(f"TABLE {name} " in statement.replace("`", "") for name in there):
            op.execute(statement)
    if original:
        for statement in _statements("envelope"):
            op.execute(statement)


#: By table, a column that only our tables have. It shows that a table of this name is ours.
_OURS = {"job": "attempt", "failure": "failed_at", "function": "max_failures", "garivini_database": "dbid"}


def _is_original() -> bool:
    """Whether the original created the job table. Its index on ``run_after`` remains after an upgrade."""
    if op.get_context().as_sql:
        return bool(context.config.attributes.get("existing"))
    tables = inspect(op.get_bind())
    if not tables.has_table("job"):
        return False
    columns = {column["name"] for column in tables.get_columns("job")}
    return "attempt" not in columns or ["run_after"] in _indexes().values()


def _add() -> set[str]:
    """Add columns and indexes to a table of the original; return the tables that exist and are ours.

    Each statement commits by itself on MySQL, so an upgrade that failed half way goes on from there.
    """
    columns, index = _statements("add")
    if op.get_context().as_sql:
        existing = bool(context.config.attributes.get("existing"))
        for statement in (columns, index) if existing else ():
            op.execute(statement)
        return {"job"} if existing else set()
    tables = inspect(op.get_bind())
    if tables.has_table("job"):
        found = {column["name"] for column in tables.get_columns("job")}
        if not {"jobid", "funcname", "run_after", "uniqkey"} <= found:
            raise SchemaError(
                "there is a table job that is another program's: give Garivini its own database"
            )
        engine = tables.get_table_options("job").get(f"{op.get_context().dialect.name}_engine", "")
        if engine.lower() != "innodb":
            raise SchemaError(
                f"the table job is kept by {engine}, which forgets in a crash: "
                "run ALTER TABLE job ENGINE=InnoDB"
            )
        if "attempt" not in found:
            op.execute(columns)
        if "job_lane" not in _indexes():
            op.execute(index)
    tables = inspect(op.get_bind())
    return {
        name
        for name, ours in _OURS.items()
        if tables.has_table(name) and ours in {column["name"] for column in tables.get_columns(name)}
    }


def downgrade() -> None:
    """Drop the tables. A job table that the original made stays, with its jobs."""
    name = "remove" if _dialect() == "mysql" and _is_original() else "down"
    for statement in _statements(name):
        op.execute(statement)


def _indexes() -> dict[str | None, list[str | None]]:
    found = inspect(op.get_bind()).get_indexes("job")
    return {index["name"]: index["column_names"] for index in found}
