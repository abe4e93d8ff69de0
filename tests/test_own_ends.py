"""``job.complete`` ends a job in the transaction of its function."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, cast

import pytest
from msgspec.structs import force_setattr, replace
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from garivini import Client, ConflictError, Job, JobLost, State, UsageError, events
from garivini.keeper.execution import Execution
from garivini.keeper.job_calls import JobCalls
from garivini.keeper.keeper import Keeper
from garivini.model.job import Handle
from garivini.model.new_jobs import new_job
from garivini.model.outcome import Setback
from garivini.model.policy import FunctionPolicy
from garivini.store.database import Database, Lane
from tests.databases import sqlite_url
from tests.processes import PATIENCE, until
from tests.system import system

DRIVERS: Final = {"mysql": "mysql+pymysql", "postgresql": "postgresql+psycopg", "sqlite": "sqlite"}
LEVELS: Final = [
    ("sqlite", None),
    *(
        pytest.param((name, level), marks=pytest.mark.servers)
        for name in ("mariadb", "postgresql")
        for level in ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
    ),
]
LANE: Final = Lane("f", State.WAITING, "normal", 0)


class _Policies:
    """Stands in for the settings that a keeper has read."""

    def __init__(self, **policies: FunctionPolicy) -> None:
        self.policies = policies


@contextmanager
def disposed(url: str, level: str | None) -> Iterator[Engine]:
    """An engine of the application."""
    scheme, _, rest = url.partition("://")
    given: dict[str, Any] = {} if level is None else {"isolation_level": level}
    engine = create_engine(f"{DRIVERS[scheme]}://{rest}", **given)
    yield engine
    engine.dispose()


@contextmanager
def prepared(url: str, level: str | None) -> Iterator[tuple[Database, Engine]]:
    """A database with a table of the application, and an engine of the application."""
    with Client(url) as client, disposed(url, level) as engine:
        (database,) = client.shards
        database.complete([job.jobid for job in database.jobs(limit=1000)])
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS effect (number INTEGER)")
            connection.exec_driver_sql("DELETE FROM effect")
        yield database, engine


@pytest.fixture(params=LEVELS, ids=lambda it: "-".join(filter(None, it)).replace(" ", "_"))
def place(request: pytest.FixtureRequest, urls: Callable[[str], str]) -> Iterator[tuple[Database, Engine]]:
    """Each database, at each level of isolation."""
    name, level = request.param
    with prepared(urls(name), level) as place:
        yield place


@pytest.fixture(params=["sqlite", "mariadb", "postgresql"])
def default(request: pytest.FixtureRequest, urls: Callable[[str], str]) -> Iterator[tuple[Database, Engine]]:
    """Each database, at its default level."""
    with prepared(urls(request.param), None) as place:
        yield place


def running(database: Database, **policies: FunctionPolicy) -> Job:
    """Return a job that a function runs."""
    database.insert([new_job("f", b"x")])
    (job,) = database.claim(LANE, limit=1, lease=60)
    functions: Any = _Policies(**policies)
    force_setattr(job, "calls", JobCalls(database, (), functions, functions))
    return job


def effects(engine: Engine) -> int:
    with engine.begin() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM effect").scalar() or 0)


def take_effect(connection: Connection) -> None:
    connection.exec_driver_sql("INSERT INTO effect VALUES (1)")


def test_complete_commits_the_end_with_the_effect(place: tuple[Database, Engine]) -> None:
    database, engine = place
    job = running(database)
    job.insert_job("next")
    with engine.begin() as connection:
        take_effect(connection)
        job.complete(connection=connection)
    assert [it.funcname for it in database.jobs()] == ["next"]
    assert effects(engine) == 1


def test_complete_in_a_transaction_that_is_rolled_back_changes_nothing(
    place: tuple[Database, Engine],
) -> None:
    database, engine = place
    job = running(database)
    job.insert_job("next")
    (before,) = database.jobs()
    for _ in range(2):
        with engine.connect() as connection:
            take_effect(connection)
            job.complete(connection=connection)
            connection.rollback()
    assert database.jobs() == [before]
    assert effects(engine) == 0
    with engine.begin() as connection:  # the transaction may be repeated
        job.complete(connection=connection)
    assert [it.funcname for it in database.jobs()] == ["next"]


@pytest.mark.parametrize("how", ["completed", "another attempt", "cancelled"])
def test_complete_of_a_job_that_the_attempt_has_lost_raises(place: tuple[Database, Engine], how: str) -> None:
    database, engine = place
    job = running(database)
    match how:
        case "completed":
            database.complete([job.jobid])
        case "another attempt":
            database.give_back([job.handle])
            database.claim(LANE, limit=1, lease=60)
        case "cancelled":
            database.settle([Setback(handle=Handle(job.jobid, job.dbid), kind="cancelled")])
    before = database.jobs()
    with engine.connect() as connection:
        take_effect(connection)
        with pytest.raises(JobLost, match="roll the transaction back"):
            job.complete(connection=connection)
        connection.rollback()
    assert database.jobs() == before
    assert effects(engine) == 0


def test_complete_after_a_renewal_within_the_transaction(place: tuple[Database, Engine]) -> None:
    """The keeper renews meanwhile: a snapshot of PostgreSQL is too old then, and nothing is done."""
    database, engine = place
    if not database.locks_rows:
        pytest.skip("a writer locks the whole database")
    job = running(database)
    refused = False
    try:
        with engine.begin() as connection:
            take_effect(connection)
            database.renew([job.handle], lease=60)
            job.complete(connection=connection)
    except ConflictError:
        refused = True
    assert refused <= (engine.dialect.name == "postgresql")
    if refused:
        assert len(database.jobs()) == 1
        assert effects(engine) == 0
        with engine.begin() as connection:  # a new transaction sees the renewal
            job.complete(connection=connection)
            take_effect(connection)
    assert database.jobs() == []
    assert effects(engine) == 1


def test_complete_locks_the_row_until_the_transaction_ends(place: tuple[Database, Engine]) -> None:
    database, engine = place
    if not database.locks_rows:
        pytest.skip("a writer locks the whole database")
    job = running(database)
    with engine.begin() as connection:
        job.complete(connection=connection)
        locked: set[int] = set()
        database.complete([job.jobid], locked=locked)
        assert locked == {job.jobid}
    assert database.jobs() == []


def test_complete_keeps_the_result_for_the_retention(default: tuple[Database, Engine]) -> None:
    database, engine = default
    job = running(database, f=FunctionPolicy(retention=60))
    assert job.calls is not None
    with pytest.raises(UsageError, match="cannot be written as JSON"), engine.begin() as connection:
        job.complete(connection=connection, result=object())
    with engine.begin() as connection:
        job.complete(connection=connection, result={"total": 6})
    kept = database.finished(job.jobid)
    assert kept is not None
    assert kept.result == b'{"total":6}'


def test_complete_through_a_session(default: tuple[Database, Engine]) -> None:
    database, engine = default
    job = running(database)
    with Session(engine) as session:
        job.complete(connection=session)
        session.commit()
    assert database.jobs() == []


def test_insert_job_after_complete_is_refused(default: tuple[Database, Engine]) -> None:
    database, engine = default
    job = running(database)
    with engine.begin() as connection:
        job.complete(connection=connection)
        with pytest.raises(UsageError, match="before the call"):
            job.insert_job("next")


def test_complete_in_autocommit_is_refused(default: tuple[Database, Engine]) -> None:
    database, engine = default
    job = running(database)
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(UsageError, match="has no transaction"):
            job.complete(connection=connection)
    assert len(database.jobs()) == 1


def test_complete_on_a_connection_to_another_database_is_refused(
    default: tuple[Database, Engine], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    database, engine = default
    job = running(database)
    name = {"sqlite": "sqlite", "postgresql": "postgresql"}.get(engine.dialect.name, "mariadb")
    if name == "sqlite":
        others = [f"sqlite:///{tmp_path / 'empty.db'}", sqlite_url(tmp_path)]
        _end(request, job, others)
        return
    with request.getfixturevalue(name).database() as empty:
        _end(request, job, [empty])


def _end(request: pytest.FixtureRequest, job: Job, others: list[str]) -> None:
    for other in others:
        with disposed(other, None) as engine, engine.connect() as connection:
            with pytest.raises((UsageError, JobLost), match=r"is not one to|any more"):
                job.complete(connection=connection)
            connection.rollback()


def test_complete_compares_what_tells_the_row_from_a_strangers(default: tuple[Database, Engine]) -> None:
    database, engine = default
    job = running(database)
    for other in (replace(job, created=5), replace(job, funcname="g"), replace(job, uniqkey="z")):
        with pytest.raises(JobLost), engine.begin() as connection:
            other.complete(connection=connection)
    assert len(database.jobs()) == 1


# ---- in a worker


@pytest.mark.parametrize("rolled_back", [False, True])
async def test_a_function_completes_its_job_with_its_effect(tmp_path: Path, rolled_back: bool) -> None:
    async with system(tmp_path) as queue:
        path = tmp_path / "jobs.db"
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE effect (number INTEGER)")

        @queue.worker.function("f", max_failures=1)
        def act(job: Job) -> None:
            with closing(sqlite3.connect(path, timeout=PATIENCE)) as connection:
                connection.execute("INSERT INTO effect VALUES (1)")
                job.complete(connection=connection)
                if rolled_back:
                    connection.rollback()
                else:
                    connection.commit()

        queue.start_queue_runner()
        queue.start_worker()
        job = await queue.call(queue.client.insert_job, "f")
        if rolled_back:
            await queue.seen.wait("job.dead")
            (failed,) = await queue.call(queue.client.failures, job)
            assert (failed.error, "was rolled back" in failed.message) == ("RolledBack", True)
        else:
            await queue.gone()
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT count(*) FROM effect").fetchall() == [(int(not rolled_back),)]


async def test_an_async_def_completes_its_job_through_run_sync(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'jobs.db'}")
        async with engine.begin() as connection:
            await connection.exec_driver_sql("CREATE TABLE effect (number INTEGER)")

        @queue.worker.function("f")
        async def act(job: Job) -> None:
            async with AsyncSession(engine) as session:
                await session.execute(text("INSERT INTO effect VALUES (1)"))
                await session.run_sync(lambda own: job.complete(connection=own))
                await session.commit()

        queue.start_queue_runner()
        queue.start_worker()
        await queue.call(queue.client.insert_job, "f")
        await queue.gone()
        async with engine.begin() as connection:
            assert (await connection.exec_driver_sql("SELECT count(*) FROM effect")).scalar() == 1
        await engine.dispose()


# ---- in a keeper


@pytest.fixture(params=["mariadb", "postgresql"])
def server_place(
    request: pytest.FixtureRequest, urls: Callable[[str], str]
) -> Iterator[tuple[Database, Engine]]:
    url = urls(request.param)
    with Client(url) as client, disposed(url, None) as engine:
        (database,) = client.shards
        database.complete([job.jobid for job in database.jobs(limit=1000)])
        yield database, engine


class Kept:
    """A keeper, and what it has reported."""

    def __init__(self, database: Database) -> None:
        self.ended: list[Execution] = []
        self.keeper = Keeper(
            database,
            on_committed=self.ended.extend,
            on_checked=lambda execution, holds: None,
            take_back=lambda execution: False,
            on_given_back=lambda executions: None,
        )

    def __enter__(self) -> "Kept":
        self.keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.keeper.stop() == 0


@pytest.mark.parametrize("commits", [True, False])
def test_a_transaction_that_is_open_when_the_function_returns_decides_later(
    server_place: tuple[Database, Engine], commits: bool
) -> None:
    database, engine = server_place
    job = running(database)
    execution = Execution(job, cast(Any, None), "me")
    with events.only(seen := Names()), Kept(database) as kept, engine.connect() as connection:
        job.complete(connection=connection)
        kept.keeper.end(execution)
        until(lambda: "outcomes.put_aside" in seen.names, "the first try")
        assert kept.ended == []
        if commits:
            connection.commit()
        else:
            connection.rollback()
        until(lambda: bool(kept.ended), "the outcome")
    setback = None if commits else "RolledBack"
    assert (execution.setback and execution.setback.error) == setback
    assert "job.stale" not in seen.names
    assert len(database.jobs()) == (not commits)


def test_a_renewal_after_the_function_has_committed_reports_nothing(
    server_place: tuple[Database, Engine],
) -> None:
    database, engine = server_place
    job = replace(running(database), lease=3)
    execution = Execution(job, cast(Any, None), "me")
    with events.only(seen := Names()), Kept(database) as kept:
        kept.keeper.hold(execution)
        with engine.begin() as connection:
            job.complete(connection=connection)
        until(lambda: not execution.renews, "the renewal that misses")
        kept.keeper.end(execution)
        until(lambda: bool(kept.ended), "the outcome")
    assert not job.superseded
    assert "job.stale" not in seen.names
    assert execution.setback is None


class Names:
    """The names of events."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str, fields: dict[str, Any]) -> None:
        self.names.append(name)
