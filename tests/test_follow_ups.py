"""Follow-ups of jobs that a worker runs."""

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import force_setattr, replace

from garivini import Discard, Job, RefusedError, Retry, State, UsageError, Worker
from garivini.keeper import job_calls
from garivini.keeper.execution import Execution
from garivini.keeper.job_calls import MAX_FOLLOW_UPS, JobCalls
from garivini.keeper.outcome_writer import _short_parts
from garivini.model.new_jobs import new_job
from garivini.model.policy import FunctionPolicy
from garivini.roles import answers
from garivini.roles.answers import follow_ups_of
from garivini.store import inserts
from garivini.store.database import Database
from garivini.worker.waker import Waker
from tests.databases import sqlite_url
from tests.processes import PATIENCE
from tests.system import System, system, upgraded
from tests.test_controller import stock


@pytest.mark.slow
async def test_insert_job_in_def_and_async_def_inserts_once_with_the_success(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        got: list[tuple[str, bytes, str | None]] = []

        @queue.worker.function("def")
        def plain(job: Job) -> None:
            job.insert_job("next", b"1", unique="k")
            job.insert_jobs([["next", None, None, b"2"], {"funcname": "next", "arg": "3"}])

        @queue.worker.function("async")
        async def asynchronous(job: Job) -> None:
            job.insert_job("next", b"4", priority="high")

        @queue.worker.function("next")
        async def next_one(job: Job) -> None:
            got.append((job.priority, job.arg, job.uniqkey))

        queue.start_queue_runner()
        queue.start_worker()
        await queue.call(queue.client.insert_job, "def")
        await queue.call(queue.client.insert_job, "async")
        await queue.gone()
        expected = [("high", b"4", None), ("normal", b"1", "k"), ("normal", b"2", None)]
        assert sorted(got, key=lambda it: it[:2]) == [*expected, ("normal", b"3", None)]


@pytest.mark.slow
async def test_insert_job_of_a_job_whose_function_keeps_results(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        ran = asyncio.Event()

        @queue.worker.function("kept", retention=60)
        def kept(job: Job) -> int:
            job.insert_job("next")
            return 7

        @queue.worker.function("next")
        async def next_one(job: Job) -> None:
            ran.set()

        queue.start_queue_runner()
        queue.start_worker()
        job = await queue.call(queue.client.insert_job, "kept")
        await asyncio.wait_for(ran.wait(), PATIENCE)
        found = await queue.call(queue.client.result, job)
        assert found is not None
        assert found.result == b"7"


@pytest.mark.parametrize("error", [ValueError("as planned"), Retry(after=3600), Discard("as planned")])
async def test_insert_job_of_an_attempt_without_success_inserts_nothing(
    tmp_path: Path, error: Exception
) -> None:
    async with system(tmp_path) as queue:

        @queue.worker.function("f")
        def fail(job: Job) -> None:
            job.insert_job("next")
            raise error

        queue.start_queue_runner()
        queue.start_worker()
        await queue.call(queue.client.insert_job, "f")
        names = {"ValueError": "job.failed", "Retry": "job.rescheduled", "Discard": "job.dead"}
        await queue.seen.wait(names[type(error).__name__])
        assert [job.funcname for job in await queue.call(queue.database.jobs)] == ["f"]


async def test_insert_job_with_a_wrong_value_fails_in_the_function(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        errors: list[UsageError] = []

        @queue.worker.function("f")
        def careful(job: Job) -> None:
            job.insert_job("next", b"before")
            for wrong in ("", "a\nb", "x" * 300):
                with pytest.raises(UsageError) as caught:
                    job.insert_job(wrong)
                errors.append(caught.value)
            with pytest.raises(UsageError, match="job 1 of the list"):
                job.insert_jobs([{"funcname": "next"}, {"funcname": ""}])

        queue.start_queue_runner()
        queue.start_worker()
        await queue.call(queue.client.insert_job, "f")
        await _jobs(queue, ("next", b"before"))
        assert len(errors) == 3


async def test_a_follow_up_that_the_database_refuses_fails_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with system(tmp_path) as queue:

        @queue.worker.function("f")
        def follow(job: Job) -> None:
            job.insert_job("next", b"too long for it")

        queue.start_queue_runner()
        queue.start_worker()
        monkeypatch.setattr(
            inserts,
            "_check_sizes",
            lambda run, jobs, *_: _refuse(jobs[0].funcname == "next", UsageError("no")),
        )
        job = await queue.call(queue.client.insert_job, "f")
        await queue.seen.wait("job.failed")
        (failed,) = await queue.call(queue.client.failures, job)
        assert (failed.error, failed.message) == ("FollowUp", "a follow-up was refused: no")
        assert [job.funcname for job in await queue.call(queue.database.jobs)] == ["f"]


async def test_a_follow_up_in_a_database_that_is_drained_lets_the_job_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with system(tmp_path) as queue:

        @queue.worker.function("f", max_failures=1)
        def follow(job: Job) -> None:
            job.insert_job("next")

        queue.start_queue_runner()
        queue.start_worker()
        draining = RefusedError("it is being drained")
        draining.draining = True
        refuse = monkeypatch.setattr
        refuse(inserts, "_check_sizes", lambda run, jobs, *_: _refuse(jobs[0].funcname == "next", draining))
        await queue.call(queue.client.insert_job, "f")
        await queue.seen.wait("job.rescheduled")
        (left,) = await queue.call(queue.database.jobs)
        assert (left.funcname, left.state, left.failcount) == ("f", State.WAITING, 0)


async def _jobs(queue: System, *expected: tuple[str, bytes]) -> None:
    """Wait until these are the jobs, by their functions and arguments."""
    deadline = time.monotonic() + PATIENCE
    while sorted((it.funcname, it.arg) for it in await queue.call(queue.database.jobs)) != sorted(expected):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)  # a deleted row says nothing


def _refuse(refused: bool, error: Exception) -> None:
    if refused:
        raise error


async def test_a_follow_up_wakes_a_queue_runner(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        worker = Worker(queue.client, [queue.address])
        ran = asyncio.Event()

        @worker.function("f")
        async def f(job: Job) -> None:
            job.insert_job("next")

        @worker.function("next")
        async def next_one(job: Job) -> None:
            ran.set()

        queue.start_queue_runner(poll=60)
        queue.start_worker(worker)
        await queue.seen.wait("gearman.connected", 2)
        await queue.call(queue.client.insert_job, "f")
        await asyncio.wait_for(ran.wait(), PATIENCE)
        await queue.gone()


async def test_waker_wakes_again_if_it_is_asked_meanwhile() -> None:
    go_on, calls = threading.Event(), 0

    def wake() -> None:
        nonlocal calls
        calls += 1
        assert go_on.wait(PATIENCE)

    waker = Waker(asyncio.get_running_loop(), wake)
    for _ in range(5):
        waker.wake()
    go_on.set()
    async with asyncio.timeout(PATIENCE):
        while waker._running or waker._again:
            await asyncio.sleep(0.001)
    assert calls == 2


async def test_insert_job_by_a_thread_after_the_end_of_the_function_is_refused(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        left: list[Job] = []

        @queue.worker.function("f")
        def leave(job: Job) -> None:
            left.append(job)

        queue.start_queue_runner()
        queue.start_worker()
        await queue.call(queue.client.insert_job, "f")
        await queue.gone()
        with pytest.raises(UsageError, match="is not running here"):
            left[0].insert_job("next")


# ---- the calls without a worker


@pytest.fixture
def running(tmp_path: Path) -> Callable[..., Job]:
    """Returns a job that is running."""

    def make(*databases: int) -> Job:
        job = Job(1, 1, "f", b"")
        database = Database(upgraded(sqlite_url(tmp_path)).connections._settings)
        calls = JobCalls(database, databases, *cast(Any, (SimpleNamespace(stored=None), None)))
        force_setattr(job, "calls", calls)
        return job

    return make


def test_insert_job_outside_of_a_function_is_refused() -> None:
    with pytest.raises(UsageError, match="job 1:5 is not running here"):
        Job(5, 1, "f", b"").insert_job("next")


def test_insert_jobs_takes_a_limited_number(running: Callable[..., Job]) -> None:
    job = running()
    job.insert_jobs([["next", None, None, b""]] * (MAX_FOLLOW_UPS - 1))
    job.insert_job("next")
    with pytest.raises(UsageError, match="at most 1000 follow-ups"):
        job.insert_job("next")
    assert len(job.follow_ups) == MAX_FOLLOW_UPS


def test_insert_jobs_takes_a_limited_size(
    running: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_calls, "BATCH_BYTES", 10)
    job = running()
    job.insert_job("next", b"x" * 20)  # one alone may have any size
    with pytest.raises(UsageError, match="bytes together"):
        job.insert_job("next", b"x")
    assert len(job.follow_ups) == 1


def test_insert_job_with_an_argument_that_the_server_does_not_take_is_refused(
    running: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Database, "statement_bytes", 10)
    with pytest.raises(UsageError, match="at most 10 bytes"):
        running().insert_job("next", b"x" * 11)


def test_insert_job_finds_the_home_of_a_key(running: Callable[..., Job]) -> None:
    job = running(1, 2)
    for number in range(20):
        job.insert_job("next", unique=f"k{number}")
    job.insert_job("next")
    homes = [new.home for new in job.follow_ups]
    assert set(homes) == {0, 2}
    assert homes[-1] == 0


def test_insert_job_by_many_threads_loses_none(running: Callable[..., Job]) -> None:
    job = running()
    jobs = [["next", None, None, b""]]
    threads = [threading.Thread(target=lambda: [*map(job.insert_jobs, [jobs] * 20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(job.follow_ups) == 160


def test_short_parts_bound_the_follow_ups_of_a_transaction() -> None:
    def execution(count: int) -> Execution:
        job = replace(Job(1, 1, "f", b""), follow_ups=tuple([new_job("next", b"")] * count))
        return Execution(job, cast(Any, None), "me")

    parts = list(_short_parts([execution(count) for count in (400, 600, 1, 1000, 999)]))
    assert [[len(it.job.follow_ups) for it in part] for part in parts] == [[400, 600], [1], [1000], [999]]
    assert list(_short_parts([])) == []


# ---- workers of a Controller


@pytest.mark.parametrize("retention", [None, 60])
async def test_an_answer_to_a_controller_inserts_follow_ups(tmp_path: Path, retention: int | None) -> None:
    async with system(tmp_path) as queue, stock(queue.address) as worker:
        if retention:
            await queue.call(queue.database.set_function, "f", FunctionPolicy(retention=retention))
        queue.start_queue_runner()
        queue.start_controller()
        job = await queue.call(queue.client.insert_job, "f", flag="controller")
        (held,) = await worker.got()
        new = [{"funcname": "next", "arg": "ü", "unique": "k", "run_after": 60, "priority": "low"}]
        new[0] |= {"partition": "north", "expires": 90}
        answer = {"garivini": {"insert": [*new, {"funcname": "next"}], "result": "done"}}
        held.complete(json.dumps(answer).encode())
        await _jobs(queue, ("next", "ü".encode()), ("next", b""))
        (keyed,) = [it for it in await queue.call(queue.database.jobs) if it.uniqkey == "k"]
        assert (keyed.priority, keyed.run_after > keyed.created + 59) == ("low", True)
        assert keyed.partition == "north"
        with closing(sqlite3.connect(queue.url.removeprefix("sqlite:///"))) as connection:
            assert connection.execute("SELECT expires FROM job WHERE uniqkey = 'k'").fetchall() == [(90,)]
        kept = await queue.call(queue.client.result, job)
        assert (kept.result if kept else None) == (b"done" if retention else None)


async def test_a_wrong_answer_with_follow_ups_fails_the_job(tmp_path: Path) -> None:
    async with system(tmp_path) as queue, stock(queue.address) as worker:
        queue.start_queue_runner()
        queue.start_controller()
        job = await queue.call(queue.client.insert_job, "f", flag="controller")
        (held,) = await worker.got()
        held.complete(b'{"garivini": {"insert": [{"funcname": "next"}, {"funcname": ""}]}}')
        await queue.seen.wait("job.failed")
        (failed,) = await queue.call(queue.client.failures, job)
        assert (failed.error, "1 to 200 bytes" in failed.message) == ("FollowUp", True)
        assert [it.funcname for it in await queue.call(queue.database.jobs)] == ["f"]


@pytest.mark.parametrize(
    "wrong", ['"next"', '[{"funcname": 1}]', '[{"name": "next"}]', "[{}]", '[], "results": "x"', "[] , 5"]
)
def test_follow_ups_of_a_wrong_answer_are_refused(wrong: str) -> None:
    data = f'{{"garivini": {{"insert": {wrong}}}}}'.encode()
    if wrong == "[] , 5":  # not JSON, so an ordinary result
        assert follow_ups_of(data) is None
        return
    with pytest.raises(UsageError, match="cannot be read"):
        follow_ups_of(data)


def test_follow_ups_of_an_answer_of_many_megabytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "BATCH_BYTES", 30)
    with pytest.raises(UsageError, match="at most 30 bytes"):
        follow_ups_of(b'{"garivini": {"insert": [{"funcname": "next"}]}}')


@pytest.mark.parametrize("data", [b"", b"insert", b"{}", b'{"garivini": {"retry": 1}}', b'{"garivini": 1}'])
def test_follow_ups_of_a_result_are_none(data: bytes) -> None:
    assert follow_ups_of(data) is None
