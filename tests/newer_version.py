"""A later version of Garivini, for tests of upgrades: this one, with one more revision of the tables.

``python -m tests.newer_version FOLDER REVISION ARGUMENT...`` runs its command ``garivini ARGUMENT...``. The
revision adds what any later one may add beside running programs of this version: a column with a default to
each table, and a table. ``FOLDER`` gets its migrations.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from sqlalchemy import Engine

from garivini.cli import main
from garivini.databases import DatabaseSettings
from garivini.store import schema
from garivini.store.database import Database
from tests.processes import Command, command

#: The number of this version's revision, and of the next one.
NUMBER: Final = schema.SCHEMA[:4]
NEXT: Final = f"{int(NUMBER) + 1:04}"
#: Names of the next revision: one that this version may use, and one that it may not.
ALLOWING: Final = f"{NEXT}_from_{NUMBER}"
REFUSING: Final = NEXT

_MIGRATION: Final = """
from alembic import op
from sqlalchemy import Column, Integer

revision = "{revision}"
down_revision = "{before}"


def upgrade():
    for table in ("job", "failure", "report", "finished", "function", "garivini_database"):
        op.add_column(table, Column("later", Integer, nullable=False, server_default="7"))
    op.create_table("later", Column("id", Integer, primary_key=True))
"""


def _write_migrations(folder: Path, revision: str) -> None:
    migrations = folder / revision
    if not migrations.exists():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(schema.__file__).with_name("migrations"), migrations, ignore=ignored)
        text = _MIGRATION.format(revision=revision, before=schema.SCHEMA)
        (migrations / "versions" / f"{NEXT}_later.py").write_text(text)


def _later(folder: Path, revision: str) -> AbstractContextManager[Any]:
    """Let the code of this process be that of the later version."""
    config_of = schema._config

    def config(*arguments: Any, **named: Any) -> Any:
        found = config_of(*arguments, **named)
        found.set_main_option("script_location", str(folder / revision))
        return found

    return patch.multiple(schema, SCHEMA=revision, _config=config)


def upgrade(target: str | Engine, folder: Path, revision: str) -> None:
    """Upgrade a database as the later version does."""
    _write_migrations(folder, revision)
    with _later(folder, revision):
        database = Database(DatabaseSettings(1, target))
        database.upgrade()
        database.close()


@contextmanager
def newer(folder: Path, revision: str, *arguments: str, **environment: str) -> Iterator[Command]:
    """Start ``garivini`` of the later version; see ``tests.processes.command``."""
    _write_migrations(folder, revision)
    root = str(Path(__file__).parents[1])
    words = ("tests.newer_version", str(folder), revision)
    with command(folder, *arguments, program=words, PYTHONPATH=root, **environment) as running:
        yield running


if __name__ == "__main__":
    with _later(Path(sys.argv[1]), sys.argv[2]):
        main(sys.argv[3:])
