"""Cancelled jobs in whole queues: those that run notice it, and those that wait in a server never start."""

import asyncio
import threading
import time
from pathlib import Path
from unittest.mock import patch

import pytest

from garivini import Job, State, Worker
from garivini.gearman import aio
from garivini.store.database import Database
from tests.processes import PATIENCE, SOON
from tests.system import System, system

# Marks are read once a second.
pytestmark = pytest.mark.slow


async def cancel(queue: System, jobid: int) -> None:
    assert await queue.call(queue.client.cancel_job, (jobid, 1), "as the test wants")


async def until_marks_are_read(queue: System) -> None:
    """Wait until each keeper has read the marks that there are now."""
    reads, marks = [], Database.marks

    def noted(database: Database) -> dict[str, int]:
        reads.append(database.dbid)
        return marks(database)

    with patch.object(Database, "marks", noted):
        async with asyncio.timeout(PATIENCE):
            while len(reads) < 2:  # the second one begins after the first is used
                await asyncio.sleep(0.01)


async def test_a_running_async_def_is_cancelled_within_two_seconds(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        running, ended = asyncio.Event(), asyncio.Event()
        seen = []

        @queue.worker.function("f")
        async def f(job: Job) -> None:
            running.set()
            try:
                await asyncio.Event().wait()
            finally:
                seen.append((job.cancelled, job.superseded))
                ended.set()

        queue.start_worker()
        queue.start_queue_runner()
        await queue.call(queue.client.insert_job, "f")
        async with asyncio.timeout(PATIENCE):
            await running.wait()
            await cancel(queue, 1)
            began = time.monotonic()
            await ended.wait()
        assert time.monotonic() - began < SOON
        assert seen == [(True, True)]
        (job,) = await queue.call(queue.database.jobs)
        assert (job.state, job.failcount) == (State.DEAD, 0)
        (record,) = await queue.call(queue.database.failures, 1)
        assert (record.kind, record.message) == ("cancelled", "as the test wants")


async def test_a_running_def_sees_that_it_is_cancelled_and_may_succeed_anyway(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        running = threading.Event()

        @queue.worker.function("f")
        def f(job: Job) -> None:
            running.set()
            deadline = time.monotonic() + PATIENCE
            while not job.cancelled:
                assert time.monotonic() < deadline
                time.sleep(0.01)

        queue.start_worker()
        queue.start_queue_runner()
        await queue.call(queue.client.insert_job, "f")
        await queue.call(running.wait, PATIENCE)
        await cancel(queue, 1)
        await queue.gone()


async def test_a_def_without_a_supervisor_is_reported_after_the_grace_time_and_continues(
    tmp_path: Path,
) -> None:
    async with system(tmp_path) as queue:
        running, release = threading.Event(), threading.Event()

        @queue.worker.function("f", cancel_grace=1)
        def f(job: Job) -> None:
            running.set()
            assert release.wait(PATIENCE)

        queue.start_worker()
        queue.start_queue_runner()
        await queue.call(queue.client.insert_job, "f")
        await queue.call(running.wait, PATIENCE)
        await cancel(queue, 1)
        assert await queue.seen.wait("job.overdue") == [{"jobid": 1, "seconds": 1}]
        release.set()
        await queue.gone()


async def test_a_copy_of_a_cancelled_job_that_waits_in_a_server_does_not_start(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        running, release = asyncio.Event(), asyncio.Event()
        ran = []
        worker = Worker(queue.worker.client, [queue.address], concurrency=1)

        @worker.function("f")
        async def f(job: Job) -> None:
            running.set()
            await release.wait()
            ran.append((job.jobid, job.superseded))

        queue.start_worker(worker)
        queue.start_queue_runner()
        await queue.call(queue.client.insert_job, "f")
        async with asyncio.timeout(PATIENCE):
            await running.wait()
        await queue.call(queue.client.insert_jobs, [["f", None, None, b""]] * 3)
        await queue.seen.until(lambda: sum(it["jobs"] for it in queue.seen.of("jobs.dispatched")) == 4)
        await cancel(queue, 3)
        await until_marks_are_read(queue)
        release.set()
        await queue.gone(jobs=1)
        (job,) = await queue.call(queue.database.jobs)
        assert (job.jobid, job.state) == (3, State.DEAD)
        assert sorted(ran) == [(1, False), (2, False), (4, False)]


async def test_a_controller_ends_the_call_of_a_cancelled_job(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        calls = asyncio.Queue[aio.Held]()
        worker = aio.Worker(queue.address, [b"f"], calls.put_nowait)
        working = asyncio.create_task(worker.run())
        queue.start_controller()
        queue.start_queue_runner()
        await queue.call(queue.client.insert_job, "f", flag="controller")
        async with asyncio.timeout(PATIENCE):
            await calls.get()
            await cancel(queue, 1)
            client = aio.Client(queue.address)
            while (await client.functions())[b"run_queued_job"].running:
                await asyncio.sleep(0.05)
        await client.close()
        (job,) = await queue.call(queue.database.jobs)
        assert (job.state, job.failcount) == (State.DEAD, 0)
        (record,) = await queue.call(queue.database.failures, 1)
        assert record.kind == "cancelled"
        worker.abort()
        await working
