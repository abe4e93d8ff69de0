"""Bundles in whole queues: one call for several jobs, each with its own row, attempt and outcome."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from garivini import Discard, Job, Retry, State
from garivini.model.policy import FunctionPolicy
from tests.system import System, system


async def insert(queue: System, values: list[str | None], funcname: str = "f") -> None:
    jobs = [{"funcname": funcname, "coalesce": value} for value in values]
    await queue.call(queue.client.insert_jobs, jobs)


async def stored(queue: System) -> list[Job]:
    found: list[Job] = await queue.call(queue.database.jobs)
    return found


@pytest.mark.parametrize("url", ["sqlite", "mariadb", "postgresql"])
async def test_bundle_carries_10_000_jobs_in_100_groups_each_once(
    url: str, urls: Callable[[str], str], tmp_path: Path
) -> None:
    async with system(tmp_path, urls(url)) as queue:
        calls: list[list[tuple[int, str | None]]] = []

        @queue.worker.function("f", coalesce_max=50)
        async def f(job: Job) -> None:
            calls.append([(it.jobid, it.coalesce) for it in job.bundle])

        await queue.call(queue.database.set_function, "f", FunctionPolicy(coalesce_max=50))
        for _ in range(10):
            await insert(queue, [f"group{number % 100}" for number in range(1000)])
        queue.start_worker()
        for _ in range(2):
            queue.start_queue_runner()
        await queue.gone()
        ran = Counter(jobid for call in calls for jobid, _ in call)
        assert len(ran) == 10_000
        assert set(ran.values()) == {1}
        assert max(map(len, calls)) <= 50
        assert len(calls) < 2000
        assert all(len({value for _, value in call}) == 1 for call in calls)


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_bundle_that_fails_is_retried_alone(kind: str, tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        calls: list[list[str | None]] = []

        def run(job: Job) -> None:
            calls.append([it.coalesce for it in job.bundle])
            if len(job.bundle) > 1 and job.coalesce == "bad":
                raise ValueError("not together")

        async def run_async(job: Job) -> None:
            run(job)

        function = run if kind == "def" else run_async
        queue.worker.function("f", coalesce_max=10, backoff=[1])(function)
        await queue.call(queue.database.set_function, "f", FunctionPolicy(coalesce_max=10))
        await insert(queue, ["good", "bad", "good", "bad", "bad"])
        queue.start_worker()
        queue.start_queue_runner()
        await queue.gone()
        assert Counter(map(tuple, calls)) == {("bad",): 3, ("bad",) * 3: 1, ("good",) * 2: 1}


async def test_bundle_answers_for_each_job(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        ran = asyncio.Event()

        @queue.worker.function("f", coalesce_max=10, backoff=[600])
        async def f(job: Job) -> None:
            first, second, third, fourth = job.bundle
            second.fail(ValueError("mine"))
            third.fail(Retry(after=600))
            fourth.fail(Discard("no"))
            assert first is job
            ran.set()

        await queue.call(queue.database.set_function, "f", FunctionPolicy(coalesce_max=10))
        await insert(queue, ["a"] * 4)
        queue.start_worker()
        queue.start_queue_runner()
        await asyncio.wait_for(ran.wait(), 20)
        await queue.gone(jobs=3)
        found = sorted(await stored(queue), key=lambda job: job.jobid)
        assert [job.state for job in found] == [State.WAITING, State.WAITING, State.DEAD]
        assert [job.failcount for job in found[:2]] == [1, 0]


async def test_succeed_keeps_the_work_of_a_job_whose_bundle_fails(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:

        @queue.worker.function("f", coalesce_max=10, backoff=[600])
        def f(job: Job) -> None:
            job.bundle[1].succeed()
            raise ValueError("the others")

        await queue.call(queue.database.set_function, "f", FunctionPolicy(coalesce_max=10))
        await insert(queue, ["a"] * 3)
        queue.start_worker()
        queue.start_queue_runner()
        await queue.gone(jobs=2)
        assert len(await stored(queue)) == 2


async def test_bundle_leaves_out_a_job_that_was_cancelled_before_it_starts(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        calls: list[int] = []

        @queue.worker.function("f", coalesce_max=10)
        async def f(job: Job) -> None:
            calls.append(len(job.bundle))

        await queue.call(queue.database.set_function, "f", FunctionPolicy(coalesce_max=10))
        await insert(queue, ["a"] * 3)
        queue.start_queue_runner()
        await queue.seen.wait("jobs.dispatched")
        first = min(await stored(queue), key=lambda job: job.jobid)
        await queue.call(queue.client.cancel_job, first)
        queue.start_worker()
        await queue.gone(jobs=1)  # the cancelled one is dead
        assert calls == [2]


async def test_bundle_of_a_worker_that_stops_runs_again_as_a_whole(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        calls: list[int] = []
        entered = asyncio.Event()

        @queue.worker.function("f", coalesce_max=10)
        async def f(job: Job) -> None:
            calls.append(len(job.bundle))
            entered.set()
            if len(calls) == 1:
                await asyncio.Event().wait()

        await queue.call(queue.database.set_function, "f", FunctionPolicy(coalesce_max=10))
        await insert(queue, ["a"] * 3)
        queue.start_queue_runner()
        stop = asyncio.Event()
        serving = asyncio.create_task(queue.worker.serve(stop, drain=0.1))
        await asyncio.wait_for(entered.wait(), 20)
        stop.set()
        await serving
        queue.start_worker()
        await queue.gone()
        assert calls == [3, 3]
