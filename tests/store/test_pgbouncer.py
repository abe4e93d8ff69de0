"""PostgreSQL through a real PgBouncer, which gives each transaction any of its sessions."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from sqlalchemy import make_url

from garivini.cli.bench import bare
from garivini.databases import DatabaseSettings
from garivini.errors import ConflictError, RefusedError, UnreachableError
from garivini.model.job import Handle
from garivini.model.new_jobs import new_job
from garivini.model.outcome import Setback
from garivini.model.state import State
from garivini.store.database import Database, Lane
from garivini.store.dialects.postgresql_sessions import SETTINGS, begin_with, parse_options, startup_options
from tests.poolers import pgbouncer
from tests.sql_servers import PostgreSQL
from tests.system import system, upgraded

Opener = Callable[..., Database]

#: What each transaction of ours must run with.
OURS: Final = {
    "enable_bitmapscan": "off",
    "enable_seqscan": "off",
    "idle_in_transaction_session_timeout": "10s",
    "jit": "off",
    "lock_timeout": "5s",
    "synchronous_commit": "on",
    "transaction_isolation": "read committed",
}
#: Settings that PgBouncer keeps per client.
_TRACKED: Final = "('DateStyle', 'IntervalStyle', 'TimeZone', 'application_name', 'client_encoding')"


@pytest.fixture
def direct(postgresql: PostgreSQL) -> Iterator[str]:
    """The URL of a database with tables, whose user's settings are those that we change."""
    with postgresql.database() as url:
        upgraded(url).close()
        user = make_url(url).username
        for name, value in {
            "synchronous_commit": "off",
            "default_transaction_isolation": "serializable",
            "lock_timeout": "0",
            "jit": "on",
        }.items():
            postgresql.execute(f"ALTER ROLE {user} SET {name} = '{value}'")
        yield url


def work(database: Database) -> None:
    """Do what clients, QueueRunners and workers do."""
    (one,) = database.insert([new_job("f", b"one")])
    keyed = database.insert([new_job("f", b"", uniqkey=f"k{number}") for number in range(3)])
    many = database.insert([new_job("f", b"many")] * 30)
    (lane,) = database.lanes().lanes
    jobs = database.claim(lane, limit=100, lease=60)
    assert {job.jobid for job in jobs} == {answer.jobid for answer in (one, *keyed, *many)}
    handles = [Handle(job.jobid, 1, job.attempt) for job in jobs]
    database.renew(handles, lease=60)
    database.settle([Setback(handle=handles[0], kind="discarded", message="é")])
    assert database.complete([job.jobid for job in jobs]) == {job.jobid for job in jobs}
    assert database.counts() == []


def sessions(through: str) -> dict[int, list[str]]:
    """Return the settings and prepared statements that some sessions of the pool have kept."""
    query = f"""
        SELECT pg_backend_pid(), name FROM pg_settings WHERE source = 'session' AND name NOT IN {_TRACKED}
        UNION ALL SELECT pg_backend_pid(), statement FROM pg_prepared_statements
        UNION ALL SELECT pg_backend_pid(), ''
    """
    found: dict[int, list[str]] = {}
    with psycopg.connect(through, autocommit=True) as connection:
        for process, name in connection.execute(query.encode()).fetchall():
            found.setdefault(process, []).extend([name] if name else [])
    return found


# ---- options


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("-c lock_timeout=2s", {"lock_timeout": "2s"}),
        (r"-cSearch_Path=a,\ b  --jit=on", {"search_path": "a, b", "jit": "on"}),
        (r"-c work-mem=1MB -c x.y=\\ -d 5 -c", {"work_mem": "1MB", "x.y": "\\"}),
    ],
)
def test_parse_options_returns_the_settings_that_a_server_would_make(
    text: str, found: dict[str, str]
) -> None:
    assert parse_options(text) == found


def test_startup_options_are_our_settings_and_then_those_of_the_url() -> None:
    assert parse_options(startup_options("")) == SETTINGS
    assert parse_options(startup_options("-c jit=on")) == {**SETTINGS, "jit": "on"}


def test_begin_with_quotes_each_value(postgresql: PostgreSQL) -> None:
    odd = {"search_path": """o'brien, "b\\c" """, "garivini.odd": "a\\'b"}
    with psycopg.connect(f"{postgresql.url}postgres", autocommit=True) as connection:
        for strings in ("on", "off"):
            connection.execute(f"SET standard_conforming_strings = {strings}".encode())
            connection.execute(begin_with(odd, "NULL").encode())
            for name, value in odd.items():
                found = connection.execute("SELECT current_setting(%s)", (name,)).fetchall()
                assert found == [(value,)]
            connection.execute("ROLLBACK")


# ---- through PgBouncer


@pytest.mark.parametrize("ignored", ["", "options"])
def test_pgbouncer_is_recognised_and_nothing_stays_in_its_session(
    direct: str, opened: Opener, ignored: str
) -> None:
    with pgbouncer(direct, default_pool_size=1, ignore_startup_parameters=ignored) as through:
        database = opened(through)
        for _ in range(7):  # from the sixth run on a statement would be prepared
            work(database)
        assert database.connections.dialect.pooled
        assert list(sessions(through).values()) == [[]]
        database.close()


def test_each_transaction_through_pgbouncer_has_our_settings(
    direct: str, opened: Opener, postgresql: PostgreSQL
) -> None:
    name = make_url(direct).database or ""
    names = ", ".join(f"('{setting}')" for setting in OURS)
    for statement in (
        "CREATE TABLE seen (name text, value text)",
        f"""CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
          INSERT INTO seen SELECT n, current_setting(n) FROM (VALUES {names}) AS t (n);
          RETURN NULL; END $$""",
        "CREATE TRIGGER see AFTER INSERT OR UPDATE OR DELETE ON job EXECUTE FUNCTION see()",
    ):
        postgresql.execute(statement, name)
    with pgbouncer(direct, default_pool_size=2) as through:
        database = opened(through)
        threads = [threading.Thread(target=database.insert, args=([new_job("f", b"")],)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        database.complete([job.jobid for job in database.jobs()])
        work(database)
        with database.reading() as run:
            run._cursor.execute(f"SELECT n, current_setting(n) FROM (VALUES {names}) AS t (n)", ())
            assert dict(run._cursor.fetchall()) == OURS
        database.close()
    found = postgresql.execute("SELECT name, value, count(*) FROM seen GROUP BY 1, 2", name)
    assert {setting: value for setting, value, _ in found} == OURS
    assert len(found) == len(OURS)


def test_options_in_the_url_apply_through_pgbouncer(direct: str, opened: Opener) -> None:
    with pgbouncer(direct) as through:
        options = r"-c lock_timeout=70ms --search-path=public,\ other"
        database = opened(make_url(through).update_query_dict({"options": options}).render_as_string(False))
        with database.reading() as run:
            run._cursor.execute("SELECT current_setting('lock_timeout'), current_setting('search_path')", ())
            assert run._cursor.fetchall() == [("70ms", "public, other")]
        (row,) = database.insert([new_job("f", b"")])
        with psycopg.connect(direct) as other, closing(database.with_lock_timeout(0.05)) as quick:
            other.execute("SELECT 1 FROM job WHERE jobid = %s FOR UPDATE", (row.jobid,))
            for waiting in (database, quick):
                with pytest.raises(ConflictError):
                    waiting.complete([row.jobid])
        database.close()


@pytest.mark.parametrize(
    ("settings", "busy", "kind", "words"),
    [
        ({"pool_mode": "statement"}, 0, RefusedError, "set pool_mode = transaction in PgBouncer"),
        ({"max_client_conn": 1}, 1, RefusedError, "raise max_client_conn in PgBouncer"),
        (
            {"default_pool_size": 1, "query_wait_timeout": 1},
            1,
            RefusedError,
            "raise default_pool_size",
        ),
    ],
    ids=["statement mode", "too many clients", "no free connection"],
)
def test_a_refusal_of_pgbouncer_names_its_setting(
    direct: str, opened: Opener, settings: dict[str, Any], busy: int, kind: type[Exception], words: str
) -> None:
    with pgbouncer(direct, **settings) as through:
        database = opened(through)
        others = [psycopg.connect(through) for _ in range(busy)]
        for other in others:
            other.execute("SELECT 1")  # and its transaction stays open
        with pytest.raises(kind, match=words):
            database.jobs()
        for other in others:
            other.close()
        database.close()


def test_a_pgbouncer_that_has_gone_is_a_lost_connection_and_used_again_when_it_is_back(
    direct: str, opened: Opener
) -> None:
    with pgbouncer(direct) as through:
        database = opened(through)
        database.insert([new_job("f", b"")])
    with pytest.raises(UnreachableError):
        database.insert([new_job("f", b"")])
    with pgbouncer(direct, port=make_url(through).port or 0):
        database.insert([new_job("f", b"")])
        assert len(database.jobs()) == 2
        database.close()


def test_a_number_of_runs_in_the_url_prepares_statements_also_through_pgbouncer(
    direct: str, opened: Opener
) -> None:
    with pgbouncer(direct, pool_mode="session") as through:
        database = opened(f"{through}?prepare_threshold=2")
        with database.reading() as run:
            for _ in range(3):
                run("lanes")
            run._cursor.execute("SELECT count(*) FROM pg_prepared_statements", ())
            assert run._cursor.fetchall() == [(1,)]
        database.close()


def test_a_session_without_a_pooler_keeps_its_settings_and_is_not_pooled(direct: str, opened: Opener) -> None:
    database = opened(direct)
    database.insert([new_job("f", b"")])
    assert not database.connections.dialect.pooled
    with database.connections.connection() as connection:
        found = connection.execute("SELECT current_setting('synchronous_commit')").fetchall()
        assert found == [("on",)]


@pytest.mark.parametrize(
    "jobs", [300, pytest.param(30_000, marks=[pytest.mark.soak, pytest.mark.timeout(600)])]
)
async def test_jobs_through_pgbouncer_run_once_each(direct: str, tmp_path: Path, jobs: int) -> None:
    runs: list[int] = []
    with pgbouncer(direct, default_pool_size=3) as through:
        async with system(tmp_path, through) as whole:

            @whole.worker.function("f")
            async def f(job: Any) -> None:
                runs.append(job.jobid)

            answers = []
            for _ in range(0, jobs, 100):
                answers += await whole.call(whole.client.insert_jobs, [("f", None, None, b"")] * 100)
            whole.start_worker()
            whole.start_queue_runner()
            await whole.gone()
        kept = sessions(through)
    assert sorted(runs) == sorted(answer.jobid for answer in answers)
    assert len(runs) == jobs
    assert not any(kept.values())


def round_trips(through: str) -> int:
    """Return how many round trips PgBouncer has forwarded, asked as a user who may use its console."""
    target = make_url(through)
    with psycopg.connect(
        host=target.host, port=target.port, user=target.username, dbname="pgbouncer", autocommit=True
    ) as console:
        cursor = console.execute("SHOW STATS")
        assert cursor.description is not None
        names = [column.name for column in cursor.description]
        found = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    return sum(int(row["total_query_count"]) for row in found if row["database"] == target.database)


def test_transactions_through_pgbouncer_take_the_round_trips_of_direct_ones(
    direct: str, opened: Opener
) -> None:
    """Settings come with BEGIN, then the statements and COMMIT. A single insert or read takes two more."""
    handles: list[Handle] = []

    def claim() -> None:
        handles[:] = [job.handle for job in database.claim(lane, limit=100, lease=60)]
        assert len(handles) == 100

    user = make_url(direct).username
    with pgbouncer(direct, admin_users=user) as through, closing(opened(through)) as database:
        lane = Lane("f", State.WAITING, "normal", 0)
        steps: list[tuple[str, int, Callable[[], object]]] = [
            ("insert", 1 + 2, lambda: database.insert([new_job("f", b"")] * 100)),
            ("claim", 4, claim),
            ("renew", 4, lambda: database.renew(handles, lease=60)),
            ("complete", 4, lambda: database.complete([handle.jobid for handle in handles])),
            ("read", 1 + 2, lambda: database.clock()),
        ]
        for _, _, step in steps:  # what happens once per connection
            step()
        found = []
        for name, _, step in steps:
            before = round_trips(through)
            step()
            found.append((name, round_trips(through) - before))
        assert found == [(name, trips) for name, trips, _ in steps]


def test_the_baseline_of_the_bench_works_through_pgbouncer(direct: str) -> None:
    with pgbouncer(direct) as through:
        with closing(bare.connect(through)) as steps:
            ids = [steps.insert_one(b"") for _ in range(5)]
            assert len(set(ids)) == 5
        assert not any(sessions(through).values())


# ---- others that only speak the protocol


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("CockroachDB CCL v24.1.1 (x86_64-pc-linux-gnu, built 2024/06/01)", "CockroachDB"),
        ("PostgreSQL 15.2-YB-2.25.1.0-b0 on x86_64-pc-linux-gnu", "YugabyteDB"),
    ],
)
def test_a_distributed_database_is_refused_by_name(
    postgresql: PostgreSQL, opened: Opener, version: str, name: str
) -> None:
    with postgresql.database() as url:
        # What is first in the path hides the server's own function.
        database = make_url(url).database or ""
        postgresql.execute("CREATE SCHEMA other", database)
        postgresql.execute("GRANT USAGE ON SCHEMA other TO PUBLIC", database)
        postgresql.execute(
            f"CREATE FUNCTION other.version() RETURNS text LANGUAGE sql AS $$ SELECT '{version}' $$", database
        )
        postgresql.execute(f"ALTER ROLE {database} SET search_path = other, pg_catalog, public")
        for _ in range(2):
            with pytest.raises(RefusedError, match=f"{name} is not supported"):
                opened(url).upgrade()


def test_aurora_dsql_is_refused_by_its_host() -> None:
    url = "postgresql://admin:secret@abc123.dsql.us-east-1.on.aws/postgres"
    with pytest.raises(RefusedError, match="Aurora DSQL is not supported"):
        Database(DatabaseSettings(1, url))
