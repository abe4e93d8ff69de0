"""Rules about partitions, in whole queues: each QueueRunner keeps them, and no partition delays another."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from garivini import Client, Job, State
from garivini.model.policy import WAITING_TURNS, FunctionPolicy
from tests.system import System, system


class Gauge:
    """A function that counts how many of its jobs run at the same time, by partition."""

    def __init__(self, queue: System, seconds: float = 0.02) -> None:
        self.running: Counter[str | None] = Counter()
        self.most: defaultdict[str | None, int] = defaultdict(int)
        self.ran: list[str | None] = []
        self._seconds = seconds
        queue.worker.function("f")(self.run)

    async def run(self, job: Job) -> None:
        self.running[job.partition] += 1
        self.most[job.partition] = max(self.most[job.partition], self.running[job.partition])
        await asyncio.sleep(self._seconds)
        self.running[job.partition] -= 1
        self.ran.append(job.partition)


async def rule(queue: System, policy: FunctionPolicy) -> None:
    await queue.call(queue.database.set_function, "f", policy)


async def insert(queue: System, partitions: Iterable[str | None]) -> None:
    await queue.call(queue.client.insert_jobs, [{"funcname": "f", "partition": name} for name in partitions])


@pytest.mark.parametrize("url", ["sqlite", "mariadb", "postgresql"])
async def test_queue_runners_keep_the_limit_of_each_partition_together_and_use_it(
    url: str, urls: Callable[[str], str], tmp_path: Path
) -> None:
    async with system(tmp_path, urls(url)) as queue:
        gauge = Gauge(queue)
        await rule(queue, FunctionPolicy(partition_max_running=2))
        names = [*["a"] * 16, *["b"] * 8, *[None] * 8]
        await insert(queue, names)
        for _ in range(2):
            queue.start_worker()
            queue.start_queue_runner()
        await queue.gone()
        assert Counter(gauge.ran) == Counter(names)
        assert gauge.most == {"a": 2, "b": 2, None: 2}


async def test_a_partition_at_its_limit_does_not_delay_another(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        release = asyncio.Event()
        ran: list[str | None] = []

        @queue.worker.function("f")
        async def f(job: Job) -> None:
            if job.partition == "slow":
                await release.wait()
            ran.append(job.partition)

        await rule(queue, FunctionPolicy(partition_max_running=1))
        await insert(queue, ["slow"] * 20)
        queue.start_worker()
        queue.start_queue_runner()
        await queue.seen.wait("jobs.dispatched")
        for number in range(3):
            await insert(queue, [f"quick{number}"])
            await queue.gone(jobs=20)
        assert ran == ["quick0", "quick1", "quick2"]
        states = Counter(job.state for job in await queue.call(queue.database.jobs))
        assert states[State.WAITING] == 19
        release.set()
        await queue.gone()


async def test_a_lonely_job_of_a_fair_function_waits_for_no_backlog(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        gauge = Gauge(queue, 0.001)
        await rule(queue, FunctionPolicy(fair=True))
        await insert(queue, ["big"] * 300)
        queue.start_worker()
        queue.start_queue_runner()
        await queue.seen.wait("jobs.dispatched")
        before = len(gauge.ran)
        await insert(queue, ["small"])
        await queue.gone()
        # Before it run those that wait in the server, and those that its pass has claimed.
        assert gauge.ran.index("small") - before <= 6 * WAITING_TURNS
        assert len(gauge.ran) == 301


async def test_a_rate_of_partitions_holds_for_each(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        gauge = Gauge(queue, 0.0)
        await rule(queue, FunctionPolicy(partition_rate="10/s", partition_burst=2))
        began = asyncio.get_running_loop().time()
        await insert(queue, ["a"] * 8 + ["b"] * 8)
        queue.start_worker()
        queue.start_queue_runner()
        await queue.gone()
        assert asyncio.get_running_loop().time() - began > 0.5  # six more at 10/s, less the burst's rounding
        assert Counter(gauge.ran) == {"a": 8, "b": 8}


async def test_a_client_leaves_jobs_of_a_function_with_rules_about_partitions_to_a_queue_runner(
    tmp_path: Path,
) -> None:
    async with system(tmp_path) as queue:
        await rule(queue, FunctionPolicy(fair=True))
        client = Client(queue.url, [queue.address])
        for funcname in ("f", "g"):
            job = {"funcname": funcname, "partition": "a"}
            await queue.call(client.insert_jobs, [job] * 3)
        await queue.call(client.close)
        found = [(job.funcname, job.state, job.partition) for job in await queue.call(queue.database.jobs)]
        assert found == [("f", State.WAITING, "a")] * 3 + [("g", State.LEASED, "a")] * 3
