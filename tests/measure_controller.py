"""What the Controller takes, on MariaDB and gearmand: ``python -m tests.measure_controller [drain] [slow]``.

``drain``: jobs that lie in the database, to a stock worker in a process of its own. ``slow``: from insert to
start of a quick function, alone and beside 100,000 jobs of one that takes 10 s. Compare within a run only.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import click

from garivini import Client
from garivini.gearman import aio
from garivini.model.payload import decode_payload
from tests.processes import command, started
from tests.servers import gearmand
from tests.sql_servers import MariaDB

_JOBS = 20_000
_SLOW = 100_000
_ROUNDS = 300


def _answer(held: aio.Held) -> None:
    held.complete()


def work(address: str, function: str) -> None:
    """Be a stock worker that answers at once."""

    async def serve() -> None:
        await aio.Worker(address, [function.encode()], _answer, slots=200).run()

    asyncio.run(serve())


def drain(client: Client, address: str) -> None:
    (database,) = client.shards
    client.insert_jobs([["drain", None, None, b"x" * 100]] * _JOBS, flag="controller")
    with started([sys.executable, "-m", "tests.measure_controller", "work", address, "drain"]):
        began = time.perf_counter()
        while database.jobs(funcname="drain", limit=1):
            time.sleep(0.01)
        click.echo(f"drain: {_JOBS / (time.perf_counter() - began):,.0f} jobs/s")


def slow(client: Client, address: str) -> None:
    async def pickups() -> list[float]:
        started: dict[int, float] = {}
        arrived = asyncio.Event()

        def take(held: aio.Held) -> None:
            started[decode_payload(held.job.data).jobid] = time.perf_counter()
            held.complete()
            arrived.set()

        worker = aio.Worker(address, [b"quick"], take, slots=10)
        running = asyncio.create_task(worker.run())
        took = []
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            jobid, _ = await asyncio.to_thread(client.insert_job, "quick", flag="controller")
            while jobid not in started:
                arrived.clear()
                await asyncio.wait_for(arrived.wait(), 30)
            took.append((started[jobid] - began) * 1000)
            await asyncio.sleep(0.01)
        worker.abort()
        running.cancel()
        return took

    async def scenario() -> None:
        def say(what: str, took: list[float]) -> None:
            p50, p99 = statistics.median(took), statistics.quantiles(took, n=100)[98]
            click.echo(f"pickup {what}: p50 {p50:.2f} ms, p99 {p99:.1f} ms")

        say("alone", await pickups())
        rows = [["slow", None, None, b"x"]] * 10_000
        for _ in range(_SLOW // len(rows)):
            await asyncio.to_thread(client.insert_jobs, rows, flag="controller")
        loop = asyncio.get_running_loop()

        def take(held: aio.Held) -> None:
            loop.call_later(10, held.complete)

        worker = aio.Worker(address, [b"slow"], take, slots=5000, timeout=60)
        running = asyncio.create_task(worker.run())
        await asyncio.sleep(5)
        say(f"beside {_SLOW:,} of 10 s", await pickups())
        worker.abort()
        running.cancel()

    asyncio.run(scenario())


def main(words: list[str]) -> None:
    if words[:1] == ["work"]:
        return work(*words[1:])
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mariadb = stack.enter_context(MariaDB("innodb-buffer-pool-size=1G"))
        url = stack.enter_context(mariadb.database())
        address = stack.enter_context(gearmand(folder))
        client = stack.enter_context(Client(url, [address]))
        client.shards.__iter__().__next__().upgrade()
        environment = {"GARIVINI_DB": url, "GARIVINI_JOB_SERVERS": address}
        stack.enter_context(command(folder, "run", "controller", **environment))
        stack.enter_context(command(folder, "run", "queue-runner", **environment))
        for word in words or ["drain", "slow"]:
            {"drain": drain, "slow": slow}[word](client, address)
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
