"""The Controller under load, with gearmand and MariaDB: thousands of calls, and the death of each part."""

import asyncio
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import click
import pytest

from garivini import Client, State
from garivini.gearman import aio
from garivini.model.payload import decode_payload
from garivini.model.policy import FunctionPolicy
from tests.processes import Command, command
from tests.servers import free_port, gearmand, gearmand_process
from tests.sql_servers import MariaDB

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.alone]


class Crowd:
    """A stock worker that runs very many jobs at a time, each for so many seconds."""

    def __init__(self, address: str, function: bytes, seconds: float, slots: int) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        #: How often each job has been started, and when it was answered last (monotonic).
        self.runs: Counter[int] = Counter()
        self.answered: dict[int, float] = {}
        self._worker = aio.Worker(address, [function], self._take, slots=slots, timeout=60)
        self._running = asyncio.create_task(self._worker.run())

    def _take(self, held: aio.Held) -> None:
        jobid = decode_payload(held.job.data).jobid
        self.runs[jobid] += 1
        self._loop.call_later(self._seconds, self._answer, held, jobid)

    def _answer(self, held: aio.Held, jobid: int) -> None:
        if not held.disconnected:
            held.complete(b"done")
            self.answered[jobid] = time.monotonic()

    async def in_flight(self, least: int, after: int) -> set[int]:
        """Return the jobs in progress as soon as there are ``least``, after ``after`` have been answered."""
        async with asyncio.timeout(120):
            while True:
                began = self.runs.keys() - self.answered.keys()
                if len(self.answered) > after and len(began) >= least:
                    return began
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        self._worker.abort()
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)


@asynccontextmanager
async def crowd(address: str, seconds: float, slots: int) -> AsyncIterator[Crowd]:
    made = Crowd(address, b"f", seconds, slots)
    try:
        yield made
    finally:
        await made.close()


async def until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)


def peak(pid: int) -> float:
    """Return the most memory that a process has had, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def test_one_process_holds_5000_calls_of_10_seconds(mariadb: MariaDB, tmp_path: Path) -> None:
    """With a lease of 6 s: without renewals no job would end under its first attempt."""

    async def scenario(client: Client, address: str, controller: Command) -> None:
        (database,) = client.shards
        async with crowd(address, 10.0, 6000) as worker:
            await asyncio.to_thread(
                client.insert_jobs, [["f", None, None, b"x" * 100]] * 5000, flag="controller"
            )
            await until(lambda: len(worker.runs) == 5000)
            held = [count for count in database.counts() if count.state is not State.DEAD]
            assert sum(count.jobs for count in held) == 5000
            jobs = await asyncio.to_thread(database.jobs, limit=5000)
            assert {job.attempt for job in jobs} == {1}
            await until(lambda: not database.jobs(limit=1))
            click.echo(f"\n5,000 calls: at most {peak(controller.process.pid):.0f} MB")
            assert set(worker.runs.values()) == {1}
            assert peak(controller.process.pid) < 150

    with ExitStack() as stack:
        url = stack.enter_context(mariadb.database())
        address = stack.enter_context(gearmand(tmp_path))
        client = stack.enter_context(Client(url))
        (database,) = client.shards
        database.upgrade()
        database.set_function("f", FunctionPolicy(lease=6))
        environment = {"GARIVINI_DB": url, "GARIVINI_JOB_SERVERS": address}
        words = ("run", "controller", "--max-calls", "10000")
        controller = stack.enter_context(command(tmp_path, *words, **environment))
        words = ("run", "queue-runner", "--watermark", "10000")
        stack.enter_context(command(tmp_path, *words, **environment))
        asyncio.run(scenario(client, address, controller))
        assert "job.stale" not in controller.output


@pytest.mark.parametrize("victim", ["controller", "gearmand", "database"])
def test_nothing_is_lost_by_a_kill_under_load(own_mariadb: MariaDB, tmp_path: Path, victim: str) -> None:
    jobs, in_flight = 4000, 500

    async def scenario(stack: ExitStack, client: Client, url: str, address: str) -> None:
        (database,) = client.shards
        environment = {"GARIVINI_DB": url, "GARIVINI_JOB_SERVERS": address}
        words = ("run", "controller", "--max-calls", str(2 * in_flight))

        def start_controller() -> Command:
            return stack.enter_context(command(tmp_path, *words, **environment))

        def start_server() -> "subprocess.Popen[bytes]":
            return stack.enter_context(gearmand_process(tmp_path, address))

        server = start_server()
        controller = start_controller()
        stack.enter_context(command(tmp_path, "run", "queue-runner", **environment))
        async with crowd(address, 0.5, 2 * in_flight) as worker:
            await asyncio.to_thread(client.insert_jobs, [["f", None, None, b"x"]] * jobs, flag="controller")
            began = await worker.in_flight(in_flight // 5, after=jobs // 4)
            killed = time.monotonic()
            if victim == "controller":
                controller.process.send_signal(signal.SIGKILL)
                controller.process.wait()
                start_controller()
            elif victim == "gearmand":
                server.kill()
                server.wait()
                start_server()
            else:
                await asyncio.to_thread(own_mariadb.kill)
                await asyncio.to_thread(own_mariadb.restart)
            await until(lambda: not database.jobs(limit=1))
            later = sorted(worker.answered[jobid] - killed for jobid in began)
            doubles = sum(count - 1 for count in worker.runs.values())
            p99 = later[len(later) * 99 // 100]
            took = time.monotonic() - killed
            click.echo(
                f"\n{victim}: {len(began)} in flight, answered after {p99:.1f} s (p99), {doubles} twice, "
                f"all {jobs} done after {took:.1f} s"
            )
            assert len(worker.answered) == jobs
            assert p99 < 10
            assert doubles <= 2 * in_flight

    with ExitStack() as stack:
        url = stack.enter_context(own_mariadb.database())
        client = stack.enter_context(Client(url))
        (database,) = client.shards
        database.upgrade()
        asyncio.run(scenario(stack, client, url, f"127.0.0.1:{free_port()}"))
