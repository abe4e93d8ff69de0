import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from garivini import AsyncClient, Client, Job, SchemaError, UsageError
from garivini.client import Client as BlockingClient
from garivini.store.dialects.sqlite import SQLite
from tests.databases import sqlite_url
from tests.processes import PATIENCE
from tests.system import system


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database with its tables, and its id: a caller's transaction would keep that from being written."""
    url = sqlite_url(tmp_path)
    with BlockingClient(url) as client:
        for database in client.shards:
            database.check()
    return url


def test_the_async_client_has_every_call_of_the_client() -> None:
    calls = {name for name in dir(BlockingClient) if not name.startswith("_")} - {"shards"}
    assert calls == {name for name in dir(AsyncClient) if not name.startswith("_")}


async def test_every_call_does_what_the_clients_does(url: str) -> None:
    async with AsyncClient(url) as client:
        first = await client.insert_job("f", "x", run_after=60, unique="k", priority="high", partition="p")
        again = await client.insert_job("f", "y", uniqkey="k")
        assert (first.new, again.new) == (True, False)
        assert tuple(first) == tuple(again)
        rest = await client.insert_jobs([["f", None, None, str(n)] for n in range(5)], run_after=5)
        ids = [jobid for jobid, _ in rest]
        assert ids == sorted(set(ids))
        job = await client.get_job(first)
        assert job is not None
        assert (job.arg, job.priority) == (b"x", "high")
        assert await client.reschedule_job(first, "+5")
        assert await client.failed_job(rest[0], ValueError("no"))
        assert [job.jobid for job in await client.failed_jobs()] == ids[:1]
        assert [record.error for record in await client.failures(rest[0])] == ["ValueError"]
        assert await client.result(rest[0]) is None
        assert await client.reports(rest[0]) == []
        assert await client.retry_job(rest[0])
        assert await client.cancel_job(rest[1], "why not")
        assert [job.jobid for job in await client.list_jobs("f", "dead")] == ids[1:2]
        dead = await client.insert_job("f", unique="dead")
        assert await client.cancel_job(dead)
        assert (await client.insert_job("f", unique="dead")).dead
        (many,) = await client.insert_jobs([["f", "dead", None, ""]])
        assert many.dead
        assert await client.delete_jobs([dead]) == 1
        assert await client.complete_job(rest[2])
        assert await client.complete_jobs(rest[2:4]) == 1
        assert await client.delete_jobs([first, rest[0]]) == 2
        await client.wake()
        assert [job.jobid for job in await client.list_jobs()] == [ids[1], ids[4]]


async def test_concurrent_inserts_share_commits_and_each_has_its_own_answer(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []
    insert_rows = SQLite.insert

    def counted(dialect: SQLite, run: Any, rows: Any) -> Any:
        groups.append(len(rows))
        return insert_rows(dialect, run, rows)

    monkeypatch.setattr(SQLite, "insert", counted)

    async with AsyncClient(url) as client:
        answers = await asyncio.gather(*(client.insert_job("f", str(number)) for number in range(500)))
        assert sum(groups) == 500
        assert len(groups) <= 5
        for number, answer in enumerate(answers):
            job = await client.get_job(answer)
            assert job is not None
            assert job.arg == b"%d" % number


async def test_a_bad_insert_fails_alone_and_a_failing_database_fails_all(url: str, tmp_path: Path) -> None:
    async with AsyncClient(url) as client:
        results = await asyncio.gather(
            client.insert_job("f"),
            client.insert_job("two\nlines"),
            client.insert_job("g"),
            return_exceptions=True,
        )
        assert isinstance(results[1], UsageError)
        assert not isinstance(results[0], BaseException)
        assert not isinstance(results[2], BaseException)
    async with AsyncClient(f"sqlite:///{tmp_path}/new.db") as client:
        both = await asyncio.gather(client.insert_job("f"), client.insert_job("g"), return_exceptions=True)
        assert [type(result) for result in both] == [SchemaError, SchemaError]


async def test_a_cancelled_insert_does_not_disturb_the_others(url: str) -> None:
    async with AsyncClient(url) as client:
        tasks = [asyncio.create_task(client.insert_job("f", str(number))) for number in range(20)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(result, BaseException) for result in results) == 1


@pytest.mark.parametrize("kind", ["connection", "session", "driver"])
def test_a_job_is_there_with_the_callers_commit_and_gone_with_its_rollback(
    url: str, tmp_path: Path, kind: str
) -> None:
    client = Client(url)
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE invoice (number INTEGER)"))
    for commit in (False, True):
        whole: Any
        if kind == "connection":
            whole = engine.connect()
        elif kind == "session":
            whole = Session(engine)
        else:
            whole = sqlite3.connect(tmp_path / "jobs.db")
        write = (
            text("INSERT INTO invoice VALUES (1)") if kind != "driver" else "INSERT INTO invoice VALUES (1)"
        )
        whole.execute(write)
        jobid, _ = client.insert_job("bill", "1", connection=whole)
        many = client.insert_jobs([["bill", "key", None, "2"], ["bill", "key", None, "3"]], connection=whole)
        assert [answer.new for answer in many] == [True, False]
        assert client.get_job((jobid, 1)) is None
        if commit:
            whole.commit()
        else:
            whole.rollback()
        whole.close()
        assert len(client.list_jobs()) == (2 if commit else 0)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM invoice")).scalar_one() == 1
    engine.dispose()
    client.close()


async def test_a_job_joins_an_async_connection_or_session(url: str) -> None:
    engine = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"))
    async with AsyncClient(url) as client:
        async with engine.connect() as connection:
            await client.insert_job("f", "lost", connection=connection)
            await connection.rollback()
        async with engine.begin() as connection:
            await client.insert_job("f", "1", connection=connection)
        async with AsyncSession(engine) as session:
            await client.insert_jobs([["f", None, None, "2"]], connection=session)
            assert len(await client.list_jobs()) == 1
            await session.commit()
        assert [job.arg for job in await client.list_jobs()] == [b"1", b"2"]
    await engine.dispose()


async def test_a_sessions_commit_wakes_a_queue_runner(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        ran = asyncio.Event()

        @queue.worker.function("f")
        async def f(job: Job) -> None:
            ran.set()

        queue.start_queue_runner(poll=60)
        queue.start_worker()
        await queue.seen.wait("gearman.connected", 2)

        def insert() -> None:
            engine = create_engine(queue.url)
            with Session(engine) as session:
                queue.client.insert_job("f", connection=session)
                session.commit()
            engine.dispose()

        await queue.call(insert)
        async with asyncio.timeout(PATIENCE):
            await ran.wait()


def test_what_cannot_be_joined_is_said(url: str, tmp_path: Path) -> None:
    client = Client(url)
    with pytest.raises(UsageError, match="not a connection to join"):
        client.insert_job("f", connection=object())  # type: ignore[arg-type]
    other = f"sqlite:///{tmp_path}/other.db"
    (database,) = (entry for entry in Client([url, other]).shards if entry.dbid == 2)
    database.upgrade()
    two = Client([url, other])
    third = create_engine(f"sqlite:///{tmp_path}/third.db")
    with third.connect() as connection, pytest.raises(UsageError, match="cannot be told"):
        two.insert_job("f", connection=connection)
    engine = create_engine(other)
    with engine.begin() as connection:
        assert two.insert_job("f", connection=connection).dbid == 2
        homes = {dbid: f"key {n}" for n in range(50) for dbid in [two.shards.home("f", f"key {n}").dbid]}
        assert two.insert_job("f", unique=homes[2], connection=connection).dbid == 2
        with pytest.raises(UsageError, match="another database"):
            two.insert_job("f", unique=homes[1], connection=connection)
    assert len(two.list_jobs()) == 2
    for thing in (third, engine):
        thing.dispose()
    two.close()
    client.close()
