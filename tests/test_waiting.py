"""Waiting for the end of a job, and the reports of its function."""

import asyncio
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from garivini import AsyncClient, Client, Job, JobCancelled, JobDead, RefusedError, UsageError
from garivini.client.waiting import SharedPolls
from garivini.model.outcome import Success
from garivini.store.database import Database
from garivini.store.ends import End
from garivini.store.statements import Statements
from tests.databases import sqlite_url
from tests.processes import PATIENCE
from tests.system import system

NAMES = ["sqlite", "mariadb", "postgresql"]


@pytest.fixture(params=NAMES)
def client(request: pytest.FixtureRequest, urls: Callable[[str], str]) -> Iterator[Client]:
    with Client(urls(request.param)) as client:
        yield client


@pytest.fixture
def database(client: Client) -> Database:
    (database,) = client.shards
    return database


# ---- the database


def test_ended_returns_how_those_have_ended_that_have(client: Client, database: Database) -> None:
    names = ("waiting", "done", "kept", "dead", "cancelled", "moved")
    ids = {name: client.insert_job("f", name).jobid for name in names}
    database.finish([Success(ids["kept"], 1, b"7", retention=60)])
    database.complete([ids["done"]])
    client.failed_job((ids["dead"], 1), "first")
    client.reschedule_job((ids["dead"], 1), "never")
    client.cancel_job((ids["cancelled"], 1), "not needed")
    database.complete([ids["moved"]])
    with database.transaction() as run:
        texts: dict[str, Any] = {"error": "", "message": "", "trace": "", "worker": ""}
        run("record_failure", jobid=ids["moved"], attempt=1, kind="moved", **texts)
    found = database.ended(list(ids.values()))
    kinds = {name: found[jobid].kind for name, jobid in ids.items() if jobid in found}
    assert kinds == {
        "done": "succeeded",
        "kept": "succeeded",
        "dead": "dead",
        "cancelled": "cancelled",
        "moved": "moved",
    }
    kept, failure = found[ids["kept"]].kept, found[ids["cancelled"]].failure
    assert kept is not None
    assert kept.result == b"7"
    assert failure is not None
    assert failure.message == "not needed"
    assert database.ended([]) == {}


def test_ended_costs_one_statement_if_no_job_has(
    database: Database, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobids = [answer.jobid for answer in client.insert_jobs([["f", None, None, b""]] * 50)]
    names: list[str] = []
    call = Statements.__call__

    def note(self: Statements, name: str, /, *rest: Any, **values: Any) -> Any:
        names.append(name)
        return call(self, name, *rest, **values)

    monkeypatch.setattr(Statements, "__call__", note)
    assert database.ended(jobids) == {}
    assert names == ["states"]


# ---- the clients


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Client]:
    with Client(sqlite_url(tmp_path)) as client:
        yield client


def test_wait_returns_the_kept_job_when_it_has_ended(local: Client) -> None:
    (database,) = local.shards
    job = local.insert_job("f")
    threading.Timer(0.1, lambda: database.finish([Success(job.jobid, 1, b"7", retention=60)])).start()
    kept = local.wait(job, PATIENCE)
    assert kept is not None
    assert kept.result == b"7"


def test_wait_returns_none_for_a_job_that_is_not_kept(local: Client) -> None:
    job = local.insert_job("f")
    local.complete_job(job)
    assert local.wait(job) is None


def test_wait_raises_if_the_job_does_not_end_in_time(local: Client) -> None:
    job = local.insert_job("f")
    for timeout in (0, 0.05):
        with pytest.raises(TimeoutError, match=f"job {job.id} has not ended within"):
            local.wait(job, timeout)
    assert local.get_job(job) is not None


def test_wait_raises_if_the_job_is_dead_or_cancelled(local: Client) -> None:
    dead, cancelled = local.insert_job("f"), local.insert_job("f")
    local.reschedule_job(dead, "never")
    local.cancel_job(cancelled, "not needed")
    with pytest.raises(JobDead, match=f"job {dead.id} is dead") as caught:
        local.wait(dead)
    assert not isinstance(caught.value, JobCancelled)
    with pytest.raises(JobCancelled, match="was cancelled: not needed") as caught:
        local.wait(cancelled)
    assert caught.value.failure is not None
    assert caught.value.failure.kind == "cancelled"


def test_wait_raises_if_the_job_was_moved(local: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Database, "ended", lambda self, jobids: {jobid: End("moved") for jobid in jobids})
    with pytest.raises(RefusedError, match="was moved to another database"):
        local.wait((1, 1))


async def test_wait_of_many_tasks_shares_the_polls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    polls: list[int] = []
    ended = Database.ended

    def note(self: Database, jobids: Collection[int]) -> dict[int, End]:
        polls.append(len(jobids))
        return ended(self, jobids)

    monkeypatch.setattr(Database, "ended", note)
    async with AsyncClient(sqlite_url(tmp_path)) as client:
        jobs = await client.insert_jobs([["f", None, None, b""]] * 20)
        tasks = [asyncio.create_task(client.wait(job, PATIENCE)) for job in (*jobs, jobs[0])]
        while not polls:
            await asyncio.sleep(0.001)
        await client.complete_jobs(jobs[:10])
        await client.cancel_job(jobs[10])
        await client.complete_jobs(jobs[11:])
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results.pop(10), JobCancelled)
        assert results == [None] * 20
        assert polls[0] == 20
        assert len(polls) < 20
        assert client._polls[1]._waiters == {}


async def test_wait_with_a_timeout_leaves_no_waiter(tmp_path: Path) -> None:
    async with AsyncClient(sqlite_url(tmp_path)) as client:
        job = await client.insert_job("f")
        for timeout in (0, 0.05):
            with pytest.raises(TimeoutError, match="has not ended within"):
                await client.wait(job, timeout)
        assert client._polls[1]._waiters == {}
        await client.complete_job(job)
        assert await client.wait(job, 0) is None
        assert await client.wait(job) is None


async def test_shared_polls_pass_an_error_to_all_and_go_on_afterwards() -> None:
    errors: list[Exception] = [UsageError("as planned")]

    async def read(jobids: Collection[int]) -> dict[int, End]:
        if errors:
            raise errors.pop()
        return {jobid: End("succeeded") for jobid in jobids}

    polls = SharedPolls(read)
    results = await asyncio.gather(polls.until_ended(1), polls.until_ended(2), return_exceptions=True)
    assert [str(it) for it in results] == ["as planned"] * 2
    assert await polls.until_ended(1) == End("succeeded")


async def test_shared_polls_become_slower_and_quick_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    reads = 0

    async def read(jobids: Collection[int]) -> dict[int, End]:
        nonlocal reads
        reads += 1
        return {jobid: End("succeeded") for jobid in jobids} if reads == 20 else {}

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("garivini.client.waiting.asyncio.sleep", sleep)
    await SharedPolls(read).until_ended(1)
    assert pauses[0] < 0.03
    assert 0.8 <= pauses[-1] <= 1.2


# ---- reports of functions


async def test_progress_and_log_of_a_function_are_reports(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:

        @queue.worker.function("def", retention=60)
        def plain(job: Job) -> str:
            for done in range(1, 50):
                job.progress(done, 50)
            job.log("grün")
            job.log(b"\xff")
            return "result"

        @queue.worker.function("async", retention=60)
        async def asynchronous(job: Job) -> None:
            job.progress(1, 2)

        queue.start_queue_runner()
        queue.start_worker()
        one = await queue.call(queue.client.insert_job, "def")
        other = await queue.call(queue.client.insert_job, "async")
        kept = await queue.call(queue.client.wait, one, PATIENCE)
        assert kept is not None
        assert kept.result == b'"result"'
        assert await queue.call(queue.client.wait, other, PATIENCE) is not None
        found = await queue.call(queue.client.reports, one)
        assert [(it.kind, it.body) for it in found] == [
            ("status", b"49/50"),
            ("data", "grün".encode()),
            ("data", b"\xff"),
        ]
        assert [it.body for it in await queue.call(queue.client.reports, other)] == [b"1/2"]


@pytest.mark.slow
async def test_progress_of_a_running_job_can_be_read(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        end = asyncio.Event()

        @queue.worker.function("f")
        async def f(job: Job) -> None:
            job.progress(1, 3)
            job.progress(2, 3)
            await end.wait()

        queue.start_queue_runner()
        queue.start_worker()
        job = await queue.call(queue.client.insert_job, "f")
        async with asyncio.timeout(PATIENCE):
            while not (found := await queue.call(queue.client.reports, job)):
                await asyncio.sleep(0.02)  # a report says nothing
        assert [it.body for it in found] == [b"2/3"]
        end.set()
        await queue.gone()


async def test_log_keeps_the_first_lines_of_an_attempt(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:

        @queue.worker.function("f", retention=60)
        def f(job: Job) -> None:
            for number in range(1500):
                job.log(str(number))

        queue.start_queue_runner()
        queue.start_worker()
        job = await queue.call(queue.client.insert_job, "f")
        await queue.call(queue.client.wait, job, PATIENCE)
        found = await queue.call(queue.client.reports, job)
        assert len(found) == 1000
        assert found[-1].body == b"garivini: later lines of this attempt are not kept"


async def test_wrong_reports_raise_in_the_function(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        errors: list[str] = []

        @queue.worker.function("f")
        def f(job: Job) -> None:
            calls: list[Callable[[], None]] = [
                lambda: job.progress(-1, 2),
                lambda: job.progress(True, 2),
                lambda: job.progress(1, 2.0),  # type: ignore[arg-type]
                lambda: job.log(5),  # type: ignore[arg-type]
            ]
            for call in calls:
                with pytest.raises(UsageError) as caught:
                    call()
                errors.append(str(caught.value))

        queue.start_queue_runner()
        queue.start_worker()
        await queue.call(queue.client.insert_job, "f")
        await queue.gone()
        assert len(errors) == 4


def test_progress_outside_of_a_function_is_refused() -> None:
    with pytest.raises(UsageError, match="is not running here"):
        Job(5, 1, "f", b"").progress(1, 2)
