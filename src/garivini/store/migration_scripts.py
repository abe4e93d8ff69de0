"""Runs the SQL statements of a revision, which are in files beside the revision's module."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from alembic import op
from sqlalchemy import inspect


def run_script(
    revision: str, part: Literal["up", "down"], *, added: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Run the statements of ``NNNN_name.PART.DATABASE.sql``.

    MySQL commits each statement by itself. So if an interrupted upgrade is run again on MySQL, it leaves out
    the statements about tables that have been changed.

    Args:
        revision: the path of the revision's module, ``NNNN_name.py``.
        part: which statements.
        added: for each table that the script creates or changes, one column that the script adds to it. On
            MySQL the statement about a table that has this column is left out. So a script may have only one
            ``CREATE`` or ``ALTER TABLE`` per table.

    """
    name = op.get_context().dialect.name
    dialect = "mysql" if name == "mariadb" else name
    path = Path(revision).with_suffix(f".{part}.{dialect}.sql")
    for statement in path.read_text(encoding="utf-8").split(";\n"):
        if statement.strip() and not (dialect == "mysql" and _is_done(statement, added)):
            op.execute(statement)


def _is_done(statement: str, added: Mapping[str, str]) -> bool:
    if op.get_context().as_sql:
        return False
    tables = inspect(op.get_bind())
    return any(
        re.search(rf"TABLE `?{table}\b", statement)
        and tables.has_table(table)
        and column in {found["name"] for found in tables.get_columns(table)}
        for table, column in added.items()
    )
