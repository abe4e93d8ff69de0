"""The databases of the conformance suite. Another one joins as one more entry of ``BACKENDS``."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol

import pytest
from sqlalchemy import Engine, event

from garivini.databases import DatabaseSettings
from garivini.store.database import Database
from garivini.store.dialects.mysql import MySQL
from garivini.store.dialects.postgresql import PostgreSQL
from garivini.store.dialects.sqlite import SQLite
from garivini.store.sql_files import SqlTemplate, Statement, load
from tests.databases import MySQLRoles, PostgreSQLRoles, sqlite_url
from tests.sql_servers import INSERTS_AS
from tests.sql_servers import MariaDB as MariaDBServer
from tests.sql_servers import PostgreSQL as PostgreSQLServer


class Clock:
    """What the database takes for the time: the real one until it is set."""

    def __init__(self) -> None:
        self._time: float | None = None
        #: Called when it was set, for a database that cannot ask.
        self.changed: Callable[[], None] = lambda: None

    def set(self, unix_time: float) -> None:
        self._time = unix_time
        self.changed()

    def advance(self, seconds: float) -> None:
        assert self._time is not None, "set the clock first"
        self.set(self._time + seconds)

    def time(self) -> float:
        return time.time() if self._time is None else self._time


class Backend(Protocol):
    """One kind of database, as the suite needs it."""

    def __init__(
        self, request: pytest.FixtureRequest, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None: ...

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

    def __init__(self, _: pytest.FixtureRequest, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


class PostgreSQLDatabase:
    """The session's database, emptied; opened as the role that programs have."""

    def __init__(self, request: pytest.FixtureRequest, _: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._roles: PostgreSQLRoles = request.getfixturevalue("postgresql_roles")
        self._roles.empty()
        # No test here cuts the power.
        monkeypatch.setattr(PostgreSQL, "prepare", lambda _, new: new.execute("SET synchronous_commit = off"))

    def open(self) -> Database:
        return Database(DatabaseSettings(1, self._roles.runtime))

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        return self._roles.execute(sql)

    @contextmanager
    def clocked(self, database: Database, clock: Clock) -> Iterator[None]:
        def changed() -> None:
            self.execute("DELETE FROM clock.setting")
            self.execute(f"INSERT INTO clock.setting VALUES (to_timestamp({clock.time()}))")

        clock.changed = changed
        yield
        self.execute("DELETE FROM clock.setting")


class MariaDBDatabase:
    """The session's database, emptied; opened as the role that programs have."""

    #: Whether inserts use RETURNING.
    returning = True

    def __init__(self, request: pytest.FixtureRequest, _: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._roles: MySQLRoles = request.getfixturevalue("mysql_roles")
        self._roles.empty()
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(MySQL, "returns_rows", lambda *_: self.returning)

    def open(self) -> Database:
        return Database(DatabaseSettings(1, self._roles.runtime))

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        return self._roles.execute(sql)

    @contextmanager
    def clocked(self, database: Database, clock: Clock) -> Iterator[None]:
        # This server's own clock ends in 2038; that of others does not.
        def checked_out(connection: Any, *_: object) -> None:
            with connection.cursor() as cursor:
                now = min(clock.time(), 2.0**31 - 1)
                cursor.execute("SET timestamp = %s, @later = %s", (now, int(clock.time() - now)))

        self._monkeypatch.setattr("garivini.store.statements.load", _load_with_later)
        event.listen(database.connections.engine, "checkout", checked_out)
        yield
        event.remove(database.connections.engine, "checkout", checked_out)


class MySQLStatements(MariaDBDatabase):
    """The same with the statements that MySQL takes; MariaDB stands in where no MySQL is chosen."""

    returning = False


@cache
def _load_with_later(
    name: str, placeholder: str, array: Callable[[list[Any]], Any], folding: bool
) -> dict[str, Statement]:
    def later(template: SqlTemplate) -> SqlTemplate:
        parts = [part.replace("UNIX_TIMESTAMP()", "(UNIX_TIMESTAMP() + @later)") for part in template.parts]
        return SqlTemplate((parts[0], parts[1], parts[2]), template.placeholder, template.between)

    return {
        name: replace(statement, templates=tuple(map(later, statement.templates)))
        for name, statement in load(name, placeholder, array, folding).items()
    }


BACKENDS: Final[dict[str, type[Backend]]] = {
    "sqlite": SQLiteFile,
    **({"mariadb": MariaDBDatabase} if "mariadb" in INSERTS_AS else {}),
    "mysql": MySQLStatements,
    "postgresql": PostgreSQLDatabase,
}
_MARKS: Final = {name: pytest.mark.servers for name in BACKENDS if name != "sqlite"}


@pytest.fixture(params=[pytest.param(name, marks=_MARKS.get(name, ())) for name in BACKENDS])
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    return BACKENDS[request.param](request, tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def mysql_roles(mariadb: MariaDBServer) -> Iterator[MySQLRoles]:
    """The session's database with the three users of the guide."""
    with MySQLRoles(mariadb) as roles:
        yield roles


@pytest.fixture(scope="session")
def postgresql_roles(postgresql: PostgreSQLServer) -> Iterator[PostgreSQLRoles]:
    """The session's database with the three roles of the guide."""
    with PostgreSQLRoles(postgresql) as roles:
        yield roles


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


@pytest.fixture
def opened() -> Iterator[Callable[..., Database]]:
    """Opens databases by URL or Engine and closes them after the test."""
    databases = []

    def open_(target: Any, dbid: int = 1) -> Database:
        databases.append(Database(DatabaseSettings(dbid, target)))
        return databases[-1]

    yield open_
    for database in databases:
        database.close()
