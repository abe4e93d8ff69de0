"""The databases of the conformance suite. Another one joins as one more entry of ``BACKENDS``."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import pytest
from sqlalchemy import Engine, event

from garivini.config import DatabaseSettings
from garivini.store.database import Database
from garivini.store.dialects.sqlite import SQLite
from tests.databases import sqlite_url


class Clock:
    """What the database takes for the time: the real one until it is set."""

    def __init__(self) -> None:
        self._time: float | None = None

    def set(self, unix_time: float) -> None:
        self._time = unix_time

    def advance(self, seconds: float) -> None:
        assert self._time is not None, "set the clock first"
        self._time += seconds

    def time(self) -> float:
        return time.time() if self._time is None else self._time


class Backend(Protocol):
    """One kind of database, as the suite needs it."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None: ...

    def open(self) -> Database:
        """Return the test's database, which has the tables and no job."""

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Run plain SQL, as another program would, and commit it."""

    @contextmanager
    def clocked(self, database: Database, clock: Clock) -> Iterator[None]:
        """Let the database follow ``clock``."""
        yield


class SQLiteFile:
    """A file of the test's own."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # No test here cuts the power; waiting for the disk would take most of the time.
        monkeypatch.setattr(SQLite, "prepare", lambda _, new: new.execute("PRAGMA synchronous = OFF"))
        self._path = directory / "jobs.db"
        self._url = sqlite_url(directory)

    def open(self) -> Database:
        return Database(DatabaseSettings(1, self._url))

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            return connection.execute(sql).fetchall()

    @contextmanager
    def clocked(self, database: Database, clock: Clock) -> Iterator[None]:
        def strftime(form: str, moment: str) -> str:
            assert (form, moment) == ("%s", "now")
            return str(int(clock.time()))

        def julianday(moment: str) -> float:
            assert moment == "now"
            return clock.time() / 86400.0 + 2440587.5

        def connected(connection: Any, _: object) -> None:
            connection.create_function("strftime", 2, strftime)
            connection.create_function("julianday", 1, julianday)

        event.listen(Engine, "connect", connected)
        database.close()  # the next connections have the clock
        yield
        event.remove(Engine, "connect", connected)


BACKENDS: Final[dict[str, type[Backend]]] = {"sqlite": SQLiteFile}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    return BACKENDS[request.param](tmp_path, monkeypatch)


@pytest.fixture
def database(backend: Backend) -> Iterator[Database]:
    database = backend.open()
    yield database
    database.close()


@pytest.fixture
def clock(backend: Backend, database: Database) -> Iterator[Clock]:
    """The clock of ``database``."""
    clock = Clock()
    with backend.clocked(database, clock):
        yield clock
