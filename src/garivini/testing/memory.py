"""Databases in memory, each a copy of a prepared one: making the tables takes longer than most tests."""

import sqlite3
from functools import cache
from itertools import count
from typing import Final

from sqlalchemy import Engine, QueuePool, create_engine

from garivini.databases import DatabaseSettings
from garivini.store.database import Database

_numbers: Final = count(1)


class MemoryDatabase:
    """A SQLite database in memory, which all connections of this process share until it is closed.

    Args:
        prepared: whether it has the tables.

    """

    def __init__(self, *, prepared: bool = True) -> None:
        self._name = f"file:/garivini-{next(_numbers)}?vfs=memdb"
        # SQLite drops the database with its last connection.
        self._anchor = self._connect()
        if prepared:
            _template()._anchor.backup(self._anchor)
        # The default pool for SQLite in memory closes connections that other threads are using.
        self.engine: Engine = create_engine(
            "sqlite://", creator=self._connect, poolclass=QueuePool, max_overflow=-1
        )

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._name, uri=True, check_same_thread=False, isolation_level=None)

    def execute(self, statement: str, *values: int) -> None:
        """Run a statement with these values."""
        self._anchor.execute(statement, values)

    def close(self) -> None:
        """Drop the database."""
        self.engine.dispose()
        self._anchor.close()


@cache
def _template() -> MemoryDatabase:
    """Return a database with the tables. It is made once per process."""
    made = MemoryDatabase(prepared=False)
    database = Database(DatabaseSettings(1, made.engine))
    database.upgrade()
    database.close()
    made.engine.dispose()
    made.execute("DELETE FROM garivini_database")  # the first user of each copy gives it an id
    return made
