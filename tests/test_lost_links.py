"""A connection to a Gearman server that is lost: the server gives again what it believes to be under way."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from garivini import Client, Job, Worker
from garivini.gearman import aio
from garivini.gearman.protocol import Submission
from tests.processes import PATIENCE
from tests.proxy import Proxy
from tests.servers import embedded, gearmand
from tests.system import System, system

pytestmark = pytest.mark.slow


@pytest.fixture(params=["embedded", "gearmand"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    opened = embedded() if request.param == "embedded" else gearmand(tmp_path)
    with opened as address:
        yield address


class Held:
    """Jobs that run until they are told to end, and how often each has started."""

    def __init__(self) -> None:
        self.starts: Counter[bytes] = Counter()
        self.go_on = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    async def task(self, job: Job) -> None:
        self.starts[job.arg] += 1
        await self.go_on.wait()

    def blocking(self, job: Job) -> None:
        self.starts[job.arg] += 1
        asyncio.run_coroutine_threadsafe(self.go_on.wait(), self.loop).result(PATIENCE)

    async def started(self, jobs: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.starts) < jobs:
                await asyncio.sleep(0.01)  # a counter says nothing


async def _connected(queue: System, proxy: Proxy, times: int) -> None:
    """Wait until the worker behind the proxy has connected so often."""
    await queue.seen.until(
        lambda: times <= sum(said["server"] == proxy.address for said in queue.seen.of("gearman.connected"))
    )


async def _no_copies(address: str, function: bytes) -> None:
    """Wait until a server has none of a function's jobs."""
    client = aio.Client(address)
    async with asyncio.timeout(PATIENCE):
        while (found := (await client.functions()).get(function)) and found.total:
            await asyncio.sleep(0.02)  # a server says nothing by itself
    await client.close()


@pytest.mark.parametrize("kind", ["async", "def"])
async def test_a_copy_of_a_job_that_this_process_has_ended_does_not_start(
    server: str, tmp_path: Path, kind: str
) -> None:
    """The jobs end while the connection is half open; when it is reset the server gives them again."""

    jobs = 4 if kind == "async" else 1
    with Proxy(server) as proxy:
        async with system(tmp_path, address=server) as queue:
            held = Held()
            worker = Worker(Client(queue.url), proxy.address)
            worker.function("hold")(held.task if kind == "async" else held.blocking)
            queue.start_queue_runner()
            queue.start_worker(worker)
            for number in range(jobs):
                await queue.call(queue.client.insert_job, "hold", str(number))
            await held.started(jobs)
            proxy.stall()
            held.go_on.set()
            await queue.gone()
            assert proxy.reset() > 0
            await _no_copies(server, b"hold")
            assert set(held.starts.values()) == {1}


async def test_a_copy_of_a_job_that_is_still_running_here_does_not_start_and_its_end_is_told(
    server: str, tmp_path: Path
) -> None:
    with Proxy(server) as proxy:
        async with system(tmp_path, address=server) as queue:
            held = Held()
            worker = Worker(Client(queue.url), proxy.address)
            worker.function("hold")(held.task)
            queue.start_queue_runner()
            queue.start_worker(worker)
            await queue.call(queue.client.insert_job, "hold", "one")
            await held.started(1)
            assert proxy.reset() > 0
            await _connected(queue, proxy, 2)
            # A second job arrives on the new connection: what came before it has been read.
            await queue.call(queue.client.insert_job, "hold", "two")
            await held.started(2)
            held.go_on.set()
            await queue.gone()
            await _no_copies(server, b"hold")
            assert held.starts == {b"one": 1, b"two": 1}


async def test_a_copy_of_a_job_whose_outcome_waits_for_the_database_does_not_start(
    server: str, tmp_path: Path
) -> None:
    with Proxy(server) as proxy:
        async with system(tmp_path, address=server) as queue:
            held = Held()
            worker = Worker(Client(queue.url), proxy.address)
            worker.function("hold")(held.task)
            queue.start_queue_runner()
            queue.start_worker(worker)
            await queue.call(queue.client.insert_job, "hold", "one")
            await held.started(1)
            with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")  # nobody else can write now
                held.go_on.set()
                assert proxy.reset() > 0
                await _connected(queue, proxy, 2)
                other.execute("ROLLBACK")
            await queue.gone()
            await _no_copies(server, b"hold")
            assert held.starts == {b"one": 1}


async def test_a_copy_that_comes_on_a_reopened_connection_is_checked_before_its_start(
    server: str, tmp_path: Path
) -> None:
    """Another process has ended it: its row is gone."""

    with Proxy(server) as proxy:
        async with system(tmp_path, address=server) as queue:
            held = Held()
            worker = Worker(Client(queue.url), proxy.address)
            worker.function("hold")(held.task)
            taken: asyncio.Queue[aio.Held] = asyncio.Queue()
            other = aio.Worker(server, [b"hold"], taken.put_nowait)
            running = asyncio.create_task(other.run())
            queue.start_queue_runner()
            jobid, _ = await queue.call(queue.client.insert_job, "hold", "one")
            await taken.get()
            queue.start_worker(worker)
            await _connected(queue, proxy, 1)
            while not proxy.reset():  # the proxy is still connecting to the server
                await asyncio.sleep(0.01)
            await _connected(queue, proxy, 2)
            await queue.call(queue.database.complete, [jobid])
            other.abort()  # before the server has learned of the end
            await running
            await queue.seen.wait("job.stale")
            await _no_copies(server, b"hold")
            assert held.starts == {}


@pytest.mark.parametrize("kind", ["async", "def"])
async def test_stopping_finishes_and_commits_a_job_whose_connection_is_lost(
    server: str, tmp_path: Path, kind: str
) -> None:
    with Proxy(server) as proxy:
        async with system(tmp_path, address=server) as queue:
            held = Held()
            worker = Worker(Client(queue.url), proxy.address)
            worker.function("hold")(held.task if kind == "async" else held.blocking)
            queue.start_queue_runner()
            stop = queue.start_worker(worker)
            await queue.call(queue.client.insert_job, "hold")
            await held.started(1)
            stop.set()
            await queue.seen.wait("worker.draining")
            assert proxy.reset() > 0
            await asyncio.sleep(0.2)  # time in which a drain that does not wait would end
            held.go_on.set()
            await queue.seen.wait("worker.stopped")
            assert await queue.call(queue.database.jobs) == []
            await _remove_copies(server, b"hold")


async def _remove_copies(address: str, function: bytes) -> None:
    """Take what a server has of a function's jobs: nobody else will."""

    def complete(held: aio.Held) -> None:
        held.complete()

    other = aio.Worker(address, [function], complete)
    running = asyncio.create_task(other.run())
    await _no_copies(address, function)
    await other.drain()
    await running


async def test_a_job_of_the_original_runs_again_after_it_has_failed_and_the_connection_was_lost(
    server: str, tmp_path: Path
) -> None:
    """Its copies have no attempt: all have one name."""

    with Proxy(server) as proxy:
        async with system(tmp_path, address=server) as queue:
            runs: asyncio.Queue[Job] = asyncio.Queue()

            async def fail(job: Job) -> None:
                runs.put_nowait(job)
                raise ValueError

            worker = Worker(Client(queue.url), proxy.address)
            worker.function("f")(fail)
            queue.start_worker(worker)
            await queue.call(queue.client.insert_job, "f", run_after=1000)
            client = aio.Client(server)
            copy = Submission(b"f", b'{"jobid": 1, "dbid": 1, "funcname": "f", "arg": ""}')
            await client.submit([copy])
            await runs.get()
            await _no_copies(server, b"f")
            assert proxy.reset() > 0
            await _connected(queue, proxy, 2)
            await client.submit([copy])  # may be what the server gives again
            await queue.seen.wait("job.stale")
            await client.submit([copy])
            async with asyncio.timeout(PATIENCE):
                await runs.get()
            await _no_copies(server, b"f")
            await client.close()


async def test_a_controller_does_not_call_again_for_a_copy_whose_job_it_has_ended(
    server: str, tmp_path: Path
) -> None:
    with Proxy(server) as proxy:
        async with system(tmp_path, address=proxy.address) as queue:
            calls: asyncio.Queue[aio.Held] = asyncio.Queue()
            stock = aio.Worker(server, [b"f"], calls.put_nowait)
            running = asyncio.create_task(stock.run())
            queue.start_queue_runner()
            queue.start_controller()
            await queue.call(queue.client.insert_job, "f", flag="controller")
            call = await calls.get()
            with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")  # nobody else can write now
                call.complete(b"result")
                await queue.seen.wait("role.error")  # its commit waits for the database
                proxy.stall()
                other.execute("ROLLBACK")
            await queue.gone()
            assert proxy.reset() > 0
            await _no_copies(server, b"run_queued_job")
            assert calls.empty()
            await stock.drain()
            await running
