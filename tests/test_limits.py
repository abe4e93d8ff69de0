"""Limits of the jobs in flight, in whole queues: each path to a worker keeps them, and no other job waits."""

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Final
from unittest.mock import patch

import pytest

from garivini import Client, Job, State
from garivini.model.job import Handle
from garivini.model.policy import FunctionPolicy
from garivini.roles.held_back import HeldBack
from garivini.store.database import Database
from tests.processes import PATIENCE
from tests.system import System, system
from tests.test_injector import Caller, counted
from tests.test_queue_runner import claim, runner

#: The limit of most tests.
MOST: Final = 3


class Gauge:
    """A function that counts how many of its jobs run at the same time."""

    def __init__(self, queue: System, funcname: str, seconds: float = 0.02) -> None:
        self.running = 0
        self.most = 0
        self.ran: list[bytes] = []
        self._seconds = seconds
        queue.worker.function(funcname)(self.run)

    async def run(self, job: Job) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(self._seconds)
        self.running -= 1
        self.ran.append(job.arg)


async def limit(queue: System, max_running: int = MOST, funcname: str = "f") -> None:
    await queue.call(queue.database.set_function, funcname, FunctionPolicy(max_running=max_running))


async def insert(queue: System, jobs: int, funcname: str = "f") -> None:
    await queue.call(queue.client.insert_jobs, [[funcname, None, None, b"%d" % n] for n in range(jobs)])


@pytest.mark.parametrize("url", ["sqlite", "mariadb", "postgresql"])
async def test_queue_runners_keep_a_limit_together_and_use_it(
    url: str, urls: Callable[[str], str], tmp_path: Path
) -> None:
    async with system(tmp_path, urls(url)) as queue:
        gauge = Gauge(queue, "f")
        await limit(queue)
        await insert(queue, 40)
        for _ in range(2):
            queue.start_worker()
            queue.start_queue_runner()
        await queue.gone()
        assert sorted(gauge.ran, key=int) == [b"%d" % number for number in range(40)]
        assert gauge.most == MOST


async def test_a_client_leaves_jobs_with_a_limit_to_a_queue_runner(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        await limit(queue)
        client = Client(queue.url, [queue.address])
        for funcname in ("f", "g"):
            await queue.call(client.insert_jobs, [[funcname, None, None, b"x"]] * 5)
        await queue.call(client.close)
        states = [(job.funcname, job.state) for job in await queue.call(queue.database.jobs)]
        assert states == [("f", State.WAITING)] * 5 + [("g", State.LEASED)] * 5


async def test_an_injector_leaves_jobs_with_a_limit_to_a_queue_runner(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        await limit(queue)
        queue.start_injector()
        await counted(queue)
        async with Caller(queue.address) as caller:
            for funcname in ("f", "g"):
                await caller.inject(funcname)
        await queue.seen.wait("jobs.dispatched")
        states = [(job.funcname, job.state) for job in await queue.call(queue.database.jobs)]
        assert states == [("f", State.WAITING), ("g", State.LEASED)]


@pytest.mark.slow
async def test_an_injector_that_was_idle_knows_a_limit_that_was_set_meanwhile(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        queue.start_injector()
        await counted(queue)
        await limit(queue)
        functions, reads = Database.functions, []

        def noted(database: Database) -> dict[str, FunctionPolicy]:
            reads.append(database.dbid)
            return functions(database)

        with patch.object(Database, "functions", noted):
            async with asyncio.timeout(PATIENCE):
                while len(reads) < 2:  # the second one begins after the first is used
                    await asyncio.sleep(0.01)
        async with Caller(queue.address) as caller:
            await caller.inject("f")
        (job,) = await queue.call(queue.database.jobs)
        assert job.state is State.WAITING


async def test_a_controller_calls_no_more_jobs_than_the_limit(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        gauge = Gauge(queue, "f")
        await limit(queue)
        await queue.call(
            queue.client.insert_jobs,
            [["f", None, None, b"%d" % n] for n in range(12)],
            flag="controller",
        )
        queue.start_worker()
        queue.start_controller()
        queue.start_queue_runner()
        await queue.gone()
        assert gauge.most <= MOST
        assert len(gauge.ran) == 12


async def test_jobs_of_other_functions_run_while_a_function_is_full(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        release = asyncio.Event()

        @queue.worker.function("f")
        async def f(job: Job) -> None:
            await release.wait()

        gauge = Gauge(queue, "g", 0.0)
        await limit(queue)
        await insert(queue, 20)
        queue.start_worker()
        queue.start_queue_runner()
        await queue.seen.wait("jobs.dispatched")
        for number in range(5):
            await insert(queue, 1, "g")
            await queue.gone(jobs=20)
            assert len(gauge.ran) == number + 1
        assert sum(job.state is not State.WAITING for job in await queue.call(queue.database.jobs)) == MOST
        release.set()
        await queue.gone()


async def test_a_limit_that_is_set_later_holds_as_soon_as_the_jobs_in_flight_have_ended(
    tmp_path: Path,
) -> None:
    async with system(tmp_path) as queue:
        await insert(queue, 4)
        await claim(queue)
        await insert(queue, 6)
        await limit(queue, 2)
        queue_runner, servers = runner(queue)
        in_flight = []
        for ended in ([], [1, 2], [3]):
            await queue.call(queue.database.complete, ended)
            queue_runner._held_back.begin(math.inf)
            await queue_runner.run_pass()
            in_flight.append(await held(queue))
        assert in_flight == [[1, 2, 3, 4], [3, 4], [4, 5]]
        queue_runner.close()
        await servers.close()


async def held(queue: System) -> list[int]:
    """Return the ids of the jobs in flight."""
    return [job.jobid for job in await queue.call(queue.database.jobs) if job.state is State.LEASED]


async def test_a_slot_of_a_job_that_another_program_deletes_is_used_again(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        await limit(queue, 1)
        await insert(queue, 2)
        queue.start_queue_runner()
        await queue.seen.wait("jobs.dispatched")
        await queue.call(queue.database.complete, [1])
        await queue.seen.wait("jobs.dispatched", 2)
        job = await queue.call(queue.database.get, 2)
        assert job is not None
        assert job.handle == Handle(2, 1, 1)


@pytest.mark.slow
async def test_a_limit_that_is_deleted_holds_nothing_back(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        gauge = Gauge(queue, "f", 0.0)
        await limit(queue, 1)
        await insert(queue, 30)
        queue.start_queue_runner()
        await queue.seen.wait("jobs.dispatched")
        await queue.call(queue.database.unset_function, "f")
        await queue.seen.until(lambda: sum(it["jobs"] for it in queue.seen.of("jobs.dispatched")) == 30)
        queue.start_worker()
        await queue.gone()
        assert len(gauge.ran) == 30


# ---- when a QueueRunner claims again


def test_held_back_leaves_a_function_out_until_its_time() -> None:
    held = HeldBack()
    held.claimed("f", jobs=2, held_back=0.0, now=100.0)
    held.begin(100.005)
    assert "f" in held
    assert "g" not in held
    assert held.until_claim(100.005) == [pytest.approx(0.005)]
    held.begin(100.01)
    assert "f" not in held
    assert held.until_claim(100.01) == []


def test_held_back_waits_longer_while_nothing_is_handed_out() -> None:
    held, waits = HeldBack(), []
    for _ in range(5):
        held.claimed("f", jobs=0, held_back=0.0, now=100.0)
        waits += held.until_claim(100.0)
    assert waits == pytest.approx([0.01, 0.02, 0.04, 0.05, 0.05])
    held.claimed("f", jobs=1, held_back=0.0, now=100.0)
    assert held.until_claim(100.0) == pytest.approx([0.01])


def test_held_back_forgets_a_function_that_no_rule_holds_back() -> None:
    held = HeldBack()
    held.claimed("f", jobs=0, held_back=0.0, now=100.0)
    held.claimed("f", jobs=0, held_back=None, now=100.0)
    assert "f" not in held
    assert held.until_claim(100.0) == []
