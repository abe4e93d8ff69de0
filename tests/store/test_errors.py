"""What a database in trouble raises: an error of ours that says what to do; and nothing is done."""

import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event

from garivini.databases import DatabaseSettings
from garivini.errors import (
    ConflictError,
    GariviniError,
    OutcomeUnknownError,
    RefusedError,
    SchemaError,
    UnreachableError,
    UsageError,
)
from garivini.model.job import Handle
from garivini.model.new_jobs import new_job
from garivini.store.database import Database
from garivini.store.dialects.sqlite import SQLite
from garivini.store.schema import SCHEMA
from tests.databases import sqlite_url

Opener = Callable[..., Database]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database with its tables."""
    return sqlite_url(tmp_path)


def execute(directory: Path, *statements: str) -> None:
    with closing(sqlite3.connect(directory / "jobs.db", isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


@contextmanager
def on_connect(*statements: str) -> Iterator[None]:
    """Run statements on every connection that is opened meanwhile."""

    def connected(connection: Any, _: object) -> None:
        for statement in statements:
            connection.execute(statement)

    event.listen(Engine, "connect", connected)
    yield
    event.remove(Engine, "connect", connected)


def insert(database: Database) -> None:
    database.insert([new_job("f", b"")])


#: Every call that talks to a database.
CALLS: dict[str, Callable[[Database], object]] = {
    "insert": insert,
    "lanes": lambda database: database.lanes(),
    "settle": lambda database: database.settle([]),
    "complete": lambda database: database.complete([1]),
    "get": lambda database: database.get(1),
    "clock": lambda database: database.clock(),
    "check": lambda database: database.check(),
}


# ---- the schema


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_check_of_a_database_without_tables_says_to_upgrade(
    tmp_path: Path, opened: Opener, call: Callable[[Database], object]
) -> None:
    with pytest.raises(SchemaError, match=r"database 1 \(.*empty.db\) has no tables.*garivini db upgrade"):
        call(opened(f"sqlite:///{tmp_path / 'empty.db'}"))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_check_of_a_newer_schema_says_to_update_the_program(
    tmp_path: Path, url: str, opened: Opener, call: Callable[[Database], object]
) -> None:
    execute(tmp_path, "UPDATE garivini_version SET version_num = '9999'")
    with pytest.raises(SchemaError, match=f"has schema 9999, this code needs {SCHEMA}: update garivini"):
        call(opened(url))


def test_upgrade_of_a_newer_schema_says_to_update_the_program(
    tmp_path: Path, url: str, opened: Opener
) -> None:
    execute(tmp_path, "UPDATE garivini_version SET version_num = '9999'")
    with pytest.raises(SchemaError, match="update garivini"):
        opened(url).upgrade()


@pytest.mark.parametrize(
    ("change", "found"),
    [("UPDATE garivini_version SET version_num = '0000'", "0000"), ("DELETE FROM garivini_version", "none")],
)
def test_check_of_an_older_schema_says_to_upgrade(
    tmp_path: Path, url: str, opened: Opener, change: str, found: str
) -> None:
    execute(tmp_path, change)
    with pytest.raises(SchemaError, match=rf"has schema {found}, .*run `garivini db upgrade`"):
        insert(opened(url))


def test_calls_report_a_missing_table_as_an_error_of_the_schema(
    tmp_path: Path, url: str, opened: Opener
) -> None:
    database = opened(url)
    insert(database)
    execute(tmp_path, "DROP TABLE job")
    with pytest.raises(SchemaError, match="no tables of this version"):
        insert(database)


def test_upgrade_that_is_there_already_changes_nothing(url: str, opened: Opener) -> None:
    database = opened(url)
    insert(database)
    database.upgrade()
    assert len(database.jobs()) == 1


@pytest.mark.parametrize("own", [False, True], ids=["url", "engine"])
def test_upgrade_that_fails_half_way_leaves_nothing_and_can_be_repeated(
    tmp_path: Path, opened: Opener, own: bool
) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    engine = create_engine(url)
    # In the way of the last table.
    execute(tmp_path, "CREATE TABLE garivini_database (x)")
    database = opened(engine if own else url)
    with pytest.raises(RefusedError, match="garivini_database already exists"):
        database.upgrade()
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert tables == {"garivini_database"}
    execute(tmp_path, "DROP TABLE garivini_database")
    database.upgrade()
    insert(database)
    engine.dispose()


# ---- which database


def test_check_by_the_first_user_gives_a_database_its_id(url: str, opened: Opener) -> None:
    insert(opened(url, 7))
    with pytest.raises(SchemaError, match=r"database 1 \(.*\) calls itself database 7"):
        insert(opened(url, 1))


def test_calls_refuse_swapped_databases_before_anything_is_deleted(tmp_path: Path, opened: Opener) -> None:
    urls = [sqlite_url(tmp_path, "a.db"), sqlite_url(tmp_path, "b.db")]
    for dbid, right in enumerate(urls, 1):
        insert(opened(right, dbid))
    for dbid, wrong in enumerate(reversed(urls), 1):
        with pytest.raises(SchemaError, match="list of databases in another order"):
            opened(wrong, dbid).complete([1])
    assert [len(opened(right, dbid).jobs()) for dbid, right in enumerate(urls, 1)] == [1, 1]


# ---- the file


def test_calls_report_a_missing_folder_as_unreachable(tmp_path: Path, opened: Opener) -> None:
    database = opened(f"sqlite:///{tmp_path / 'none' / 'jobs.db'}")
    with pytest.raises(UnreachableError, match="check that its folder exists"):
        insert(database)
    with pytest.raises(UnreachableError, match="check that its folder exists"):
        database.upgrade()


@pytest.mark.parametrize("call", [insert, Database.upgrade, Database.check])
def test_calls_refuse_a_file_that_is_no_database(
    tmp_path: Path, opened: Opener, call: Callable[[Database], object]
) -> None:
    path = tmp_path / "jobs.db"
    path.write_bytes(b"Dear diary, " * 1000)
    with pytest.raises(RefusedError, match="not a sound SQLite database"):
        call(opened(f"sqlite:///{path}"))
    assert path.read_bytes() == b"Dear diary, " * 1000


def test_calls_refuse_a_damaged_database(tmp_path: Path, url: str, opened: Opener) -> None:
    path = tmp_path / "jobs.db"
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with pytest.raises(RefusedError, match="not a sound SQLite database"):
        insert(opened(url))


@pytest.mark.parametrize("call", [insert, lambda database: database.complete([1])])
def test_insert_into_a_read_only_database_is_refused(
    tmp_path: Path, url: str, opened: Opener, call: Callable[[Database], object]
) -> None:
    insert(opened(url))
    with on_connect("PRAGMA query_only = ON"):
        database = opened(url)
        assert len(database.jobs()) == 1
        with pytest.raises(RefusedError, match="read-only; check the permissions"):
            call(database)
        assert len(database.jobs()) == 1


def test_insert_into_a_file_opened_read_only_is_refused(tmp_path: Path, url: str, opened: Opener) -> None:
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as keeps_the_log_in_place:
        insert(opened(url))
        keeps_the_log_in_place.execute("SELECT count(*) FROM job")
        database = opened(f"sqlite:///file:{tmp_path / 'jobs.db'}?mode=ro&uri=true")
        with pytest.raises(RefusedError, match="read-only"):
            insert(database)


def test_insert_on_a_full_disk_is_refused_and_goes_on_when_there_is_room(url: str, opened: Opener) -> None:
    insert(opened(url))
    with on_connect("PRAGMA max_page_count = 30"):
        database = opened(url)
        with pytest.raises(RefusedError, match="the disk is full; make room"):
            database.insert([new_job("f", bytes(1000)) for _ in range(500)])
        assert len(database.jobs()) == 1
        insert(database)
    assert len(database.jobs()) == 2


# ---- other writers


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SQLite, "busy_timeout", 0.01)


@pytest.fixture
def locked(tmp_path: Path, url: str) -> Iterator[sqlite3.Connection]:
    """Another writer in the midst of a transaction."""
    with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


@pytest.mark.usefixtures("impatient")
def test_insert_behind_a_writer_that_takes_too_long_is_a_conflict(
    url: str, opened: Opener, locked: sqlite3.Connection
) -> None:
    database = opened(url)
    for _ in range(2):
        with pytest.raises(ConflictError, match=r"locked for 0.01 s by another writer"):
            insert(database)
    locked.execute("ROLLBACK")
    insert(database)
    assert len(database.jobs()) == 1


@pytest.mark.usefixtures("impatient")
def test_jobs_does_not_wait_for_a_writer(url: str, opened: Opener, locked: sqlite3.Connection) -> None:
    locked.execute("ROLLBACK")
    database = opened(url)
    insert(database)
    locked.execute("BEGIN IMMEDIATE")
    assert len(database.jobs()) == len(database.lanes().lanes) == 1


@pytest.mark.usefixtures("impatient")
def test_upgrade_during_another_write_is_a_conflict(
    url: str, opened: Opener, locked: sqlite3.Connection
) -> None:
    with pytest.raises(ConflictError):
        opened(url).upgrade()


# ---- what cannot be said to a database


@pytest.mark.parametrize(
    "call",
    [
        lambda database: database.live("\ud800", "k"),
        lambda database: database.jobs(after=2**70),
        lambda database: database.complete([2**70]),
        lambda database: database.renew([Handle(1, 1, 2**70)], lease=60),
    ],
)
def test_insert_refuses_a_value_that_no_column_takes_and_the_connection_goes_on(
    url: str, opened: Opener, call: Callable[[Database], object]
) -> None:
    database = opened(url)
    with pytest.raises(UsageError, match="a value does not fit the database"):
        call(database)
    insert(database)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("jobs.db", "is not a database URL"),
        ("", "is not a database URL"),
        (5, "a database is a URL or an SQLAlchemy Engine, not int"),
        (b"sqlite:///jobs.db", "not bytes"),
        ("oracle://h/job", "oracle is not supported"),
        ("sqlite://", "would be gone with its process"),
        ("sqlite:///:memory:", "would be gone with its process"),
        ("sqlite://h/jobs.db", "cannot be used"),
        ("sqlite+nothing:///jobs.db", "cannot be used"),
        ("sqlite://job:secret@h:port/jobs.db", "is not a database URL"),
        ("job:secret@h/job", "is not a database URL"),
        ("oracle://job:secret@h/job", "not supported"),
        ("sqlite://job:secret@h/jobs.db", "cannot be used"),
    ],
)
def test_database_refuses_another_target_without_telling_its_password(target: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        Database(DatabaseSettings(1, target))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "module", "words"),
    [
        ("mysql://h/d", "pymysql", "pip install 'garivini[mysql]'"),
        ("mariadb://h/d", "pymysql", "pip install 'garivini[mysql]'"),
        ("mysql+mysqldb://h/d", "MySQLdb", "pip install mysqlclient"),
        (
            "mysql+asyncmy://h/d",
            "asyncmy",
            "the driver asyncmy is not used here.*garivini.mysql.*mysqlclient",
        ),
        ("postgresql://h/d", "psycopg", "pip install 'garivini[postgresql]'"),
        ("postgres://h/d", "psycopg", "pip install 'garivini[postgresql]'"),
        (
            "postgresql+psycopg2://h/d",
            "psycopg2",
            "the driver psycopg2 is not used here.*garivini.postgresql",
        ),
    ],
)
def test_database_names_a_missing_driver_and_what_to_install(
    url: str, module: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)  # what Python takes for "cannot be imported"
    with pytest.raises(UsageError, match=words.replace("[", r"\[")):
        Database(DatabaseSettings(1, url))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://h/d?conect_timeout=3", "not known to pymysql: did you mean connect_timeout"),
        ("mysql://h/d?password=a&secret=b", "not known to pymysql; write & in a password as %26"),
        ("postgresql://h/d?sslmod=require", "not known to psycopg: did you mean sslmode"),
        ("sqlite:///jobs.db?timout=3", "not known to sqlite3: did you mean timeout"),
        ("sqlite:///jobs.db?timeout=secret", "a part of it, or one of its parameters"),
        ("mysql://u:p@h@i/d", "more than one @"),
    ],
)
def test_database_refuses_at_once_a_url_that_the_driver_would_refuse(url: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        Database(DatabaseSettings(1, url))
    assert "secret" not in str(caught.value)


def test_upgrade_makes_a_file_that_others_cannot_read_and_leaves_one_as_it_is(
    tmp_path: Path, opened: Opener
) -> None:
    before = os.umask(0o000)
    try:
        for name, url in (("a.db", f"{tmp_path}/a.db"), ("b.db", f"file:{tmp_path}/b.db?uri=true")):
            database = opened(f"sqlite:///{url}")
            database.upgrade()
            insert(database)
            modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob(f"{name}*")}
            assert modes == dict.fromkeys((name, f"{name}-wal", f"{name}-shm"), 0o600)
        (tmp_path / "c.db").touch(0o640)
        opened(f"sqlite:///{tmp_path}/c.db").upgrade()
        assert (tmp_path / "c.db").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_database_refuses_an_engine_of_another_kind() -> None:
    engine = create_engine("sqlite://")
    engine.dialect.name = "other"
    with pytest.raises(UsageError, match="other is not supported"):
        Database(DatabaseSettings(1, engine))


def test_database_does_no_io_at_construction(tmp_path: Path) -> None:
    Database(DatabaseSettings(1, f"sqlite:///{tmp_path / 'none' / 'jobs.db'}"))
    Database(DatabaseSettings(1, f"sqlite:///{tmp_path / 'jobs.db'}"))
    assert list(tmp_path.iterdir()) == []


# ---- the driver's codes


@pytest.mark.parametrize(
    ("code", "committing", "expected"),
    [
        (sqlite3.SQLITE_BUSY, False, ConflictError),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, False, ConflictError),
        (sqlite3.SQLITE_LOCKED, False, ConflictError),
        (sqlite3.SQLITE_FULL, False, RefusedError),
        (sqlite3.SQLITE_FULL, True, RefusedError),
        (sqlite3.SQLITE_READONLY_DBMOVED, False, RefusedError),
        (sqlite3.SQLITE_CANTOPEN, False, UnreachableError),
        (sqlite3.SQLITE_CORRUPT, False, RefusedError),
        (sqlite3.SQLITE_TOOBIG, False, UsageError),
        (sqlite3.SQLITE_IOERR_READ, False, UnreachableError),
        (sqlite3.SQLITE_IOERR_FSYNC, True, OutcomeUnknownError),
        (sqlite3.SQLITE_CONSTRAINT_NOTNULL, False, RefusedError),
        (sqlite3.SQLITE_NOMEM, False, RefusedError),
    ],
)
def test_each_code_of_the_driver_has_its_error(
    code: int, committing: bool, expected: type[GariviniError]
) -> None:
    error = sqlite3.OperationalError("the driver's words")
    error.sqlite_errorcode = code
    translated = SQLite().translate(error, "database 1 (x)", committing=committing)
    assert type(translated) is expected
    assert str(translated).startswith("database 1 (x)")


# ---- a caller's own engine


@pytest.mark.parametrize("level", ["DEFERRED", "IMMEDIATE", None])
def test_calls_leave_the_isolation_level_of_a_callers_engine(
    tmp_path: Path, opened: Opener, level: str | None
) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'jobs.db'}", connect_args={"isolation_level": level})
    database = opened(engine)
    database.upgrade()
    insert(database)
    with pytest.raises(UsageError):
        database.complete([2**70])
    pooled = engine.raw_connection()
    assert pooled.driver_connection is not None
    assert pooled.driver_connection.isolation_level == level
    pooled.close()
    assert len(database.jobs()) == 1
    engine.dispose()


def test_calls_that_fail_leave_no_transaction_open_in_a_callers_connection(url: str, opened: Opener) -> None:
    engine = create_engine(url, pool_reset_on_return=None)
    with pytest.raises(UsageError):
        opened(engine).complete([2**70])
    pooled = engine.raw_connection()
    assert pooled.driver_connection is not None
    assert not pooled.driver_connection.in_transaction
    pooled.close()
    engine.dispose()


def test_close_leaves_a_callers_engine_open(tmp_path: Path, url: str, opened: Opener) -> None:
    opening = []
    engine = create_engine(url)
    event.listen(engine, "connect", lambda *_: opening.append(1))
    database = opened(engine)
    insert(database)
    database.close()
    insert(database)
    assert opening == [1]
    engine.dispose()


def test_close_lets_a_database_go_on(url: str, opened: Opener) -> None:
    database = opened(url)
    insert(database)
    database.close()
    insert(database)
    assert len(database.jobs()) == 2
