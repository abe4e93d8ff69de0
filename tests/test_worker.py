import asyncio
import pickle
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from garivini import Client, Discard, Job, RefusedError, Retry, State, UsageError, Worker
from garivini.gearman import aio
from garivini.gearman.protocol import Submission
from garivini.keeper.execution import Execution
from garivini.keeper.functions import Registration
from garivini.keeper.time_limit import TimeLimit
from garivini.model.job import Handle
from garivini.model.new_jobs import new_job
from garivini.model.payload import encode_payload
from garivini.model.policy import FunctionPolicy
from garivini.worker.live_settings import LiveSettings
from tests.databases import sqlite_url
from tests.processes import PATIENCE
from tests.servers import embedded
from tests.system import System, system


async def test_a_def_and_an_async_def_function_complete_their_jobs(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        got: list[tuple[str, bytes, object, int | None]] = []

        @queue.worker.function("plain")
        def plain(job: Job) -> None:
            got.append(("plain", job.arg, job.json, job.attempt))

        @queue.worker.function("async")
        async def asynchronous(job: Job) -> str:
            await asyncio.sleep(0)
            got.append(("async", job.arg, job.json, job.attempt))
            return "a result is not an error"

        queue.start_queue_runner()
        queue.start_worker()
        await queue.call(queue.client.insert_job, "plain", '{"a": [1]}')
        await queue.call(queue.client.insert_job, "async", "[2]")
        await queue.gone()
        assert sorted(got) == [("async", b"[2]", [2], 1), ("plain", b'{"a": [1]}', {"a": [1]}, 1)]


async def test_an_exception_fails_the_job_with_its_record_and_a_backoff(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:

        @queue.worker.function("divide")
        def divide(job: Job) -> None:
            raise ZeroDivisionError("by nothing \ud800 at all")

        @queue.worker.function("leave")
        def leave(job: Job) -> None:
            raise SystemExit(3)

        queue.start_queue_runner()
        queue.start_worker()
        jobid, _ = await queue.call(queue.client.insert_job, "divide")
        await queue.call(queue.client.insert_job, "leave")
        await queue.seen.wait("job.failed", 2)
        job = await queue.call(queue.database.get, jobid)
        assert job is not None
        now = await queue.call(queue.database.clock)
        assert job.state is State.WAITING
        assert job.failcount == 1
        assert 105 <= job.run_after - now <= 135
        (failure,) = await queue.call(queue.database.failures, jobid)
        assert failure.error == "ZeroDivisionError"
        assert failure.message.startswith("by nothing")
        assert "in divide" in failure.trace
        assert failure.worker


@pytest.mark.slow
async def test_retry_runs_it_again_at_its_time_without_counting_a_failure(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        attempts: list[int | None] = []

        @queue.worker.function("patient")
        def patient(job: Job) -> None:
            attempts.append(job.attempt)
            if len(attempts) == 1:
                raise Retry(after=0, reason="the other side is asleep")
            assert job.failcount == 0

        queue.start_queue_runner()
        queue.start_worker()
        await queue.call(queue.client.insert_job, "patient")
        await queue.gone()
        assert attempts == [1, 2]


@pytest.mark.slow
async def test_job_run_counts_starts_in_def_and_async_def_alike(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        got: list[tuple[str, int, int, int | None]] = []

        @queue.worker.function("plain")
        def plain(job: Job) -> None:
            assert pickle.loads(pickle.dumps(job)).arg == job.arg
            got.append(("plain", job.run, job.run, job.attempt))
            if job.run < 3:
                raise Retry(0)

        @queue.worker.function("async")
        async def asynchronous(job: Job) -> None:
            got.append(("async", await job.get_run(), job.run, job.attempt))
            if job.run < 3:
                raise Retry(0)

        @queue.worker.function("never_asks")
        def never_asks(job: Job) -> None:
            raise Discard

        queue.start_queue_runner()
        queue.start_worker()
        for name in ("plain", "async", "never_asks"):
            await queue.call(queue.client.insert_job, name)
        await queue.gone(1)
        for name in ("plain", "async"):
            assert [it for it in got if it[0] == name] == [(name, n, n, n) for n in (1, 2, 3)]
        (job,) = await queue.call(queue.database.jobs)
        assert (job.funcname, job.runs, job.run) == ("never_asks", 0, 0)


async def test_discard_parks_the_job_dead_with_its_reason(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:

        @queue.worker.function("hopeless")
        async def hopeless(job: Job) -> None:
            raise Discard("no such customer")

        queue.start_queue_runner()
        queue.start_worker()
        jobid, _ = await queue.call(queue.client.insert_job, "hopeless")
        await queue.seen.wait("job.dead")
        job = await queue.call(queue.database.get, jobid)
        assert job is not None
        assert job.state is State.DEAD
        (failure,) = await queue.call(queue.database.failures, jobid)
        assert (failure.kind, failure.message) == ("discarded", "no such customer")


async def test_gearman_hears_of_an_end_only_after_its_commit(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:

        @queue.worker.function("plain")
        def plain(job: Job) -> None:
            pass

        queue.start_worker()
        jobid, _ = await queue.call(queue.client.insert_job, "plain")
        (job,) = await queue.call(_claim, queue)
        client = aio.Client(queue.address)
        # In the foreground, so that the server reports the end to us.
        await client.run(Submission(b"plain", encode_payload(job)))
        assert await queue.call(queue.database.get, jobid) is None
        await client.close()


def _claim(queue: System, lease: int = 60) -> list[Job]:
    (lane,) = queue.database.lanes().lanes
    return queue.database.claim(lane, limit=10, lease=lease)


@pytest.mark.slow
async def test_a_running_job_keeps_its_lease(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        ended = asyncio.Event()

        @queue.worker.function("long")
        async def long(job: Job) -> None:
            await ended.wait()

        queue.start_worker()
        jobid, _ = await queue.call(queue.client.insert_job, "long")
        (claimed,) = await queue.call(_claim, queue, 3)
        client = aio.Client(queue.address)
        await client.submit([Submission(b"long", encode_payload(claimed), claimed.unique)])
        while True:
            job = await queue.call(queue.database.get, jobid)
            assert job is not None
            if job.state is State.RUNNING and job.run_after > claimed.lease_end:
                break
            await asyncio.sleep(0.05)  # a renewed row says nothing
        ended.set()
        await queue.gone()
        await client.close()


async def test_a_copy_whose_attempt_has_been_replaced_is_dropped_before_it_starts(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        attempts: list[int | None] = []

        @queue.worker.function("plain")
        def plain(job: Job) -> None:
            attempts.append(job.attempt)

        queue.start_worker()
        await queue.call(queue.client.insert_job, "plain")
        (first,) = await queue.call(_claim, queue)
        await queue.call(queue.client.reschedule_job, first, "+0")
        (second,) = await queue.call(_claim, queue)
        await queue.call(queue.client.reschedule_job, second, "+0")
        (third,) = await queue.call(_claim, queue)
        client = aio.Client(queue.address)
        # Attempts above the first ask before they start.
        await client.run(Submission(b"plain", encode_payload(second), second.unique))
        assert attempts == []
        await client.run(Submission(b"plain", encode_payload(third), third.unique))
        assert attempts == [3]
        await client.close()


async def test_what_is_no_payload_of_ours_is_dropped_and_the_next_job_runs(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        ran = asyncio.Event()

        @queue.worker.function("plain")
        async def plain(job: Job) -> None:
            ran.set()

        queue.start_queue_runner()
        queue.start_worker()
        client = aio.Client(queue.address)
        await client.submit([Submission(b"plain", payload) for payload in (b"\xff", b"{}", b"[" * 9999)])
        unknown = Job(jobid=1, dbid=77, funcname="plain", arg=b"")
        await client.submit([Submission(b"plain", encode_payload(unknown))])
        dropped = await queue.seen.wait("job.dropped", 4)
        assert "database 77" in dropped[-1]["error"]
        await queue.call(queue.client.insert_job, "plain")
        await ran.wait()
        await client.close()


async def test_a_copy_from_the_original_runs_under_an_attempt_of_ours(tmp_path: Path) -> None:
    """Its QueueRunner leases by run_after alone, and its payload has no attempt."""

    async with system(tmp_path) as queue:
        got: list[tuple[bytes, int | None, int]] = []

        @queue.worker.function("f")
        def f(job: Job) -> None:
            got.append((job.arg, job.attempt, job.lease))
            raise ValueError

        queue.start_worker()
        await queue.call(queue.client.insert_job, "f", "\xe9", run_after=1000)
        payload = '{"jobid": "1", "dbid": "1", "funcname": "f", "arg": "\xc3\xa9", "failcount": "0"}'
        client = aio.Client(queue.address)
        with pytest.raises(RefusedError):
            await client.run(Submission(b"f", payload.encode()))
        assert got == [("\xe9".encode(), 1, 60)]
        (job,) = await queue.call(queue.database.jobs)
        assert (job.state, job.failcount) == (State.WAITING, 1)
        # A second copy while somebody runs the first is dropped.
        await queue.call(queue.database.adopt, [1], lease=60)
        await client.run(Submission(b"f", payload.encode()))
        assert len(got) == 1
        await client.close()


async def test_stopping_finishes_and_commits_what_has_begun(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        begun, go_on = asyncio.Event(), asyncio.Event()

        @queue.worker.function("long")
        async def long(job: Job) -> None:
            begun.set()
            await go_on.wait()

        queue.start_queue_runner()
        stop = queue.start_worker()
        jobid, _ = await queue.call(queue.client.insert_job, "long")
        await begun.wait()
        stop.set()
        assert not queue.seen.of("worker.stopped")
        go_on.set()
        await queue.seen.wait("worker.stopped")
        assert await queue.call(queue.database.get, jobid) is None


async def test_stopping_waits_for_no_connection_that_is_being_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with system(tmp_path) as queue:
        opening = asyncio.Event()

        async def never(*arguments: object) -> None:
            opening.set()
            await asyncio.Event().wait()

        monkeypatch.setattr("garivini.gearman.aio.worker.open_connection", never)
        queue.worker.function("f")(lambda job: None)
        stop = asyncio.Event()
        serving = asyncio.create_task(queue.worker.serve(stop))
        await opening.wait()
        stop.set()
        done, _ = await asyncio.wait([serving], timeout=PATIENCE)
        serving.cancel()
        assert done


async def test_a_server_whose_name_cannot_be_looked_up_is_reported(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        worker = Worker(Client(queue.url), "jobs..example:4730")
        worker.function("f")(lambda job: None)
        queue.start_worker(worker)
        (unreachable,) = await queue.seen.wait("gearman.unreachable")
        assert "not a host name" in unreachable["error"]


async def test_cancelling_serve_waits_for_no_thread_of_a_function(tmp_path: Path) -> None:
    """Functions have filled the loop's own threads with calls that go on."""

    async with system(tmp_path) as queue:
        go_on, started = threading.Event(), asyncio.Event()
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))

        @queue.worker.function("long")
        async def long(job: Job) -> None:
            started.set()
            await asyncio.to_thread(go_on.wait)

        serving = asyncio.create_task(queue.worker.serve(asyncio.Event()))
        client = aio.Client(queue.address)
        job = Job(jobid=1, dbid=1, funcname="long", arg=b"", attempt=1)
        await client.submit([Submission(b"long", encode_payload(job))])
        await started.wait()
        serving.cancel()
        done, _ = await asyncio.wait([serving], timeout=PATIENCE)
        go_on.set()
        assert done
        await client.close()


@pytest.mark.parametrize("kind", ["async", "def"])
async def test_serve_returns_the_jobs_that_its_drain_has_left(tmp_path: Path, kind: str) -> None:
    async with system(tmp_path) as queue:
        go_on, started = threading.Event(), threading.Event()

        async def task(job: Job) -> None:
            started.set()
            await asyncio.Event().wait()

        def blocking(job: Job) -> None:
            started.set()
            go_on.wait()

        queue.worker.function("long")(task if kind == "async" else blocking)
        queue.start_queue_runner()
        stop = asyncio.Event()
        serving = asyncio.create_task(queue.worker.serve(stop, drain=0.05))
        jobid, _ = await queue.call(queue.client.insert_job, "long")
        await asyncio.to_thread(started.wait)
        stop.set()
        done, _ = await asyncio.wait([serving], timeout=PATIENCE)
        go_on.set()
        assert done
        assert [job.jobid for job in serving.result()] == [jobid]
        job = await queue.call(queue.client.get_job, (jobid, 1))
        assert job is not None  # it runs again


@pytest.mark.slow
@pytest.mark.parametrize("end", ["drain", "cancel"])
async def test_serve_does_not_wait_for_a_function_that_ignores_its_cancellation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """It says which one continues, and the job runs again elsewhere."""
    monkeypatch.setattr("garivini.worker.serving.STOP_TIMEOUT", 1.0)
    async with system(tmp_path) as queue:
        started, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

        @queue.worker.function("stubborn")
        async def stubborn(job: Job) -> None:
            started.set()
            while not go_on.is_set():
                with suppress(asyncio.CancelledError):
                    await go_on.wait()
            ended.set()

        queue.start_queue_runner()
        jobid, _ = await queue.call(queue.client.insert_job, "stubborn")
        stop = asyncio.Event()
        serving = asyncio.create_task(queue.worker.serve(stop, drain=0.05))
        await started.wait()
        stop.set() if end == "drain" else serving.cancel()
        done, _ = await asyncio.wait([serving], timeout=PATIENCE)
        go_on.set()
        assert done
        (left,) = queue.seen.of("worker.uncancelled")
        assert (left["jobs"], left["running"]) == (1, [f"stubborn 1:{jobid}"])
        if end == "drain":
            assert [job.jobid for job in serving.result()] == [jobid]
        await ended.wait()
        assert await queue.call(queue.client.get_job, (jobid, 1)) is not None  # it runs again


async def test_outcomes_wait_for_a_database_that_is_away(tmp_path: Path) -> None:
    """Held jobs are not lost, nor reported to Gearman, while nothing can be committed."""

    async with system(tmp_path) as queue:
        ran = asyncio.Event()
        (database,) = queue.worker.client.shards
        away = True
        complete = database.complete

        def refuse(jobids: list[int]) -> set[int]:
            if away:
                raise queue_error
            return complete(jobids)

        queue_error = UsageError("a defect of ours must not end the keeper either")
        database.complete = refuse  # type: ignore[method-assign,assignment]

        @queue.worker.function("plain")
        async def plain(job: Job) -> None:
            ran.set()

        queue.start_queue_runner()
        queue.start_worker()
        jobid, _ = await queue.call(queue.client.insert_job, "plain")
        await ran.wait()
        await queue.seen.wait("role.error")
        assert await queue.call(queue.database.get, jobid) is not None
        away = False
        await queue.gone()
        await queue.seen.wait("role.recovered")  # at the end of the round that commits


async def test_a_plain_gearman_worker_completes_the_jobs_it_is_given(tmp_path: Path) -> None:
    """The original's way: read the payload, work, call complete_job with the payload."""

    async with system(tmp_path) as queue:
        args = []

        def hello(held: aio.Held) -> None:
            payload = held.job.data
            args.append(payload)
            queue.database.complete([Handle(1, 1).jobid])
            held.complete()

        stock = aio.Worker(queue.address, [b"hello"], hello)
        running = asyncio.create_task(stock.run())
        queue.start_queue_runner()
        await queue.call(queue.client.insert_job, "hello", "world")
        await queue.gone()
        assert b'"arg":"world"' in args[0]
        await stock.drain()
        await running


async def test_an_async_function_that_runs_too_long_is_cancelled_and_has_failed(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        cancelled = asyncio.Event()

        @queue.worker.function("slow", timeout=0.05)
        async def slow(job: Job) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        @queue.worker.function("own", timeout=30)
        async def own(job: Job) -> None:
            raise TimeoutError("of the job's own")

        queue.start_queue_runner()
        queue.start_worker()
        jobid, _ = await queue.call(queue.client.insert_job, "slow")
        other, _ = await queue.call(queue.client.insert_job, "own")
        await queue.seen.wait("job.failed", 2)
        assert cancelled.is_set()
        (failure,) = await queue.call(queue.database.failures, jobid)
        assert (failure.error, failure.message) == ("TimeLimit", "ran longer than 0.05 s")
        (failure,) = await queue.call(queue.database.failures, other)
        assert (failure.error, failure.message) == ("TimeoutError", "of the job's own")


def test_limit_is_called_when_the_keeper_finds_the_execution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit wakes the keeper. If it found no execution then, it would sleep past the limit."""
    found: list[bool] = []
    limit = TimeLimit.limit

    def watched(part: TimeLimit, execution: Execution, seconds: float) -> None:
        found.append(part._running() is execution)
        limit(part, execution, seconds)

    monkeypatch.setattr(TimeLimit, "limit", watched)

    async def scenario() -> None:
        async with system(tmp_path) as queue:

            @queue.worker.function("f", timeout=30)
            def f(job: Job) -> None: ...

            queue.start_queue_runner()
            queue.start_worker()
            await queue.call(queue.client.insert_job, "f")
            await queue.gone()

    asyncio.run(scenario())
    assert found == [True]


async def test_what_a_function_does_to_the_worker_is_its_own_failure(tmp_path: Path) -> None:
    """A cancellation of the job's own, an exit, a coroutine that nobody awaits."""

    async with system(tmp_path) as queue:

        @queue.worker.function("cancelled")
        async def cancelled(job: Job) -> None:
            raise asyncio.CancelledError

        @queue.worker.function("exits")
        async def exits(job: Job) -> None:
            raise SystemExit(1)

        async def coroutine(job: Job) -> None: ...

        queue.worker.function("hidden")(lambda job: coroutine(job))
        queue.start_queue_runner()
        queue.start_worker()
        for name in ("cancelled", "exits", "hidden"):
            await queue.call(queue.client.insert_job, name)
        failed = await queue.seen.wait("job.failed", 3)
        assert {fields["error"] for fields in failed} == {"CancelledError", "SystemExit", "UsageError"}


async def test_a_starting_worker_says_what_its_functions_set(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:

        @queue.worker.function("f", lease=7, max_failures=1)
        def f(job: Job) -> None:
            raise ValueError

        assert queue.start_worker() is not None
        queue.start_queue_runner()
        await queue.call(queue.client.insert_job, "f")
        await queue.seen.wait("job.dead")
        policy = (await queue.call(queue.database.functions))["f"]
        assert (policy.lease, policy.max_failures, policy.renews) == (7, 1, True)
        # Somebody knows of other workers that do not renew.
        await queue.call(queue.database.set_function, "f", FunctionPolicy(renews=False))
        # The declaration of the worker that starts last replaces the former one, and not what is set.
        other = Worker(Client(queue.url), [queue.address])
        other.function("f")(f)
        queue.start_worker(other)
        async with asyncio.timeout(PATIENCE):
            while (settings := (await queue.call(queue.database.function_settings))["f"]).declared != {
                "renews": True
            }:
                await asyncio.sleep(0.01)
        assert settings.policy == FunctionPolicy(renews=False)


@pytest.mark.slow
async def test_a_job_is_told_when_another_attempt_has_taken_it_over(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        begun = asyncio.Event()
        lost: list[bool] = []

        @queue.worker.function("long")
        async def long(job: Job) -> None:
            begun.set()
            while not job.superseded:
                await asyncio.sleep(0.02)
            lost.append(job.superseded)
            raise ValueError("a stale failure changes nothing")

        queue.start_worker()
        jobid, _ = await queue.call(queue.client.insert_job, "long")
        (claimed,) = await queue.call(_claim, queue, 3)
        client = aio.Client(queue.address)
        await client.submit([Submission(b"long", encode_payload(claimed), claimed.unique)])
        await begun.wait()
        await queue.call(queue.client.reschedule_job, (jobid, 1), "+3600")
        await queue.seen.wait("job.stale")
        await queue.seen.wait("job.repeated")
        assert lost == [True]
        job = await queue.call(queue.database.get, jobid)
        assert job is not None
        assert (job.state, job.failcount) == (State.WAITING, 0)
        await client.close()


def test_registering_says_what_is_wrong(tmp_path: Path) -> None:
    worker = Worker(Client(f"sqlite:///{tmp_path}/none.db"))

    @worker.function("once")
    def once(job: Job) -> None: ...

    with pytest.raises(UsageError, match="twice"):
        worker.function("once")(once)
    with pytest.raises(UsageError, match="line break"):
        worker.function("two\nlines")
    with pytest.raises(UsageError, match="no function"):
        Worker(worker.client).run()
    with pytest.raises(UsageError, match="run_after"):
        Retry(after=-1)
    with pytest.raises(UsageError, match="timeout"):
        worker.function("timed", timeout=0)
    with pytest.raises(UsageError, match="lease"):
        worker.function("leased", lease=1)


def _generator(job: Job) -> Iterator[None]:
    yield


async def _async_generator(job: Job) -> AsyncIterator[None]:
    yield


class _Generator:
    def __call__(self, job: Job) -> Iterator[None]:
        yield


def _nothing() -> None: ...


def _two(job: Job, other: object) -> None: ...


def _keyword(*, job: Job) -> None: ...


async def _async_two(job: Job, other: object) -> None: ...


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (_generator, "yield"),
        (_async_generator, "yield"),
        (_Generator(), "yield"),
        (partial(_generator), "yield"),
        (_nothing, "one argument"),
        (_two, "one argument"),
        (_keyword, "one argument"),
        (_async_two, "one argument"),
        (lambda: None, "one argument"),
        (7, "not callable"),
    ],
)
def test_function_refuses_what_a_call_with_a_job_would_not_run(function: Any, said: str) -> None:
    worker = Worker(Client("sqlite:///none.db"))
    with pytest.raises(UsageError, match=said):
        worker.function("f")(function)
    assert worker.functions == {}


def test_function_takes_every_callable_with_one_place_for_the_job() -> None:
    class Callables:
        async def __call__(self, job: Job) -> None: ...

        def method(self, job: Job) -> None: ...

        @staticmethod
        def static(job: Job) -> None: ...

    def optional(job: Job, retries: int = 3, *, log: bool = True) -> None: ...

    worker = Worker(Client("sqlite:///none.db"))
    given: tuple[Any, ...] = (
        Callables(),
        Callables().method,
        Callables.static,
        optional,
        partial(_two, other=1),
        print,
    )
    for number, function in enumerate(given):
        worker.function(f"f{number}")(function)
    assert [entry.is_async for entry in worker.functions.values()] == [True] + [False] * 5


async def test_a_promise_of_work_is_no_success(tmp_path: Path) -> None:
    """What a function returns is looked at: a generator or an awaitable has not run."""

    async with system(tmp_path) as queue:

        async def coroutine(job: Job) -> None: ...

        async def nested(job: Job) -> Any:
            return coroutine(job)

        async def nested_generator(job: Job) -> Any:
            return _async_generator(job)

        promises = {
            "generator": lambda job: _generator(job),
            "async generator": lambda job: _async_generator(job),
            "coroutine": lambda job: coroutine(job),
            "future": lambda job: Future(),
            "nested": nested,
            "nested generator": nested_generator,
        }
        for name, function in promises.items():
            queue.worker.function(name.replace(" ", "-"))(function)
        queue.start_queue_runner()
        queue.start_worker()
        for name in promises:
            await queue.call(queue.client.insert_job, name.replace(" ", "-"))
        failed = await queue.seen.wait("job.failed", len(promises))
        assert [fields["error"] for fields in failed] == ["UsageError"] * len(promises)
        assert all("has not run" in fields["message"] for fields in failed)


class Future:
    """Something that can be awaited and is no coroutine."""

    def __await__(self) -> Iterator[None]:
        yield


def test_run_refuses_another_thread_than_the_main_one(tmp_path: Path) -> None:
    worker = Worker(Client(f"sqlite:///{tmp_path}/none.db"))
    worker.function("f")(lambda job: None)
    with ThreadPoolExecutor(1) as pool, pytest.raises(UsageError, match="serve"):
        pool.submit(worker.run).result()


async def test_a_small_job_starts_soon_after_its_insert(tmp_path: Path) -> None:
    """Without the wake-up a job waits for the next look, up to a second; with it, for nothing."""

    async with system(tmp_path) as queue:
        started: list[float] = []

        @queue.worker.function("plain")
        def plain(job: Job) -> None:
            started.append(time.monotonic())

        queue.start_queue_runner(poll=60)
        queue.start_worker()
        await queue.seen.wait("worker.started")
        await queue.seen.wait("gearman.connected", 2)
        for _ in range(3):
            await queue.call(queue.client.insert_job, "plain")
            await queue.gone()
        assert len(started) == 3


async def test_a_database_that_does_not_answer_holds_up_no_outcome_of_another(tmp_path: Path) -> None:
    urls = [sqlite_url(tmp_path, f"{name}.db") for name in ("one", "two")]
    ran: list[int] = []

    def f(job: Job) -> None:
        ran.append(job.dbid)

    def dispatch(client: Client, count: int) -> list[Submission]:
        found = []
        for database in client.shards:
            database.insert([new_job("f", b"") for _ in range(count)])
            (lane,) = database.lanes().lanes
            jobs = database.claim(lane, limit=count, lease=60)
            found += [Submission(b"f", encode_payload(job), job.unique) for job in jobs]
        return found

    with embedded() as address, Client(urls) as client:
        worker = Worker(Client(urls), address)
        worker.function("f")(f)
        server = aio.Client(address)
        stop = asyncio.Event()
        serving = asyncio.create_task(worker.serve(stop))
        async with asyncio.timeout(PATIENCE):
            await server.submit(dispatch(client, 1))
            while client.list_jobs():
                await asyncio.sleep(0.01)  # a deleted row says nothing
            submissions = dispatch(client, 3)
            with closing(sqlite3.connect(tmp_path / "one.db", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")  # nobody else can write to the first database now
                await server.submit(submissions)
                while [job.dbid for job in client.list_jobs()] != [1, 1, 1]:
                    await asyncio.sleep(0.01)
                assert sorted(ran) == [1] * 4 + [2] * 4
                other.execute("ROLLBACK")
        stop.set()
        await serving
        await server.close()
        assert client.list_jobs() == []


# ---- settings that change while it runs


async def test_worker_declares_its_settings_and_an_operator_overrides_them(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:

        @queue.worker.function("f", backoff=[5, 9], discard_on=(ValueError,), timeout=50, dead_retention=9)
        def fails(job: Job) -> None:
            raise LookupError if job.arg == b"retry" else UnicodeError("no")

        await queue.call(queue.database.set_function, "f", FunctionPolicy(timeout=40, max_failures=9))
        queue.start_worker()
        queue.start_queue_runner()
        await queue.call(queue.client.insert_job, "f", "retry")
        await queue.call(queue.client.insert_job, "f", "discard")
        assert (await queue.seen.wait("job.failed"))[0]["seconds"] == 5
        assert (await queue.seen.wait("job.dead"))[0]["error"] == "UnicodeError"
        policy = (await queue.call(queue.database.functions))["f"]
        assert (policy.timeout, policy.max_failures, policy.dead_retention) == (40, 9, 9)


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("first", [True, False], ids=["from its first job on", "later"])
async def test_worker_keeps_the_results_of_functions_with_a_retention(
    tmp_path: Path, is_async: bool, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied = threading.Event()
    apply = LiveSettings.apply

    def watched(live: LiveSettings, dbid: int, policies: Mapping[str, FunctionPolicy]) -> None:
        if not first:
            apply(live, dbid, policies)
        applied.set()

    monkeypatch.setattr(LiveSettings, "apply", watched)
    if first:  # nothing of this worker is registered
        monkeypatch.setattr(Registration, "step", lambda _: None)
        applied.set()
    async with system(tmp_path) as queue:

        def result(job: Job) -> object:
            return {"sum": 3} if job.arg == b"good" else object()

        async def async_result(job: Job) -> object:
            return result(job)

        queue.worker.function("f", retention=60)(async_result if is_async else result)
        queue.worker.function("plain")(result)
        queue.start_worker()
        await asyncio.to_thread(applied.wait, 60)
        queue.start_queue_runner()
        good = await queue.call(queue.client.insert_job, "f", "good")
        bad = await queue.call(queue.client.insert_job, "f", "bad")
        plain = await queue.call(queue.client.insert_job, "plain", "good")
        await queue.gone()
        kept = await queue.call(queue.client.result, good)
        assert kept is not None
        assert kept.result == b'{"sum":3}'
        assert kept.seconds is not None
        assert 0 <= kept.seconds < 60
        assert kept.worker
        unwritable = await queue.call(queue.client.result, bad)
        assert unwritable is not None
        assert unwritable.result is None
        (report,) = await queue.call(queue.client.reports, bad)
        assert b"the result, a object, cannot be written as JSON" in report.body
        assert await queue.call(queue.client.result, plain) is None


@pytest.mark.slow
async def test_worker_uses_a_time_limit_that_an_operator_sets_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("garivini.keeper.functions._MAX_AGE", 0.1)
    limits: list[float | None] = []
    apply = LiveSettings.apply

    def watched(live: LiveSettings, dbid: int, policies: Mapping[str, FunctionPolicy]) -> None:
        apply(live, dbid, policies)
        limits.append(policies["f"].timeout)

    monkeypatch.setattr(LiveSettings, "apply", watched)
    async with system(tmp_path) as queue:

        @queue.worker.function("f", timeout=500)
        async def waits(job: Job) -> None:
            await asyncio.sleep(0 if job.arg == b"short" else 300)

        queue.start_worker()
        queue.start_queue_runner()
        await queue.call(queue.client.insert_job, "f", "short")
        await queue.gone()
        await queue.call(queue.database.set_function, "f", FunctionPolicy(timeout=0.2))
        while 0.2 not in limits:
            await asyncio.sleep(0.05)
        await queue.call(queue.client.insert_job, "f", "long")
        assert (await queue.seen.wait("job.failed"))[0]["error"] == "TimeLimit"
