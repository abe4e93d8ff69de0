"""What is MariaDB's and MySQL's alone: faults, sessions, ids, the walk along lanes, callers' connections."""

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pymysql.cursors import DictCursor
from sqlalchemy import create_engine, event, make_url
from sqlalchemy.orm import Session

from garivini import Client, Job, Worker
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
from garivini.model.inserted import Inserted
from garivini.model.job import Handle, NewJob
from garivini.model.limits import NEVER
from garivini.model.new_jobs import new_job
from garivini.model.outcome import Setback
from garivini.model.state import State
from garivini.store import inserts
from garivini.store.database import Database, Lane
from garivini.store.dialects import mysql, mysql_inserts, mysql_lanes
from garivini.store.dialects.mysql import MySQL
from garivini.store.dialects.mysql_errors import translate
from garivini.store.dialects.mysql_inserts import FEW
from garivini.store.dialects.pymysql_connection import Connection
from garivini.store.statements import Statements
from tests.databases import MySQLRoles
from tests.processes import PATIENCE
from tests.sql_servers import INSERTS_AS, OFFERS_TLS, ON_MYSQL, SCHEMES, MariaDB, MariaDBOrMySQL
from tests.store.test_errors import CALLS, Opener, insert
from tests.system import system

pytestmark = pytest.mark.servers

ISOLATION = "transaction_isolation" if ON_MYSQL else "tx_isolation"
NO_TLS = pytest.mark.skipif(OFFERS_TLS, reason="it is about a server without TLS")

LANE = Lane("f", State.WAITING, "normal", 0)


@pytest.fixture
def roles(mysql_roles: MySQLRoles) -> MySQLRoles:
    mysql_roles.empty()
    return mysql_roles


@pytest.fixture(params=INSERTS_AS)
def inserts_as(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server whose statements for inserts are used."""
    monkeypatch.setattr(MySQL, "returns_rows", lambda *_: request.param == "mariadb")
    return str(request.param)


@pytest.fixture
def database(roles: MySQLRoles, opened: Opener) -> Database:
    return opened(roles.runtime)


@pytest.fixture
def own(own_mariadb: MariaDB, opened: Opener) -> Database:
    """A database on a server of the test's own, used once."""
    database = opened(own_mariadb.create_database())
    database.upgrade()
    insert(database)
    return database


def odd(**fields: Any) -> NewJob:
    """Return a job that nothing has checked."""
    plain = {
        "funcname": "f",
        "arg": b"",
        "uniqkey": None,
        "coalesce": None,
        "flag": "shim",
        "priority": "normal",
    }
    return NewJob(**{"delay": 0, **plain, **fields})


@contextmanager
def raw(url: str, **options: Any) -> Iterator[Any]:
    """Connect as a caller does, in a transaction, which is rolled back at the end.

    Closing the connection would end it too, but only when the server comes to it.
    """
    parts = make_url(url)
    with closing(
        pymysql.connect(
            host=parts.host or "",
            port=parts.port or 0,
            user=parts.username,
            password=str(parts.password),
            database=parts.database,
            **options,
        )
    ) as connection:
        yield connection
        if connection.open:
            with suppress(pymysql.err.Error):  # the server may have ended it
                connection.rollback()


def run(connection: Any, sql: str) -> Sequence[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


# ---- a server that lets nobody in


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"password": "wrong"}, RefusedError, "check user and password"),
        ({"username": "nobody_of_that_name"}, RefusedError, "check user and password"),
        ({"database": "nothing"}, RefusedError, "refuses the user this database"),
        ({"port": 1}, UnreachableError, "cannot be reached"),
        pytest.param(
            {"query": {"ssl_mode": "REQUIRED"}}, RefusedError, "asks for TLS, see ssl_mode", marks=NO_TLS
        ),
        ({"query": {"ssl_ca": "/etc/hostname"}}, UsageError, "ssl_ca"),
        ({"query": {"ssl_ca": "/none", "ssl_mode": "VERIFY_IDENTITY"}}, UsageError, "ssl_ca"),
    ],
    ids=["password", "user", "database", "port", "TLS", "certificate", "file"],
)
def test_calls_report_why_a_user_is_not_let_in_without_the_password(
    roles: MySQLRoles, opened: Opener, change: Any, error: type[GariviniError], words: str
) -> None:
    url = make_url(roles.runtime).set(**change)
    with pytest.raises(error, match=words) as caught:
        insert(opened(url.render_as_string(hide_password=False)))
    assert str(url.password) not in str(caught.value)
    assert "database 1 (mysql+pymysql://" in str(caught.value)
    assert not caught.value.transient


def test_connect_gives_the_connection_that_is_quick_with_numbers(
    database: Database,
) -> None:
    with database.connections.connection() as connection:
        assert type(connection) is Connection


def test_calls_report_an_unknown_host_as_unreachable(roles: MySQLRoles, opened: Opener) -> None:
    url = make_url(roles.runtime).set(host="nowhere.invalid")
    with pytest.raises(UnreachableError, match=r"nowhere\.invalid"):
        insert(opened(url.render_as_string(hide_password=False)))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://job:secret@h", "names no database"),
        ("mysql+aiomysql://job:secret@h/jobs", "write mysql://"),
        ("mariadb+mariadbconnector://job:secret@h/jobs", "write mysql://"),
        ("mysql://job:secret@h/jobs?read_timeout=soon", "read_timeout=soon"),
        ("mysql://job:secret@h/jobs?connect_timeout=0", "connect_timeout=0"),
        ("mysql://job:secret@h/jobs?ssl_mode=required", "ssl_mode=required"),
        ("mysql://job:secret@h/jobs?ssl_mode=VERIFY_IDENTITY", "needs ssl_ca"),
    ],
)
def test_database_refuses_a_url_that_cannot_work_without_telling_its_password(url: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        Database(DatabaseSettings(1, url))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["mysql", "mariadb", "mysql+pymysql", "mariadb+pymysql"])
def test_each_name_of_the_scheme_means_the_same(roles: MySQLRoles, opened: Opener, scheme: str) -> None:
    insert(opened(roles.runtime.replace("mysql", scheme, 1)))


@pytest.mark.parametrize(
    ("version", "refused"),
    [
        ("10.5.29-MariaDB", True),
        ("5.5.5-10.5.2-MariaDB-log", True),
        ("10.6.0-MariaDB", False),
        ("5.5.5-10.11.2-MariaDB", False),
        ("11.8.3-MariaDB-ubu2404", False),
        ("5.7.44-log", True),
        ("8.0.16", True),
        ("8.0.17", False),
        ("8.4.3", False),
        ("9.1.0-commercial", False),
    ],
)
def test_check_refuses_a_server_that_is_too_old(version: str, refused: bool) -> None:
    dialect = MySQL()
    if refused:
        with pytest.raises(RefusedError, match=r"is too old: \w+ (10\.6\.0|8\.0\.17) is the first"):
            dialect._meet(_Server(version))
    else:
        dialect._meet(_Server(version))
        assert (dialect._returning > 0) == ("MariaDB" in version)
        assert dialect.statement_bytes < 8 * 1024 * 1024


class _Server:
    """A cursor on a server of some version."""

    def __init__(self, version: str, **variables: str) -> None:
        self._version = version
        self._variables = variables
        self._sql = ""

    def execute(self, sql: str) -> None:
        self._sql = sql

    def fetchall(self) -> list[tuple[Any, ...]]:
        if self._sql == "SELECT VERSION(), @@max_allowed_packet":
            return [(self._version, 16 * 1024 * 1024)]
        assert "wsrep_on" in self._sql
        return list(self._variables.items())


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("8.0.11-TiDB-v8.5.0", "TiDB"),
        ("5.7.25-TiDB-v6.1.0", "TiDB"),
        ("8.0.30-Vitess", "Vitess"),
        ("8.0.23-PlanetScale", "Vitess"),
    ],
)
def test_check_refuses_a_distributed_database_by_name(version: str, name: str) -> None:
    with pytest.raises(
        RefusedError, match=rf"^{name}[\w ()]* is not supported: it does not skip locked rows"
    ):
        MySQL()._meet(_Server(version))


# ---- clusters


@pytest.mark.parametrize(
    ("version", "variables", "clustered", "returning"),
    [
        ("10.11.6-MariaDB", {"wsrep_on": "ON", "wsrep_retry_autocommit": "1"}, True, sys.maxsize),
        ("10.11.6-MariaDB", {"wsrep_on": "OFF", "wsrep_retry_autocommit": "1"}, False, FEW),
        ("10.11.6-MariaDB", {}, False, FEW),
        ("8.0.36-28.1", {"wsrep_on": "ON", "wsrep_retry_autocommit": "1"}, True, 0),
    ],
)
def test_a_node_of_galera_is_recognised_and_counts_no_ids(
    version: str, variables: dict[str, str], clustered: bool, returning: int
) -> None:
    dialect = MySQL()
    dialect._meet(_Server(version, **variables))
    assert (dialect.clustered, dialect._returning) == (clustered, returning)


@pytest.mark.skipif(ON_MYSQL, reason="MySQL has no such variable")
def test_sessions_let_no_node_run_a_statement_again(roles: MySQLRoles, opened: Opener) -> None:
    database = opened(roles.runtime)
    with database.reading() as run:
        run._cursor.execute("SELECT @@SESSION.wsrep_retry_autocommit", ())
        assert run._cursor.fetchall() == ((0,),)
    assert database.nodes() == frozenset()


@pytest.mark.parametrize("returned", [[], [(1, 5), (2, 5)]])
def test_insert_that_returns_other_rows_than_it_stored_is_an_unknown_outcome(
    returned: list[tuple[int, int]],
) -> None:
    def run(name: str, /, rows: Sequence[Mapping[str, Any]] = (), **values: Any) -> Any:
        return returned

    row = {"taken": 0, "delay": 0, "funcname": "f", "uniqkey": "k"}
    for insert_ in (mysql_inserts.insert, mysql_inserts.insert_keyed):
        with pytest.raises(OutcomeUnknownError, match="ran an INSERT again"):
            insert_(run, [dict(row)], mysql_inserts.ServerClock(), returning=FEW)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (3101, "Plugin instructed the server to rollback the current transaction."),
        (1180, "Got error 149 - 'Lock deadlock; Retry transaction' during COMMIT"),
    ],
)
@pytest.mark.parametrize("committing", [True, False])
def test_a_conflict_of_group_replication_is_a_conflict_to_repeat(
    code: int, words: str, committing: bool
) -> None:
    error = pymysql.err.OperationalError(code, words)
    found = translate(error, "database 1", committing=committing)
    assert isinstance(found, ConflictError)
    assert found.transient


# ---- tables and privileges


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_check_of_a_database_without_tables_says_to_upgrade(
    mariadb: MariaDB, opened: Opener, call: Callable[[Database], object]
) -> None:
    with mariadb.database() as url, pytest.raises(SchemaError, match=r"has no tables.*garivini db upgrade"):
        call(opened(url))


def test_calls_report_a_missing_table_or_index_as_an_error_of_the_schema(
    mariadb: MariaDB, opened: Opener
) -> None:
    with mariadb.database() as url:
        database = opened(url)
        database.upgrade()
        insert(database)
        mariadb.execute("DROP INDEX job_lane ON job", url.rpartition("/")[2])
        with pytest.raises(SchemaError, match="no index of this version"):
            database.lanes()
        mariadb.execute("RENAME TABLE job TO jobs", url.rpartition("/")[2])
        with pytest.raises(SchemaError, match="no tables of this version"):
            insert(database)


def test_upgrade_by_the_runtime_role_is_refused(roles: MySQLRoles) -> None:
    with raw(roles.runtime, autocommit=True) as connection:
        for statement in (
            "ALTER TABLE job ADD COLUMN x int",
            "DROP TABLE failure",
            "CREATE TABLE x (y int)",
            "UPDATE garivini_version SET version_num = '0'",
            "UPDATE garivini_database SET dbid = 9",
            "TRUNCATE job",
        ):
            with pytest.raises(pymysql.err.OperationalError, match="denied"):
                run(connection, statement)


# ---- a server that goes


def test_calls_replace_a_lost_connection_of_which_the_driver_does_not_know(
    mariadb: MariaDB, roles: MySQLRoles, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MySQL, "usable", lambda *_: True)  # as mysqlclient's
    monkeypatch.setattr(MySQL, "in_transaction", lambda *_: True)
    insert(database)
    assert mariadb.end_sessions(f"{roles.name}_runtime") >= 1
    insert(database)
    assert len(database.jobs()) == 2


@NO_TLS
def test_a_driver_that_goes_on_without_tls_is_not_believed(database: Database) -> None:
    # MariaDB's C library does so.
    database.connections.dialect._tls = True  # type: ignore[attr-defined]
    with pytest.raises(RefusedError, match="the URL asks for TLS, see ssl_mode"):
        insert(database)


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("mysql+pymysql://other:secret@db/jobs?charset=utf8mb4", True),
        ("mariadb+asyncmy://other@db:3306/jobs", True),
        ("mysql+pymysql://job@db:3307/jobs", False),
        ("mysql+pymysql://job@db2/jobs", False),
        ("mysql+pymysql://job@db/jobs2", False),
        ("postgresql+psycopg://job@db:3306/jobs", False),
    ],
)
def test_place_of_a_database_is_the_same_whoever_connects(url: str, same: bool) -> None:
    assert Database(DatabaseSettings(1, "mysql://job@db/jobs")).is_at(url) is same


# ---- others in the way


def test_calls_that_wait_too_long_for_a_row_are_a_conflict(
    roles: MySQLRoles, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mysql, "LOCK_TIMEOUT", 1)
    database = opened(roles.runtime)
    insert(database)
    (job,) = database.jobs()
    with raw(roles.runtime) as other:
        run(other, "SELECT 1 FROM job FOR UPDATE")
        with pytest.raises(ConflictError, match=r"locked for .* by another transaction"):
            database.complete([job.jobid])
        other.rollback()
    assert database.complete([job.jobid]) == {job.jobid}


def test_claim_passes_over_what_another_holds(roles: MySQLRoles, database: Database) -> None:
    first, second = database.insert([new_job("f", b"") for _ in range(2)])
    with raw(roles.runtime) as other:
        run(other, f"SELECT 1 FROM job WHERE jobid = {first.jobid} FOR UPDATE")
        assert [job.jobid for job in database.claim(LANE, limit=10, lease=60)] == [second.jobid]
    assert [job.jobid for job in database.claim(LANE, limit=10, lease=60)] == [first.jobid]


def test_the_loser_of_a_deadlock_tries_again(
    mariadb: MariaDB, roles: MySQLRoles, database: Database, inserts_as: str
) -> None:
    first, second, *_ = (answer.jobid for answer in database.insert([new_job("f", b"")] * 300))
    with raw(roles.runtime) as other, ThreadPoolExecutor(1) as threads:
        # Who has changed the most wins.
        run(other, f"UPDATE job SET priority = 0 WHERE jobid >= {second}")
        done = threads.submit(database.complete, [first, second])
        mariadb.until_one_waits()
        run(other, f"UPDATE job SET priority = 0 WHERE jobid = {first}")
        other.commit()
        assert done.result(PATIENCE) == {first, second}


def test_insert_of_the_same_keys_by_many_agrees(roles: MySQLRoles, opened: Opener, inserts_as: str) -> None:
    keys = [f"k{number}" for number in range(60)]
    start = threading.Barrier(6)

    def insert_all(number: int) -> list[Inserted]:
        database = opened(roles.runtime)
        jobs = [new_job("f", b"", uniqkey=key) for key in keys]
        order = random.Random(number).sample(range(len(jobs)), len(jobs))
        start.wait()
        answers = database.insert([jobs[index] for index in order])
        return [answer for _, answer in sorted(zip(order, answers, strict=True))]

    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(insert_all, range(6)))
    for of_one_key in zip(*found, strict=True):
        assert len({answer.jobid for answer in of_one_key}) == 1
        assert sum(answer.new for answer in of_one_key) == 1


def test_a_process_that_is_frozen_within_a_transaction_loses_it(
    roles: MySQLRoles, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mysql, "IDLE_TIMEOUT", 1)
    monkeypatch.setattr(mysql, "WAIT_TIMEOUT", 1)
    database = opened(roles.runtime)
    insert(database)
    other = opened(roles.runtime)

    def freeze() -> None:
        with database.transaction() as work:
            assert work("due", funcname="f", priority=1, limit=1, small=10)
            deadline = time.monotonic() + PATIENCE
            while not other.claim(LANE, limit=1, lease=60):
                assert time.monotonic() < deadline
            work("functions")

    with pytest.raises(UnreachableError, match="cannot be reached"):
        freeze()


# ---- sizes and values


@pytest.mark.slow
def test_insert_refuses_more_than_half_a_packet_in_one_job_and_sends_many_in_parts(
    opened: Opener, inserts_as: str
) -> None:
    with MariaDBOrMySQL("max-allowed-packet=1M") as server, server.database() as url:
        database = opened(url)
        database.upgrade()
        with pytest.raises(
            UsageError, match=r"at most 458752 bytes, by its max_allowed_packet; one for f has"
        ):
            database.insert([new_job("f", bytes(458_753))])
        with raw(url) as connection, pytest.raises(UsageError, match="max_allowed_packet"):
            database.insert([new_job("f", bytes(600_000), uniqkey="k")], connection=connection)
        # A quote and a NUL need two bytes each.
        args = [b"'\0" * 229_376, b"\\" * 400_000, *[b"'" * 100_000] * 20]
        answers = database.insert([new_job("f", arg) for arg in args])
        keyed = database.insert([new_job("f", arg, uniqkey=str(n)) for n, arg in enumerate(args)])
        for answer, arg in zip([*answers, *keyed], args * 2, strict=True):
            found = database.get(answer.jobid)
            assert found is not None
            assert found.arg == arg
        database.close()


@pytest.mark.parametrize(
    "call",
    [
        lambda database: database.live("\ud800", "k"),
        lambda database: database.insert([odd(funcname="f" * 201)]),
        lambda database: database.insert([odd(uniqkey="k" * 256)]),
        lambda database: database.insert([odd(delay=2**32)]),
    ],
)
def test_insert_refuses_a_value_that_no_column_takes_and_the_connection_goes_on(
    database: Database, call: Callable[[Database], object]
) -> None:
    with pytest.raises(UsageError, match=r"does not fit the database|does not take a value"):
        call(database)
    insert(database)
    assert len(database.jobs()) == 1


def test_insert_takes_no_other_error_of_a_keyed_row_for_a_duplicate(
    database: Database, inserts_as: str
) -> None:
    jobs = [new_job("f", b"", uniqkey=str(number)) for number in range(5)]
    with pytest.raises(GariviniError, match="coalesce"):
        database.insert([*jobs, odd(uniqkey="k", coalesce="c" * 256)])
    assert database.jobs() == []


# ---- ids


def test_insert_matches_ids_to_jobs_whatever_the_step(
    roles: MySQLRoles, opened: Opener, inserts_as: str
) -> None:
    database = opened(roles.runtime)

    @event.listens_for(database.connections.engine, "connect")
    def connected(connection: Any, _: object) -> None:
        run(connection, "SET SESSION auto_increment_increment = 7, auto_increment_offset = 3")

    jobs = [new_job("f", b"%d" % n, uniqkey=f"k{n}" if n % 3 == 0 else None) for n in range(100)]
    answers = database.insert(jobs)
    for answer, job in zip(answers, jobs, strict=True):
        found = database.get(answer.jobid)
        assert found is not None
        assert found.arg == job.arg
        assert answer.jobid % 7 == 3


def test_insert_matches_ids_to_jobs_if_some_keys_are_taken(database: Database, inserts_as: str) -> None:
    for taken in (0, 7, 8, 63, 99):
        database.insert([new_job("f", b"old", uniqkey=f"k{taken}")])
    jobs = [new_job("f", b"%d" % n, uniqkey=f"k{n}") for n in range(100)]
    for number, answer in enumerate(database.insert([*jobs, jobs[50]])):
        found = database.get(answer.jobid)
        assert found is not None
        old = number in (0, 7, 8, 63, 99)
        assert answer.new is (not old and number < 100)
        assert found.arg == (b"old" if old else b"%d" % (number if number < 100 else 50))


def test_transaction_whose_server_becomes_read_only_before_the_commit_stores_nothing(
    own_mariadb: MariaDB, own: Database
) -> None:
    def insert_and_demote() -> None:
        with own.connections.transaction() as run:
            inserts.insert(run, [new_job("f", b"")], [0])
            own_mariadb.set_read_only(True)

    with pytest.raises(UnreachableError, match="takes no writes") as raised:
        insert_and_demote()
    assert raised.value.read_only
    own_mariadb.set_read_only(False)
    assert len(own.jobs()) == 1  # as before


def test_insert_gives_no_id_again_after_a_restart(own_mariadb: MariaDB, own: Database) -> None:
    (job,) = own.jobs()
    own.complete([job.jobid])
    own_mariadb.restart()
    insert(own)
    assert own.jobs()[0].jobid > job.jobid


# ---- the walk along the lanes


class Index:
    """A lane index in memory, which answers as the statement does."""

    def __init__(self) -> None:
        self.rows: set[tuple[str, int, int, int]] = set()
        self.statements = 0

    def __call__(self, name: str, /, rows: Sequence[Mapping[str, Any]] = (), **values: Any) -> Any:
        assert name == "lanes"
        assert 0 < len(rows) <= mysql_lanes.DIVES
        self.statements += 1
        found = []
        for row in rows:
            place = (row["funcname"], row["state"], row["priority"], row["run_after"])
            found += [(*following, 5.0) for following in sorted(self.rows) if following > place][:1]
        return found

    def lanes(self) -> dict[tuple[str, int, int], int]:
        found: dict[tuple[str, int, int], int] = {}
        for funcname, state, priority, run_after in sorted(self.rows, reverse=True):
            if state < State.DEAD and run_after != NEVER:
                found[funcname, state, priority] = run_after
        return found


@pytest.mark.parametrize("seed", range(20))
def test_lanes_are_all_found_whatever_has_changed_since_the_last_walk(seed: int) -> None:
    chance = random.Random(seed)
    index, dialect = Index(), MySQL()
    for _ in range(40):
        for _ in range(chance.randrange(8)):
            index.rows.add(
                (
                    chance.choice("abcdef"),
                    chance.randrange(5),
                    chance.randrange(3),
                    chance.choice((1, 2, NEVER, NEVER + 1)),
                )
            )
        for row in chance.sample(sorted(index.rows), len(index.rows) // chance.choice((3, 5, 10))):
            index.rows.discard(row)
        found = dialect.lanes(index)
        assert {lane[:3]: lane[3] for lane in found} == index.lanes()
        assert [lane[2:4] for lane in found] == sorted(lane[2:4] for lane in found)


def test_lanes_are_found_by_one_statement_if_nothing_new_has_come() -> None:
    index, dialect = Index(), MySQL()
    index.rows = {(name, state, 1, 9) for name in "abcde" for state in range(5)}
    dialect.lanes(index)
    assert index.statements == 26
    dialect.lanes(index)
    assert index.statements == 27
    index.rows.add(("c", 1, 2, 3))
    dialect.lanes(index)
    assert index.statements == 29
    index.rows = {row for row in index.rows if row[0] != "d"}
    dialect.lanes(index)
    assert index.statements == 30


def test_lanes_are_found_by_statements_of_bounded_size() -> None:
    index, dialect = Index(), MySQL()
    index.rows = {(f"f{number}", 0, 1, 9) for number in range(1000)}
    assert len(dialect.lanes(index)) == 1000
    index.statements = 0
    assert len(dialect.lanes(index)) == 1000
    assert index.statements == 11


# ---- sessions


def setting(connection: Any, name: str) -> Any:
    ((value,),) = run(connection, f"SELECT @@SESSION.{name}")
    return value


def test_our_sessions_have_their_limits(database: Database) -> None:
    with database.connections.connection() as connection:
        assert setting(connection, ISOLATION) == "READ-COMMITTED"
        assert "STRICT_ALL_TABLES" in setting(connection, "sql_mode")
        assert setting(connection, "innodb_lock_wait_timeout") == 5
        assert setting(connection, "lock_wait_timeout") == 5
        limit = ("wait_timeout", 60) if ON_MYSQL else ("idle_transaction_timeout", 10)
        assert setting(connection, limit[0]) == limit[1]
        assert setting(connection, "autocommit") == 1
        assert setting(connection, "character_set_client") == "utf8mb4"


@pytest.mark.parametrize(
    "query",
    [
        "charset=utf8",
        "charset=latin1",
        "charset=utf8&collation=utf8_general_ci",
        "use_unicode=0",
        "init_command=SET%20NAMES%20latin1",
    ],
)
def test_settle_stores_any_character_whatever_the_url_says(
    roles: MySQLRoles, opened: Opener, query: str
) -> None:
    database = opened(f"{roles.runtime}?{query}")
    stored = database.insert([odd(uniqkey="\U0001f600")])[0]
    setback = Setback(handle=Handle(stored.jobid, 1), kind="failed", message="\U0001f600 ü")
    assert database.settle([setback])[0].result == "applied"
    assert [failed.message for failed in database.failures(stored.jobid)] == ["\U0001f600 ü"]
    assert roles.execute("SELECT HEX(uniqkey) FROM job") == [("F09F9880",)]


@pytest.mark.parametrize("autocommit", [0, 1])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_calls_leave_the_settings_of_a_callers_engine(
    roles: MySQLRoles, opened: Opener, autocommit: int, scheme: str
) -> None:
    engine = create_engine(roles.runtime.replace("mysql", scheme, 1), pool_size=1)

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: object) -> None:
        run(connection, f"SET SESSION sql_mode = 'ANSI_QUOTES', autocommit = {autocommit}")

    database = opened(engine)
    insert(database)
    with pytest.raises(UsageError):
        database.insert([odd(funcname="f" * 201)])
    pooled = engine.raw_connection()
    assert setting(pooled, ISOLATION) == "REPEATABLE-READ"
    assert setting(pooled, "sql_mode") == "ANSI_QUOTES"
    assert setting(pooled, "autocommit") == autocommit
    pooled.close()
    assert [job.funcname for job in database.jobs()] == ["f"]
    engine.dispose()


# ---- a caller's transaction


@pytest.mark.parametrize("kind", ["pymysql", "mappings", "connection", "session"])
@pytest.mark.parametrize("commit", [False, True])
def test_insert_is_part_of_a_callers_transaction(
    roles: MySQLRoles, database: Database, kind: str, commit: bool, inserts_as: str
) -> None:
    (live,) = database.insert([new_job("f", b"", uniqkey="live")])
    jobs = [
        new_job("f", b"1"),
        new_job("f", b"2", uniqkey="live"),
        new_job("f", b"3", uniqkey="new"),
        new_job("f", b"4", uniqkey="new"),
    ]
    engine = create_engine(roles.runtime.replace("mysql", "mysql+pymysql", 1))
    if kind in ("pymysql", "mappings"):
        options = {"cursorclass": DictCursor} if kind == "mappings" else {}
        with raw(roles.runtime, **options) as connection:
            answers = database.insert(jobs, connection=connection)
            assert len(database.jobs()) == 1
            connection.commit() if commit else connection.rollback()
    else:
        with engine.connect() if kind == "connection" else Session(engine) as connection:
            answers = database.insert(jobs, connection=connection)
            assert len(database.jobs()) == 1
            connection.commit() if commit else connection.rollback()
    engine.dispose()
    assert [answer.new for answer in answers] == [True, False, True, False]
    assert answers[1].jobid == live.jobid
    assert answers[3].jobid == answers[2].jobid
    assert len(database.jobs()) == (3 if commit else 1)


def test_insert_of_a_key_that_came_after_the_callers_snapshot_answers_its_job(
    roles: MySQLRoles, database: Database, inserts_as: str
) -> None:
    with raw(roles.runtime) as connection:
        assert run(connection, "SELECT jobid FROM job") == []  # its snapshot, at REPEATABLE READ
        (live,) = database.insert([new_job("f", b"", uniqkey="k")])
        assert run(connection, "SELECT jobid FROM job") == []
        (answer,) = database.insert([new_job("f", b"", uniqkey="k")], connection=connection)
        assert answer == Inserted(live.jobid, 1, new=False)
        connection.commit()


def test_insert_by_a_connection_to_another_kind_of_database_is_refused(database: Database) -> None:
    engine = create_engine("sqlite://")
    with engine.connect() as connection, pytest.raises(UsageError, match="is not one to database 1"):
        database.insert([new_job("f", b"")], connection=connection)
    engine.dispose()


# ---- the whole


async def test_jobs_go_all_the_way(roles: MySQLRoles, tmp_path: Path, inserts_as: str) -> None:
    ran: list[bytes] = []
    async with system(tmp_path, roles.runtime) as queue:

        @queue.worker.function("good")
        def good(job: Job) -> None:
            ran.append(job.arg)

        @queue.worker.function("bad")
        async def bad(job: Job) -> None:
            raise ValueError("no luck")

        queue.start_worker()
        queue.start_queue_runner()
        first = await queue.call(queue.client.insert_job, "good", "1", unique="k")
        await queue.gone()
        again = await queue.call(queue.client.insert_job, "good", "2", unique="k")
        assert again.new
        assert again.jobid > first.jobid
        await queue.gone()
        failing = await queue.call(queue.client.insert_job, "bad", unique="k")
        await queue.seen.wait("job.failed")
        twice = await queue.call(queue.client.insert_job, "bad", unique="k")
        assert (twice.new, twice.jobid) == (False, failing.jobid)
        row = await queue.call(queue.client.get_job, failing)
        assert row is not None
        assert (row.state, row.failcount) == (State.WAITING, 1)
        assert 100 < row.run_after - await queue.call(queue.database.clock) < 140
        (record,) = await queue.call(queue.database.failures, failing.jobid)
        assert (record.error, record.message) == ("ValueError", "no luck")
        await queue.call(queue.client.insert_jobs, [["good", None, None, b"%d" % n] for n in range(500)])
        await queue.gone(1)
    assert ran[:2] == [b"1", b"2"]
    assert sorted(ran[2:]) == sorted(b"%d" % n for n in range(500))


@pytest.mark.parametrize("inserts_as", ["mariadb"], indirect=True)
async def test_several_queue_runners_and_workers_run_each_job_once(
    roles: MySQLRoles, tmp_path: Path, inserts_as: str
) -> None:
    ran: list[int] = []
    async with system(tmp_path, roles.runtime) as queue:
        for _ in range(3):
            worker = Worker(Client(roles.runtime), [queue.address])
            worker.function("f")(lambda job: ran.append(job.jobid))
            queue.start_worker(worker)
        for _ in range(3):
            queue.start_queue_runner()
        jobids = set()
        for _ in range(10):
            answers = await queue.call(queue.client.insert_jobs, [["f", None, None, b""]] * 200)
            jobids |= {answer.jobid for answer in answers}
        await queue.gone()
    assert sorted(ran) == sorted(jobids)


# ---- the driver's codes


@pytest.mark.parametrize(("committing", "expected"), [(False, UnreachableError), (True, OutcomeUnknownError)])
def test_a_lost_connection_with_tls_is_lost_and_not_refused(
    committing: bool, expected: type[GariviniError]
) -> None:
    words = "MySQL server has gone away (SSLEOFError(8, 'EOF occurred in violation of protocol'))"
    error = pymysql.err.OperationalError(2006, words)
    assert type(MySQL().translate(error, "database 1 (x)", committing=committing)) is expected


@pytest.mark.parametrize(
    ("code", "committing", "expected", "transient"),
    [
        (1213, False, ConflictError, True),
        (1213, True, ConflictError, True),
        (1020, False, ConflictError, True),
        (1205, False, ConflictError, False),
        (1047, False, UnreachableError, False),
        (1047, True, OutcomeUnknownError, False),
        (3100, True, OutcomeUnknownError, False),
        (3032, False, UnreachableError, False),
        (1290, False, UnreachableError, False),
        (1290, True, UnreachableError, False),
        (1792, False, UnreachableError, False),
        (1836, True, UnreachableError, False),
        (1114, False, RefusedError, False),
        (1153, False, UsageError, False),
        (2006, False, UnreachableError, False),
        (2013, True, OutcomeUnknownError, False),
        (1053, True, OutcomeUnknownError, False),
        (1927, True, OutcomeUnknownError, False),
        (4031, False, UnreachableError, False),
        (1062, False, RefusedError, False),
        (9999, False, RefusedError, False),
    ],
)
def test_each_code_of_the_driver_has_its_error(
    code: int, committing: bool, expected: type[GariviniError], transient: bool
) -> None:
    error = pymysql.err.OperationalError(code, "the driver's words")
    translated = MySQL().translate(error, "database 1 (x)", committing=committing)
    assert type(translated) is expected
    assert translated.transient is transient
    assert str(translated).startswith("database 1 (x)")
    assert "the driver's words" in str(translated)


def test_settle_twice_records_a_failure_once(database: Database) -> None:
    insert(database)
    (taken,) = database.claim(LANE, limit=1, lease=60)
    for _ in range(2):
        database.settle([Setback(handle=Handle(taken.jobid, 1), kind="crashed", message="m")])
    assert len(database.failures(taken.jobid)) == 1


# ---- the time of an insert without RETURNING


@pytest.mark.parametrize("key", [None, "k"])
def test_insert_of_one_job_reads_the_time_only_if_the_estimate_is_wrong(
    database: Database, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    at = 1_800_000_000
    monkeypatch.setattr(MySQL, "returns_rows", lambda *_: False)
    monkeypatch.setattr(mysql_inserts.ServerClock, "estimate", lambda _: at)
    ran: list[str] = []
    run = Statements.__call__

    def noted(self: Statements, name: str, /, *arguments: Any, **values: Any) -> Any:
        ran.append(name)
        return run(self, name, *arguments, **values)

    monkeypatch.setattr(Statements, "__call__", noted)
    database.check()
    database.functions()  # which has the rules of keys
    for now, statements in ((at, ["_at"]), (at + 5, ["_at", "clock", ""])):
        with database.connections.connection() as connection, closing(connection.cursor()) as cursor:
            cursor.execute("SET timestamp = %s", (now,))
        ran.clear()
        (answer,) = database.insert([new_job("f", b"x", uniqkey=key, delay=3)])
        insert_name = "insert" if key is None else "insert_keyed"
        assert ran == [end if end == "clock" else insert_name + end for end in statements]
        job = database.get(answer.jobid)
        assert job is not None
        assert (answer.created, job.created) == (now, now)
        assert now + 3 <= job.run_after <= now + 4
        database.complete([answer.jobid])


def test_a_servers_clock_is_estimated_from_when_it_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = mysql_inserts.ServerClock()
    assert clock.estimate() is None
    assert clock.read(lambda *_, **__: [(1000.5, 2)]) == (1000.5, 2)
    estimates = []
    for now in (10.4, 10.6, 12.6):  # noqa: B007 - it is what monotonic returns
        estimates.append(clock.estimate())
    assert estimates == [1000, 1001, 1003]
