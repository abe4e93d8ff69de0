"""Rates in whole queues: each path to a worker keeps them, and no other job waits."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from garivini import Client, Job, State, Worker
from garivini.model.policy import NO_POLICY, FunctionPolicy
from garivini.model.rate import parse_rate
from garivini.worker.functions import registered
from garivini.worker.links import Links
from garivini.worker.live_settings import LiveSettings
from tests.processes import PATIENCE, SOON, command
from tests.system import System, system
from tests.test_limits import Gauge, insert

# Most wait for some starts of a rate.
pytestmark = pytest.mark.slow

#: The rate of most tests, and how many of its jobs may start at once.
RATE: Final = "50/s"
BURST: Final = 5
#: Seconds from the claim of a job to its start on a busy machine, by which a span of starts may be shorter.
LATE: Final = 0.5


class Starts:
    """A function that notes when its jobs start."""

    def __init__(self, worker: Worker, funcname: str = "f", *, declared: str | None = None) -> None:
        self.times: list[float] = []
        worker.function(funcname, rate=declared)(self.run)

    async def run(self, job: Job) -> None:
        self.times.append(time.monotonic())

    def check(self, rate: str = RATE, burst: int = BURST) -> None:
        """In any span of time: those of the rate, the burst, and as many that waited in Gearman."""
        interval = parse_rate(rate, burst).interval
        for first, begin in enumerate(self.times):
            for count, end in enumerate(self.times[first:], 1):
                assert count <= 2 * burst + 1 + (end - begin + LATE) / interval


async def limit(queue: System, rate: str = RATE, burst: int | None = BURST, funcname: str = "f") -> None:
    await queue.call(queue.database.set_function, funcname, FunctionPolicy(rate=rate, burst=burst))


@pytest.mark.parametrize("url", ["sqlite", "mariadb", "postgresql"])
async def test_queue_runners_keep_a_rate_together_and_use_it(
    url: str, urls: Callable[[str], str], tmp_path: Path
) -> None:
    async with system(tmp_path, urls(url)) as queue:
        starts = Starts(queue.worker)
        await limit(queue)
        await insert(queue, 105)
        for _ in range(3):
            queue.start_queue_runner()
        queue.start_worker()
        await queue.gone()
        assert len(starts.times) == 105
        starts.check()
        assert starts.times[-1] - starts.times[0] >= 100 * 0.02 - LATE


async def test_a_rate_that_a_worker_declares_is_kept(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        starts = Starts(queue.worker, declared="4/s")
        queue.start_worker()
        await queue.seen.wait("worker.started")
        async with asyncio.timeout(PATIENCE):
            while not await queue.call(queue.database.functions):
                await asyncio.sleep(0.01)  # the end of the registration is not reported
        await insert(queue, 5)
        queue.start_queue_runner()
        await queue.gone()
        assert starts.times[-1] - starts.times[0] >= 0.9


async def test_no_more_than_a_burst_waits_for_a_worker(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        starts = Starts(queue.worker)
        await limit(queue, "1000/s")
        await insert(queue, 100)
        for _ in range(2):
            queue.start_queue_runner()
        await queue.seen.until(lambda: sum(it["jobs"] for it in queue.seen.of("jobs.dispatched")) >= BURST)
        for _ in range(2):
            await asyncio.sleep(0.5)  # nothing tells that nothing happens
            leased = [job for job in await queue.call(queue.database.jobs) if job.state is State.LEASED]
            assert len(leased) <= 2 * BURST  # each QueueRunner counts by itself
        queue.start_worker()
        await queue.gone()
        assert len(starts.times) == 100


async def test_a_client_leaves_jobs_with_a_rate_to_a_queue_runner(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        await limit(queue)
        client = Client(queue.url, [queue.address])
        await queue.call(client.insert_jobs, [["f", None, None, b"x"]] * 5)
        await queue.call(client.close)
        assert {job.state for job in await queue.call(queue.database.jobs)} == {State.WAITING}


async def test_jobs_of_other_functions_run_while_a_rate_holds_jobs_back(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        held, other = Gauge(queue, "f", 0.0), Gauge(queue, "g", 0.0)
        await limit(queue, "1/h", 1)
        await insert(queue, 50)
        queue.start_worker()
        queue.start_queue_runner()
        await queue.gone(49)
        rows = await queue.call(queue.database.jobs)
        for number in range(5):
            await insert(queue, 1, "g")
            await queue.gone(49)
            assert len(other.ran) == number + 1
        assert len(held.ran) == 1
        assert await queue.call(queue.database.jobs) == rows  # nobody has written them


async def test_a_rate_that_is_raised_is_used_soon(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        starts = Starts(queue.worker)
        await limit(queue, "1/d", 1)
        await insert(queue, 20)
        queue.start_worker()
        queue.start_queue_runner()
        await queue.gone(19)
        await limit(queue)
        began = time.monotonic()
        await queue.gone()
        assert len(starts.times) == 20
        assert time.monotonic() - began < SOON


async def test_a_rate_that_is_lowered_holds_when_the_settings_are_read(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        starts = Starts(queue.worker)
        await limit(queue, "100/s")
        await insert(queue, 400)
        queue.start_worker()
        queue.start_queue_runner()
        await queue.gone(300)
        await limit(queue, "1/h", 1)
        await asyncio.sleep(1.1)  # the age of a QueueRunner's settings
        before = len(starts.times)
        await asyncio.sleep(1.0)
        assert before < 400
        assert len(starts.times) - before <= 1


def test_a_worker_requests_no_jobs_ahead_while_one_of_its_def_functions_has_a_rate() -> None:
    def f(job: Job) -> None: ...
    async def g(job: Job) -> None: ...

    functions = {name.__name__.encode(): registered(name.__name__, name, NO_POLICY) for name in (f, g)}
    links = Links(1)
    live = LiveSettings(functions, links, time.monotonic)
    rated, slots = FunctionPolicy(rate="1/s"), []
    for policies in ({}, {"g": rated}, {"f": rated}, {"f": FunctionPolicy(max_running=1)}):
        live.apply(1, policies)
        links.prefetch(0.0001)
        slots.append(links.slots)
    assert slots == [2, 4, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("url", ["sqlite", "mariadb", "postgresql"])
async def test_a_rate_is_kept_while_queue_runners_are_killed(
    url: str, urls: Callable[[str], str], tmp_path: Path
) -> None:
    async with system(tmp_path, urls(url)) as queue:
        starts = Starts(queue.worker)
        await limit(queue)
        queue.start_worker()
        for _ in range(2):
            queue.start_queue_runner()
        for _ in range(4):
            with command(
                tmp_path, "run", "queue-runner", GARIVINI_DB=queue.url, GARIVINI_JOB_SERVERS=queue.address
            ) as third:
                await queue.call(third.wait_for, "gearman.connected")
                await insert(queue, 100)
                await queue.gone(30)
                third.process.kill()
        await queue.gone()
        assert len(starts.times) >= 400
        starts.check()
