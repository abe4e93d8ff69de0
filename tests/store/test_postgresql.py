"""What is PostgreSQL's alone: its faults, its sessions, the connections of callers, the tables' making."""

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from msgspec.structs import replace
from psycopg.rows import dict_row
from sqlalchemy import create_engine, make_url
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from garivini import AsyncClient, Client, Worker
from garivini.cli import cli
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
from garivini.model.job import Handle
from garivini.model.new_jobs import new_job
from garivini.model.outcome import Setback
from garivini.model.state import State
from garivini.store.database import Database, Lane
from garivini.store.dialects import postgresql
from garivini.store.schema import SCHEMA
from tests.databases import PostgreSQLRoles
from tests.processes import PATIENCE
from tests.sql_servers import PostgreSQL
from tests.store.test_errors import CALLS, Opener, insert
from tests.system import system

pytestmark = pytest.mark.servers

#: What a call may take at most where the URL says that two seconds of silence are enough.
BOUND = 8.0


@pytest.fixture
def roles(postgresql_roles: PostgreSQLRoles) -> PostgreSQLRoles:
    postgresql_roles.empty()
    return postgresql_roles


@pytest.fixture
def database(roles: PostgreSQLRoles, opened: Opener) -> Database:
    return opened(roles.runtime)


@pytest.fixture
def own(own_postgresql: PostgreSQL, opened: Opener) -> Database:
    """A database on a server of the test's own, used once, where two seconds of silence are too long."""
    url = own_postgresql.create_database()
    patient = opened(url)
    patient.upgrade()
    insert(patient)
    database = opened(f"{url}?read_timeout=2")
    database.check()
    return database


def with_query(url: str, **query: str) -> str:
    return make_url(url).update_query_dict(query).render_as_string(hide_password=False)


def connect(url: str, **options: Any) -> Any:
    return closing(psycopg.connect(url, **options))


# ---- a server that lets nobody in


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"password": "wrong"}, RefusedError, "check user and password"),
        ({"username": "nobody_of_that_name"}, RefusedError, "check user and password"),
        ({"database": "nothing"}, RefusedError, r'"nothing" does not exist'),
        ({"host": "nowhere.invalid"}, UnreachableError, "nowhere.invalid"),
        ({"port": 1}, UnreachableError, "port 1 "),
        ({"query": {"sslmode": "require"}}, RefusedError, "TLS, which it does not offer"),
        ({"query": {"sslrootcert": "/none", "sslmode": "verify-full"}}, RefusedError, "sslrootcert"),
    ],
    ids=["password", "user", "database", "host", "port", "TLS", "certificate"],
)
def test_calls_report_why_a_user_is_not_let_in_without_the_password(
    roles: PostgreSQLRoles, opened: Opener, change: Any, error: type[GariviniError], words: str
) -> None:
    url = make_url(roles.runtime).set(**change)
    with pytest.raises(error, match=words) as caught:
        insert(opened(url.render_as_string(hide_password=False)))
    assert str(url.password) not in str(caught.value)
    assert "database 1 (postgresql+psycopg://" in str(caught.value)
    assert not caught.value.transient


def test_calls_report_too_many_connections_as_refused(postgresql: PostgreSQL, opened: Opener) -> None:
    with postgresql.database() as url:  # whose user has no session of another test, which may still be ending
        postgresql.execute(f"ALTER ROLE {make_url(url).username} CONNECTION LIMIT 1")
        with connect(url), pytest.raises(RefusedError, match="run fewer processes"):
            insert(opened(url))


# ---- tables and privileges


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_check_of_a_database_without_tables_says_to_upgrade(
    postgresql: PostgreSQL, opened: Opener, call: Callable[[Database], object]
) -> None:
    with (
        postgresql.database() as url,
        pytest.raises(SchemaError, match=r"has no tables.*garivini db upgrade"),
    ):
        call(opened(url))


def test_calls_report_a_missing_table_as_an_error_of_the_schema(
    postgresql: PostgreSQL, opened: Opener
) -> None:
    with postgresql.database() as url:
        database = opened(url)
        database.upgrade()
        insert(database)
        postgresql.execute("ALTER TABLE job RENAME TO jobs", url.rpartition("/")[2])
        with pytest.raises(SchemaError, match="no tables of this version"):
            insert(database)
        database.close()


def test_upgrade_by_the_runtime_role_is_refused(roles: PostgreSQLRoles) -> None:
    with connect(roles.runtime, autocommit=True) as connection:
        for statement in (
            "ALTER TABLE job ADD COLUMN x int",
            "DROP TABLE failure",
            "CREATE TABLE public.x (y int)",
            "UPDATE garivini_version SET version_num = '0'",
            "UPDATE garivini_database SET dbid = 9",
            "TRUNCATE job",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_guide_lets_only_the_owner_create_tables_on_a_server_with_privileges_of_version_13(
    own_postgresql: PostgreSQL,
) -> None:
    for statement in (
        "ALTER SCHEMA public OWNER TO CURRENT_USER",
        "GRANT CREATE, USAGE ON SCHEMA public TO PUBLIC",
    ):
        own_postgresql.execute(statement, "template1")
    with PostgreSQLRoles(own_postgresql) as roles:
        roles.execute("CREATE TABLE public.of_owner (y int)")
        for url in (roles.runtime, roles.viewer):
            with (
                connect(url, autocommit=True) as connection,
                pytest.raises(psycopg.errors.InsufficientPrivilege, match="schema public"),
            ):
                connection.execute("CREATE TABLE public.x (y int)")


def test_upgrade_by_several_at_once_makes_one_schema(postgresql: PostgreSQL, opened: Opener) -> None:
    with postgresql.database() as url:
        databases = [opened(url) for _ in range(4)]
        start = threading.Barrier(4)

        def upgrade(database: Database) -> None:
            start.wait()
            database.upgrade()
            insert(database)

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(upgrade, databases))
        assert len(databases[0].jobs()) == 4
        for database in databases:
            database.close()


def command(*words: str, url: str = "") -> str:
    result = CliRunner().invoke(cli, words, env={"GARIVINI_DB": url or None})
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_makes_the_tables_and_says_so(postgresql: PostgreSQL) -> None:
    with postgresql.database() as url:
        password = str(make_url(url).password)
        before = CliRunner().invoke(cli, ["db", "check"], env={"GARIVINI_DB": url})
        assert isinstance(before.exception, SchemaError)
        said = "".join(command("db", name, url=url) for name in ("upgrade", "upgrade", "check"))
        assert "is ready" in said
        assert f"has schema {SCHEMA}, as it should" in said
        assert password not in said


def test_the_sql_that_is_printed_makes_the_same_tables(postgresql: PostgreSQL, opened: Opener) -> None:
    shapes = []
    for by_hand in (False, True):
        with postgresql.database() as url:
            database = opened(url)
            if by_hand:
                with connect(url, autocommit=True) as connection:
                    connection.execute(command("db", "sql", "postgresql").encode())
                database.check()
            else:
                database.upgrade()
            insert(database)
            name = url.rpartition("/")[2]
            shapes.append(
                postgresql.execute(
                    "SELECT table_name, column_name, data_type, collation_name, column_default, is_nullable"
                    "  FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2",
                    name,
                )
                + postgresql.execute(
                    "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1", name
                )
                + postgresql.execute("SELECT reloptions FROM pg_class WHERE relname = 'job'", name)
            )
            database.close()
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) > 30


def test_upgrade_that_fails_half_way_leaves_nothing_and_can_be_repeated(
    postgresql: PostgreSQL, opened: Opener
) -> None:
    with postgresql.database() as url:
        name = url.rpartition("/")[2]
        with connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE garivini_database (x int)")  # in the way of the last table
            database = opened(url)
            with pytest.raises(RefusedError, match=r'"garivini_database" already exists'):
                database.upgrade()
            assert postgresql.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'public'", name
            ) == [("garivini_database",)]
            connection.execute("DROP TABLE garivini_database")
        database.upgrade()
        insert(database)
        database.close()


# ---- a server that goes


@contextmanager
def within(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


def test_insert_of_much_into_a_frozen_server_ends_in_bounded_time(
    own_postgresql: PostgreSQL, own: Database
) -> None:
    own_postgresql.freeze()
    with within(BOUND), pytest.raises(OutcomeUnknownError, match="no answer for 2 s"):
        own.insert([new_job("f", bytes(16_000_000))])  # more than the sockets hold
    own_postgresql.thaw()
    assert len(own.jobs()) == 1


def test_calls_wait_for_a_statement_that_takes_longer_than_its_first_answer(
    roles: PostgreSQLRoles, opened: Opener
) -> None:
    database = opened(with_query(roles.runtime, read_timeout="2"))
    with database.connections.connection() as connection:
        for _ in range(8):
            assert connection.execute("SELECT pg_sleep(0.3)").fetchall()  # together more than the limit


@pytest.mark.parametrize("runs", ["-1", "soon", "None", "1.5"])
def test_a_number_of_runs_that_is_none_is_refused(runs: str) -> None:
    with pytest.raises(UsageError, match="prepare_threshold"):
        Database(DatabaseSettings(1, f"postgresql://job:secret@h/jobs?prepare_threshold={runs}"))


@pytest.mark.parametrize(("given", "prepared"), [("none", 0), ("3", 3), ("0", 3)])
def test_statements_are_prepared_unless_the_url_says_none(
    roles: PostgreSQLRoles, opened: Opener, given: str, prepared: int
) -> None:
    database = opened(with_query(roles.runtime, prepare_threshold=given))
    for _ in range(5):
        (answer,) = database.insert([new_job("f", b"")])
        assert database.complete([answer.jobid])
    with database.connections.connection() as connection:
        names = connection.execute("SELECT statement FROM pg_prepared_statements").fetchall()
    assert (
        len([text for (text,) in names if text.startswith(("INSERT INTO job", "BEGIN", "DELETE"))])
        == prepared
    )


def test_a_pooler_that_gives_another_session_each_time_is_named(database: Database) -> None:
    for _ in range(7):
        insert(database)
    with database.connections.connection() as connection:
        # In a block, so that the driver does not notice.
        connection.execute("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$")
    with pytest.raises(RefusedError, match="prepare_threshold=none"):
        insert(database)


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "inf", "nan"])
def test_a_limit_that_is_none_is_refused(seconds: str) -> None:
    with pytest.raises(UsageError, match="read_timeout"):
        Database(DatabaseSettings(1, f"postgresql://job:secret@h/jobs?read_timeout={seconds}"))


@pytest.mark.parametrize("given", ["url", "environment"])
def test_settle_stores_any_character_whatever_encoding_is_given(
    roles: PostgreSQLRoles, opened: Opener, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    if given == "environment":
        monkeypatch.setenv("PGCLIENTENCODING", "latin1")
    query = {"client_encoding": "latin1"} if given == "url" else {}
    database = opened(with_query(roles.runtime, **query))
    (stored,) = database.insert([replace(new_job("f", b""), uniqkey="\U0001f600")])
    setback = Setback(handle=Handle(stored.jobid, 1), kind="failed", message="\U0001f600 ü")
    assert database.settle([setback])[0].result == "applied"
    assert [failed.message for failed in database.failures(stored.jobid)] == ["\U0001f600 ü"]
    assert roles.execute("SELECT uniqkey FROM job") == [("\U0001f600",)]


# ---- others in the way


def test_calls_that_wait_too_long_for_a_row_are_a_conflict(roles: PostgreSQLRoles, opened: Opener) -> None:
    database = opened(with_query(roles.runtime, options="-c lock_timeout=50"))
    insert(database)
    (job,) = database.jobs()
    with connect(roles.owner) as other:
        other.execute("SELECT 1 FROM job FOR UPDATE")
        for _ in range(2):
            with pytest.raises(ConflictError, match=r"locked for .* by another transaction"):
                database.complete([job.jobid])
        other.rollback()
    assert database.complete([job.jobid]) == {job.jobid}


def test_claim_passes_over_what_another_holds(roles: PostgreSQLRoles, database: Database) -> None:
    first, second = database.insert([new_job("f", b"") for _ in range(2)])
    lane = Lane("f", State.WAITING, "normal", 0)
    with connect(roles.owner) as other:
        other.execute(f"SELECT 1 FROM job WHERE jobid = {first.jobid} FOR UPDATE".encode())
        assert [job.jobid for job in database.claim(lane, limit=10, lease=60)] == [second.jobid]
        other.rollback()  # to close it would end this too, but only when the server comes to it
    assert [job.jobid for job in database.claim(lane, limit=10, lease=60)] == [first.jobid]


def test_the_loser_of_a_deadlock_tries_again(
    request: pytest.FixtureRequest, roles: PostgreSQLRoles, opened: Opener
) -> None:
    postgresql_server: PostgreSQL = request.getfixturevalue("postgresql")
    database = opened(with_query(roles.runtime, options="-c lock_timeout=0"))
    first, second = (answer.jobid for answer in database.insert([new_job("f", b"") for _ in range(2)]))
    with connect(roles.owner) as other, ThreadPoolExecutor(1) as threads:
        other.execute(f"SELECT 1 FROM job WHERE jobid = {second} FOR UPDATE".encode())
        done = threads.submit(database.complete, [first, second])
        postgresql_server.until_one_waits()
        try:
            other.execute(f"SELECT 1 FROM job WHERE jobid = {first} FOR UPDATE".encode())
            other.rollback()
        except psycopg.errors.DeadlockDetected:
            other.rollback()  # it was this side's turn to give way
        assert done.result(PATIENCE) == {first, second}


def test_insert_of_the_same_keys_in_other_orders_does_not_deadlock(
    roles: PostgreSQLRoles, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, errors = postgresql.PostgreSQL.translate, []

    def translate(self: Any, error: Exception, where: str, *, committing: bool) -> GariviniError:
        errors.append(error)
        return plain(self, error, where, committing=committing)

    monkeypatch.setattr(postgresql.PostgreSQL, "translate", translate)
    keys = [f"k{number}" for number in range(1000)]
    start = threading.Barrier(8)

    def insert_all(number: int) -> list[Inserted]:
        # Only a deadlock ends a wait.
        database = opened(with_query(roles.runtime, options="-c lock_timeout=0"))
        database.check()
        jobs = [new_job("f", b"", uniqkey=key) for key in keys]
        order = random.Random(number).sample(range(len(jobs)), len(jobs))
        start.wait()
        answers = database.insert([jobs[index] for index in order])
        return [answer for _, answer in sorted(zip(order, answers, strict=True))]

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(insert_all, range(8)))
    for of_one_key in zip(*found, strict=True):
        assert len({answer.jobid for answer in of_one_key}) == 1
        assert sum(answer.new for answer in of_one_key) == 1
    assert errors == []


def test_a_process_that_is_frozen_within_a_transaction_loses_it(
    roles: PostgreSQLRoles, opened: Opener
) -> None:
    url = with_query(roles.runtime, options="-c idle_in_transaction_session_timeout=100")
    database = opened(url)
    insert(database)

    def frozen() -> None:
        with database.transaction() as work:
            work("due", funcname="f", priority=1, limit=1, small=10)
            other = opened(roles.runtime)
            deadline = time.monotonic() + PATIENCE
            while not other.claim(Lane("f", State.WAITING, "normal", 0), limit=1, lease=60):
                assert time.monotonic() < deadline
            work("functions")

    with pytest.raises(UnreachableError, match="idle-in-transaction"):
        frozen()


# ---- values


@pytest.mark.parametrize(
    "call",
    [
        lambda database: database.live("\ud800", "k"),
        lambda database: database.live("a\0b", "k"),
        lambda database: database.jobs(after=2**70),
        lambda database: database.complete([2**70]),
        lambda database: database.renew([Handle(1, 1, 2**70)], lease=60),
        lambda database: database.insert([replace(new_job("f", b""), funcname="f\0")]),
        lambda database: database.insert([replace(new_job("f", b""), funcname="f" * 201)]),
    ],
)
def test_insert_refuses_a_value_that_no_column_takes_and_the_connection_goes_on(
    database: Database, call: Callable[[Database], object]
) -> None:
    with pytest.raises(UsageError, match=r"does not fit the database|does not take a value"):
        call(database)
    insert(database)
    assert len(database.jobs()) == 1


def test_insert_by_another_writer_cannot_give_an_id(roles: PostgreSQLRoles) -> None:
    with pytest.raises(psycopg.errors.GeneratedAlways):
        roles.execute("INSERT INTO job (jobid, funcname, run_after) VALUES (1, 'f', 0)")


def test_insert_of_a_key_whose_live_job_has_gone_meanwhile_is_new(
    roles: PostgreSQLRoles, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = database.insert([new_job("f", b"", uniqkey="k")])
    plain = database.connections.dialect.insert_keyed
    seen = []

    def insert_keyed(run: Any, rows: Any) -> Any:
        found = plain(run, rows)
        seen.append(len(rows))
        roles.execute("DELETE FROM job WHERE uniqkey = 'k'") if len(seen) == 1 else None
        return found

    monkeypatch.setattr(database.connections.dialect, "insert_keyed", insert_keyed)
    other, again, twice = database.insert([new_job("f", b"", uniqkey=key) for key in ("a", "k", "k")])
    assert seen == [3, 2]
    assert [other.new, again.new, twice.new] == [True, True, False]
    assert again.jobid == twice.jobid != first.jobid


def test_insert_of_a_key_that_comes_and_goes_for_ever_is_a_conflict(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database.connections.dialect, "insert_keyed", lambda run, rows: [])
    with pytest.raises(ConflictError, match="came and went"):
        database.insert([new_job("f", b"", uniqkey="k")])


# ---- sessions


def setting(database: Database, name: str) -> str:
    with database.connections.connection() as connection:
        (value,) = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
    return str(value)


def test_our_sessions_have_their_limits_and_what_the_url_says_wins(
    roles: PostgreSQLRoles, database: Database, opened: Opener
) -> None:
    assert setting(database, "lock_timeout") == "5s"
    assert setting(database, "idle_in_transaction_session_timeout") == "10s"
    assert setting(database, "default_transaction_isolation") == "read committed"
    assert setting(database, "application_name") == "garivini"
    other = opened(with_query(roles.runtime, options="-c lock_timeout=7s", application_name="shop"))
    assert setting(other, "lock_timeout") == "7s"
    assert setting(other, "enable_bitmapscan") == "off"
    assert setting(other, "application_name") == "shop"


@pytest.mark.parametrize(("before", "after"), [("off", "on"), ("local", "local"), ("on", "on")])
def test_what_is_acknowledged_is_on_the_disk_also_where_the_server_would_not_wait(
    roles: PostgreSQLRoles, opened: Opener, before: str, after: str
) -> None:
    database = opened(with_query(roles.runtime, options=f"-c synchronous_commit={before}"))
    assert setting(database, "synchronous_commit") == after


def test_claim_is_read_committed_whatever_the_default(roles: PostgreSQLRoles, opened: Opener) -> None:
    database = opened(with_query(roles.runtime, options="-c default_transaction_isolation=serializable"))
    with database.connections.connection() as connection:
        connection.execute(database.connections.dialect.begin)
        assert connection.execute("SHOW transaction_isolation").fetchone() == ("read committed",)
        connection.execute("ROLLBACK")


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_each_scheme_of_the_url_means_psycopg(roles: PostgreSQLRoles, opened: Opener, scheme: str) -> None:
    database = opened(roles.runtime.replace("postgresql", scheme))
    insert(database)
    assert len(database.jobs()) == 1


def test_database_refuses_another_driver() -> None:
    with pytest.raises(UsageError, match="psycopg here") as caught:
        Database(DatabaseSettings(1, "postgresql+asyncpg://job:secret@h/jobs"))
    assert "secret" not in str(caught.value)


def test_calls_leave_the_autocommit_of_a_callers_engine(roles: PostgreSQLRoles, opened: Opener) -> None:
    engine = create_engine(make_url(roles.runtime).set(drivername="postgresql+psycopg"))
    database = opened(engine)
    insert(database)
    with pytest.raises(UsageError):
        database.complete([2**70])
    pooled = engine.raw_connection()
    driver: Any = pooled.driver_connection
    assert driver.autocommit is False
    assert driver.info.transaction_status.name == "IDLE"
    pooled.close()
    assert len(database.jobs()) == 1
    engine.dispose()


def test_after_a_fork_neither_parent_nor_child_loses_a_commit(database: Database) -> None:
    insert(database)
    child_is_done, tell_parent = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            insert(database)
            status = 0
        finally:
            os.write(tell_parent, b".")
            os._exit(status)
    for _ in range(20):
        insert(database)
    os.read(child_is_done, 1)
    assert os.waitpid(pid, 0)[1] == 0
    insert(database)
    assert len(database.jobs()) == 23
    for descriptor in (child_is_done, tell_parent):
        os.close(descriptor)


# ---- the transaction of a caller


@pytest.fixture
def client(roles: PostgreSQLRoles) -> Iterator[Client]:
    with Client(roles.runtime) as client:
        yield client


def args(client: Client) -> list[bytes]:
    return [job.arg for job in client.list_jobs()]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"row_factory": dict_row},
        {"cursor_factory": psycopg.ClientCursor},
        {"row_factory": dict_row, "cursor_factory": psycopg.ClientCursor},
    ],
    ids=["plain", "mappings", "client cursor", "both"],
)
def test_insert_joins_the_transaction_of_a_psycopg_connection(
    roles: PostgreSQLRoles, client: Client, options: dict[str, Any]
) -> None:
    arg = bytes(range(256))
    with connect(roles.runtime, **options) as connection:
        one, other = client.insert_jobs([["f", "k", None, arg], ["f", None, "c", arg]], connection=connection)
        assert client.insert_job("f", "again", unique="k", connection=connection) == Inserted(
            one.jobid, 1, new=False
        )
        assert client.list_jobs() == []
        connection.commit()
        assert {job.jobid for job in client.list_jobs()} == {one.jobid, other.jobid}
        assert args(client) == [arg, arg]
        client.insert_job("f", "gone", connection=connection)
        connection.rollback()
    assert args(client) == [arg, arg]


def test_insert_joins_the_transaction_of_sqlalchemy(roles: PostgreSQLRoles, client: Client) -> None:
    engine = create_engine(make_url(roles.runtime).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        client.insert_job("f", "connection", connection=connection)
    with engine.connect() as connection:
        client.insert_job("f", "gone", connection=connection)
    with Session(engine) as session:
        client.insert_job("f", "session", connection=session)
        session.commit()
        client.insert_job("f", "gone", connection=session)
        session.rollback()
    assert args(client) == [b"connection", b"session"]
    engine.dispose()


def test_insert_joins_the_transaction_of_an_async_session(roles: PostgreSQLRoles, client: Client) -> None:
    async def main() -> None:
        engine = create_async_engine(make_url(roles.runtime).set(drivername="postgresql+psycopg"))
        async with AsyncClient(roles.runtime) as joined:
            async with AsyncSession(engine) as session:
                await joined.insert_job("f", "session", connection=session)
                await session.commit()
                await joined.insert_job("f", "gone", connection=session)
                await session.rollback()
            async with engine.begin() as connection:
                await joined.insert_job("f", "connection", unique="k", connection=connection)
        await engine.dispose()

    asyncio.run(main())
    assert args(client) == [b"session", b"connection"]


def test_insert_into_a_transaction_that_has_failed_says_so(roles: PostgreSQLRoles, client: Client) -> None:
    with connect(roles.runtime) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1 / 0")
        with pytest.raises(RefusedError, match="roll it back"):
            client.insert_job("f", connection=connection)


# ---- the whole


async def test_jobs_go_all_the_way(roles: PostgreSQLRoles, client: Client, tmp_path: Path) -> None:
    ran = []
    async with system(tmp_path, roles.owner) as queue:
        worker = Worker(client, [queue.address])

        @worker.function("good")
        def good(job: Any) -> None:
            ran.append(job.arg)

        @worker.function("bad")
        def bad(job: Any) -> None:
            raise ValueError("no luck")

        queue.start_worker(worker)
        queue.start_queue_runner()
        first = await queue.call(queue.client.insert_job, "good", "1", unique="k")
        await queue.gone()
        again = await queue.call(queue.client.insert_job, "good", "2", unique="k")
        assert again.new
        assert again.jobid > first.jobid
        await queue.gone()
        failing = await queue.call(queue.client.insert_job, "bad")
        await queue.seen.wait("job.failed")
        row = await queue.call(queue.client.get_job, (failing.jobid, 1))
        assert row is not None
        assert (row.state, row.failcount) == (State.WAITING, 1)
        assert 100 < row.run_after - await queue.call(queue.database.clock) < 140
        (record,) = await queue.call(queue.client.failures, (failing.jobid, 1))
        assert (record.error, record.message) == ("ValueError", "no luck")
    assert ran == [b"1", b"2"]
