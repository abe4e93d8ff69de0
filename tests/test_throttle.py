"""Events that wrong input causes in any number: few of them are emitted, and none is left uncounted."""

import asyncio
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from garivini import events
from garivini.errors import RefusedError
from garivini.events import throttle
from garivini.events.limiter import INTERVAL, Limiter
from garivini.gearman import aio
from garivini.gearman.protocol import Submission
from garivini.model.job import Job
from garivini.model.payload import encode_payload
from garivini.submission import RUN_QUEUED_JOB
from tests.processes import PATIENCE
from tests.system import system
from tests.test_inject_calls import call
from tests.test_injector import Caller, counted


def total(seen: list[dict[str, Any]]) -> int:
    return sum(fields.get("count", 1) for fields in seen)


# ---- what is admitted


def test_limiter_admits_the_first_of_each_reason_and_counts_the_rest() -> None:
    limiter = Limiter()
    admitted = [limiter.admit("inject.refused", {"reason": reason}, 100.0) for reason in "aabab"]
    assert admitted == [True, False, True, False, False]
    assert limiter.take_held(110.0) == [
        ("inject.refused", {"reason": "a", "count": 2}),
        ("inject.refused", {"reason": "b", "count": 1}),
    ]
    assert limiter.take_held(120.0) == []


def test_limiter_makes_a_flood_one_event_per_interval() -> None:
    limiter = Limiter()
    for interval in range(5):
        for _ in range(1000):
            admitted = limiter.admit("inject.refused", {"reason": "a"}, interval * INTERVAL)
            assert not admitted or interval == 0
        ((_, fields),) = limiter.take_held((interval + 1) * INTERVAL)
        assert fields["count"] >= 999
    # When it is over, the next one is news.
    limiter.take_held(6 * INTERVAL)
    assert limiter.admit("inject.refused", {"reason": "a"}, 7 * INTERVAL)


def test_limiter_bounds_what_it_keeps_whatever_the_reasons() -> None:
    limiter = Limiter()
    admitted = sum(limiter.admit("inject.refused", {"reason": str(n)}, 1.0) for n in range(10_000))
    assert admitted <= 11
    held = limiter.take_held(11.0)
    assert len(held) == 1
    assert admitted + held[0][1]["count"] == 10_000


# ---- with real parts


@pytest.fixture
def refused_calls() -> Iterator[list[str]]:
    """The lines that are logged."""
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Handler()
    logger = logging.getLogger("garivini")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)  # a command that ran in this process may have left another
    yield lines
    logger.setLevel(level)
    logger.removeHandler(handler)


@pytest.mark.slow
def test_a_flood_of_calls_that_are_refused_is_some_lines_of_log(
    tmp_path: Path, refused_calls: list[str]
) -> None:
    async def scenario() -> None:
        async with system(tmp_path) as queue:
            queue.start_injector(allow=["f"])
            await counted(queue)
            wrong = [b"{", b"[]", call({"funcname": "g"}), call({"funcname": "f", "arg": {}})]
            async with Caller(queue.address) as caller:
                await asyncio.gather(
                    *(caller.send(wrong[n % 4]) for n in range(2000)), return_exceptions=True
                )
                assert (await caller.inject("f"))[0] == 1
            throttle.emit_held()
            assert total(queue.seen.of("inject.refused")) == 2000
            assert len(queue.seen.of("inject.refused")) == 8

    asyncio.run(scenario())
    assert len([line for line in refused_calls if line.startswith("inject.refused")]) == 8


@pytest.mark.parametrize("function", ["f", RUN_QUEUED_JOB], ids=["worker", "controller"])
async def test_a_flood_of_payloads_that_are_none_is_some_events_and_jobs_go_on(
    tmp_path: Path, function: str
) -> None:
    async with system(tmp_path) as queue:
        ran = asyncio.Event()

        @queue.worker.function("f")
        async def f(job: Job) -> None:
            ran.set()

        queue.start_queue_runner()
        queue.start_worker()
        queue.start_controller()
        client = aio.Client(queue.address)
        wrong = [b"x", b"{}", encode_payload(Job(jobid=1, dbid=9, funcname="f", arg=b""))]
        await client.submit([Submission(function.encode(), wrong[n % 3]) for n in range(2000)])
        await queue.call(queue.client.insert_job, "f")
        await ran.wait()

        def all_dropped() -> bool:
            throttle.emit_held()
            return total(queue.seen.of("job.dropped")) == 2000

        async with asyncio.timeout(PATIENCE):
            while not all_dropped():
                await asyncio.sleep(0.1)  # what is held says nothing
        assert len(queue.seen.of("job.dropped")) < 100
        await client.close()


async def test_calls_that_are_refused_count_as_jobs_of_the_rate(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        queue.start_injector(rate=0.01)  # one at once, and the next after 100 s
        await counted(queue)
        async with Caller(queue.address) as caller:
            said = await asyncio.gather(*(caller.send(b"{") for _ in range(30)), return_exceptions=True)
            assert all(isinstance(each, RefusedError) for each in said)
            assert sum("not a job in JSON" in str(each) for each in said) == 1
            with pytest.raises(RefusedError, match="try again later"):
                await caller.inject("f")


def test_a_forked_process_holds_nothing_of_its_parents() -> None:
    throttle.install()
    seen: list[str] = []
    unlisten = events.listen(lambda name, fields: seen.append(name))
    try:
        for _ in range(5):
            events.emit("inject.refused", reason="r")
        assert len(seen) == 1
        pid = os.fork()
        if pid == 0:
            events.emit("inject.refused", reason="r")
            os._exit(len(seen))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2
        throttle.emit_held()
        assert len(seen) == 2
    finally:
        unlisten()
