"""Faults that came out as a driver's own error, or as one of ours that said something else."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
from sqlalchemy import create_engine, event, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from garivini import AsyncClient, Client
from garivini.databases import DatabaseSettings
from garivini.errors import GariviniError, OutcomeUnknownError, RefusedError, UnreachableError, UsageError
from garivini.model.new_jobs import new_job
from garivini.model.state import State
from garivini.store.database import Database, Lane
from garivini.store.dialects.postgresql import PostgreSQL as Dialect
from tests.databases import MySQLRoles, PostgreSQLRoles, sqlite_url
from tests.sql_servers import ON_MYSQL, MariaDB, PostgreSQL
from tests.store.test_errors import Opener

LANE = Lane("f", State.WAITING, "normal", 0)


# ---- URLs


@pytest.mark.parametrize(
    ("url", "words"),
    [
        *[
            (f"mysql://job:secret@h/jobs?{option}", "write ssl_mode=REQUIRED")
            for option in (
                "ssl=true",
                "ssl=1",
                "tls=true",
                "useSSL=true",
                "sslmode=require",
                "ssl-mode=REQUIRED",
            )
        ],
        *[
            (f"postgresql://job:secret@h/jobs?{option}", "write sslmode=require")
            for option in ("ssl=true", "tls=1", "ssl_mode=REQUIRED", "useSSL=true")
        ],
        ("mysql://job:secret@h/jobs?nonsense=1", "not known to pymysql"),
        ("postgresql://job:secret@h/jobs?nonsense=1", "not known to psycopg"),
        ("sqlite:///jobs.db?nonsense=1", "not known to sqlite3"),
    ],
)
def test_a_url_with_another_programs_option_is_refused_and_names_ours(url: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        Database(DatabaseSettings(1, url))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://job:secret@127.0.0.1:1/jobs?conv=1",
        "postgresql://job:secret@127.0.0.1:1/jobs?sslmode=yes",
        "postgresql://job:secret@127.0.0.1:1/jobs?connect_timeout=soon",
        "postgresql://job:secret@127.0.0.1:1/jobs?target_session_attrs=any-one",
    ],
)
def test_a_value_that_a_driver_cannot_take_is_an_error_of_the_url(url: str, opened: Opener) -> None:
    with pytest.raises(UsageError, match="parameter of its URL") as caught:
        opened(url).jobs()
    assert "secret" not in str(caught.value)


# ---- arguments of calls

WRONG: tuple[Any, ...] = ("1;drop", "10", 1.5, True, -1, 2**70, b"1", [1], None)


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_list_jobs_with_another_limit_is_refused_on_every_database(database: Database, wrong: Any) -> None:
    with pytest.raises(UsageError):
        database.jobs(limit=wrong)
    if wrong != 2**70:  # a claim takes a thousand, whatever the limit
        with pytest.raises(UsageError):
            database.claim(LANE, limit=wrong, lease=60)
    assert database.jobs(limit=0) == []


@pytest.mark.parametrize("wrong", [wrong for wrong in WRONG if wrong != -1], ids=repr)
def test_list_jobs_with_another_start_is_refused_or_empty(database: Database, wrong: Any) -> None:
    database.insert([new_job("f", b"")])
    try:
        assert database.jobs(after=wrong) == []  # MariaDB compares with any number
    except UsageError:
        pass
    else:
        assert wrong == 2**70


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.list_jobs(state="waitin"),
        lambda client: client.list_jobs(state=5),
        lambda client: client.list_jobs(state=b"dead"),
        lambda client: client.list_jobs(funcname=5),
        lambda client: client.list_jobs(funcname=["f"]),
        lambda client: client.list_jobs(limit="1;drop"),
        lambda client: client.list_jobs(after="1 OR 1=1"),
        lambda client: client.failed_jobs(limit="1;drop"),
        lambda client: client.failed_jobs(funcname={"f": 1}),
        lambda client: client.failed_job((1, 1), 5),
        lambda client: client.failed_job((1, 1), b"error"),
        lambda client: client.cancel_job((1, 1), 5),
    ],
)
def test_arguments_of_another_type_are_refused_by_both_clients(
    tmp_path: Path, call: Callable[[Any], Any]
) -> None:
    url = sqlite_url(tmp_path)

    async def call_async() -> None:
        async with AsyncClient(url) as client:
            await call(client)

    with Client(url) as client:
        client.insert_job("f")
        with pytest.raises(UsageError):
            call(client)
        with pytest.raises(UsageError):
            asyncio.run(call_async())
        (job,) = client.list_jobs()
        assert (job.state, job.failcount) == (State.WAITING, 0)


# ---- ids that have run out


@pytest.mark.parametrize(
    ("server", "statements"),
    [
        (
            "",
            [f"UPDATE job SET jobid = {2**63 - 1}", f"UPDATE sqlite_sequence SET seq = {2**63 - 1}"],
        ),
        (
            "mariadb",
            [f"UPDATE job SET jobid = {2**64 - 1}", f"ALTER TABLE job AUTO_INCREMENT = {2**64 - 1}"],
        ),
        (
            "postgresql",
            [f"ALTER SEQUENCE job_jobid_seq RESTART WITH {2**63 - 1}", "SELECT nextval('job_jobid_seq')"],
        ),
    ],
    ids=["sqlite", "mariadb", "postgresql"],
)
def test_insert_without_an_id_left_says_so_and_not_that_the_disk_is_full(
    request: pytest.FixtureRequest, tmp_path: Path, opened: Opener, server: str, statements: list[str]
) -> None:
    with ExitStack() as stack:
        url = sqlite_url(tmp_path)
        if server:
            url = stack.enter_context(request.getfixturevalue(server).database())
        database = opened(url)
        database.upgrade()
        database.insert([new_job("f", b"")])
        with database.transaction() as run:
            for statement in statements:
                run._cursor.execute(statement, ())
        for jobs in ([new_job("f", b"")], [new_job("f", b"")] * 30, [new_job("f", b"", uniqkey="k")]):
            with pytest.raises(RefusedError, match=r"no id left for a new job.*set the counter back"):
                database.insert(jobs)
        database.close()


# ---- PgBouncer


class _Diagnosis:
    def __init__(self, severity: str) -> None:
        self.severity_nonlocalized = severity


@pytest.mark.parametrize(
    ("severity", "committing", "kind"),
    [
        ("ERROR", False, RefusedError),
        ("ERROR", True, RefusedError),
        ("FATAL", False, UnreachableError),
        ("FATAL", True, OutcomeUnknownError),
    ],
)
def test_a_message_that_does_not_fit_a_statement_is_refused_unless_the_session_ended(
    monkeypatch: pytest.MonkeyPatch, severity: str, committing: bool, kind: type[GariviniError]
) -> None:
    error = psycopg.errors.ProtocolViolation(
        "bind message supplies 3 parameters, but prepared statement requires 1"
    )
    monkeypatch.setattr(type(error), "diag", _Diagnosis(severity))
    found = Dialect().translate(error, "database 1", committing=committing)
    assert type(found) is kind
    assert ("prepare_threshold=none" in str(found)) == (kind is RefusedError)


@pytest.mark.servers
def test_a_bind_that_the_server_refuses_is_no_unknown_outcome(
    postgresql_roles: PostgreSQLRoles, opened: Opener
) -> None:
    postgresql_roles.empty()
    database = opened(postgresql_roles.runtime + "?prepare_threshold=0")
    job = [new_job("f", b"")]
    database.insert(job)
    with database.connections.connection() as connection:
        # As behind a pooler: the session has another statement of the name that the driver has prepared.
        names = [name for (name,) in connection.execute("SELECT name FROM pg_prepared_statements").fetchall()]
        for name in names:
            connection.execute(f"DEALLOCATE {name}", prepare=False)
            connection.execute(f"PREPARE {name} AS SELECT 1", prepare=False)
    with pytest.raises(RefusedError, match="prepare_threshold=none"):
        database.insert(job)


# ---- a database that checks no text


@pytest.fixture
def sql_ascii(postgresql: PostgreSQL) -> Iterator[str]:
    with postgresql.database() as url:
        name = url.rpartition("/")[2]
        postgresql.execute(f"DROP DATABASE {name}")
        postgresql.execute(
            f"CREATE DATABASE {name} OWNER {name} ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
            " TEMPLATE template0"
        )
        yield url


@pytest.mark.parametrize("kind", ["url", "engine", "utf8 engine"])
def test_an_sql_ascii_database_keeps_texts_and_shows_or_parks_what_is_no_text(
    sql_ascii: str, postgresql: PostgreSQL, opened: Opener, kind: str
) -> None:
    opened(sql_ascii).upgrade()
    if kind == "engine":
        engine = create_engine(sql_ascii.replace("postgresql:", "postgresql+psycopg:"))
        made: list[psycopg.Connection[Any]] = []

        @event.listens_for(engine, "do_connect")
        def connect(_: object, __: object, arguments: list[Any], named: dict[str, Any]) -> Any:
            made.append(psycopg.connect(*arguments, **named))
            return made[-1]

        with pytest.raises(UsageError, match="client_encoding"):
            opened(engine).jobs()
        engine.dispose()
        for connection in made:
            connection.close()  # SQLAlchemy leaves it open
        return
    target: Any = sql_ascii
    if kind == "utf8 engine":
        target = create_engine(
            sql_ascii.replace("postgresql:", "postgresql+psycopg:"), client_encoding="utf8"
        )
    database = opened(target)
    (first,) = database.insert([new_job("grüße", b"\xff", uniqkey="schlüssel", coalesce="ä")])
    assert not database.insert([new_job("grüße", b"", uniqkey="schlüssel")])[0].new
    name = sql_ascii.rpartition("/")[2]
    for column, value in (("uniqkey", "\\x6be9"), ("funcname", "\\x66e9")):
        columns = {"funcname": "'grüße'", "uniqkey": "NULL"} | {
            column: f"convert_from('{value}'::bytea, 'SQL_ASCII')"
        }
        postgresql.execute(
            "INSERT INTO job (funcname, uniqkey, run_after)"
            f" VALUES ({columns['funcname']}, {columns['uniqkey']}, 1)",
            name,
        )
    lanes = database.lanes()
    (lane,) = lanes.lanes
    assert lane.funcname == "grüße"
    keys = {job.uniqkey for job in database.claim(lane, limit=10, lease=60)}
    assert keys == {"schlüssel", "k\\xe9"}
    ((_, settled),) = database.park_broken(lanes.broken)
    assert settled.state is State.DEAD
    assert not database.lanes().broken
    assert {count.funcname for count in database.counts()} == {"grüße", "f\\xe9"}
    assert database.complete([first.jobid]) == {first.jobid}
    if kind != "url":
        target.dispose()


# ---- callers' connections


def connect(url: str, **options: Any) -> Any:
    parts = make_url(url)
    return closing(
        pymysql.connect(
            host=parts.host or "",
            port=parts.port or 0,
            user=parts.username,
            password=str(parts.password),
            database=parts.database,
            **options,
        )
    )


@pytest.mark.servers
@pytest.mark.parametrize(
    "options",
    [
        {"charset": "latin1"},
        {"charset": "ascii"},
        {"charset": "utf8mb3"},
        {"init_command": "SET NAMES latin1"},
        {"init_command": "SET character_set_connection = latin1"},
        {"init_command": "SET NAMES ascii"},
    ],
)
@pytest.mark.parametrize("field", ["funcname", "uniqkey", "coalesce"])
def test_insert_by_a_connection_that_cannot_carry_a_text_is_refused_and_stores_nothing(
    mysql_roles: MySQLRoles, opened: Opener, options: dict[str, Any], field: str
) -> None:
    mysql_roles.empty()
    database = opened(mysql_roles.runtime)
    with connect(mysql_roles.runtime, **options) as connection:
        for text in ("ключ\U0001f600-1", "ключ\U0001f600-2"):
            job: dict[str, Any] = {"funcname": "f", field: text}
            with pytest.raises(UsageError, match=r"cannot carry"):
                database.insert([new_job("f", b""), new_job(arg=b"", **job)], connection=connection)
        connection.commit()
        assert database.jobs() == []
        database.insert([new_job("f", bytes(range(256)), uniqkey="plain")], connection=connection)
        connection.commit()
    assert [job.arg for job in database.jobs()] == [bytes(range(256))]


@pytest.mark.servers
def test_insert_in_a_lax_session_into_a_column_that_cannot_store_a_text_is_refused(
    mariadb: MariaDB, opened: Opener
) -> None:
    from tests.store.test_mysql_upgrade import ORIGINAL

    with mariadb.database() as url:
        mariadb.execute(ORIGINAL.format(engine="InnoDB", charset="latin1"), url.rpartition("/")[2])
        database = opened(url)
        database.upgrade()
        with connect(url, init_command="SET SESSION sql_mode = 'ANSI_QUOTES'") as connection:
            with pytest.raises(UsageError, match="does not take a value"):
                database.insert([new_job("f", b"", uniqkey="ключ")], connection=connection)
            (answer,) = database.insert([new_job("f", b"", uniqkey="clé")], connection=connection)
            connection.commit()
            with connection.cursor() as cursor:
                cursor.execute("SELECT @@SESSION.sql_mode")
                assert cursor.fetchall() == (("ANSI_QUOTES",),)
        (job,) = database.jobs()
        assert (job.jobid, job.uniqkey) == (answer.jobid, "clé")


@pytest.mark.servers
@pytest.mark.parametrize("charset", ["latin1", "utf8mb4"])
def test_insert_by_an_async_connection_carries_a_text_or_is_refused(
    mysql_roles: MySQLRoles, opened: Opener, charset: str
) -> None:
    mysql_roles.empty()
    database = opened(mysql_roles.runtime)
    database.check()
    url = mysql_roles.runtime.replace("mysql:", "mysql+asyncmy:") + f"?charset={charset}"

    async def insert(key: str) -> bool:
        engine = create_async_engine(url)
        try:
            async with AsyncClient(mysql_roles.runtime) as client, engine.begin() as connection:
                return (await client.insert_job("f", unique=key, connection=connection)).new
        finally:
            await engine.dispose()

    assert asyncio.run(insert("clé"))
    if charset == "latin1":
        with pytest.raises(UsageError, match="cannot carry"):
            asyncio.run(insert("ключ"))
    else:
        assert asyncio.run(insert("ключ"))
    assert [job.uniqkey for job in database.jobs()] == ["clé", "ключ"][: 1 + (charset == "utf8mb4")]


# ---- modes of a server

MODES = (
    *("ANSI_QUOTES", "PIPES_AS_CONCAT", "NO_BACKSLASH_ESCAPES", "TRADITIONAL", "ORACLE", "ANSI"),
    *("NO_AUTO_VALUE_ON_ZERO", "ONLY_FULL_GROUP_BY", "EMPTY_STRING_IS_NULL", "HIGH_NOT_PRECEDENCE"),
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["url", "engine"])
def test_upgrade_and_jobs_work_in_every_sql_mode_of_the_server(
    own_mariadb: MariaDB, opened: Opener, kind: str
) -> None:
    odd: dict[str, Any] = {"funcname": "f'\\", "arg": b"a\\'b\"", "uniqkey": "k\\'\"||"}
    for mode in MODES if not ON_MYSQL else sorted({*MODES} - {"ORACLE", "EMPTY_STRING_IS_NULL"}):
        own_mariadb.execute(f"SET GLOBAL sql_mode = '{mode}'")
        with own_mariadb.database() as url:
            target: Any = url if kind == "url" else create_engine(url.replace("mysql:", "mysql+pymysql:"))
            database = opened(target)
            database.upgrade()
            database.insert([new_job(**odd)])
            with connect(url) as connection:
                assert not database.insert([new_job(**odd)], connection=connection)[0].new
                database.insert([new_job(**odd | {"uniqkey": "k"})], connection=connection)
                connection.commit()
            first, second = database.jobs()
            assert (first.funcname, first.arg, first.uniqkey) == tuple(odd.values()), mode
            assert (second.funcname, second.arg, second.uniqkey) == (odd["funcname"], odd["arg"], "k"), mode
            database.probe()
            assert sum(count.jobs for count in database.counts()) == 2
            database.close()
