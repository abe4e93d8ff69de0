"""Pickup of jobs beside a backlog that rules hold back: ``python -m tests.measure_rules partitions|held``.

A pickup is the time from the call of an insert to the start of the job. Compare within a run only.
"""

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import click

from garivini import Client, Job, Worker
from garivini.model.policy import FunctionPolicy
from garivini.model.when import Never
from tests.processes import command
from tests.servers import embedded
from tests.sql_servers import SERVERS, SQLServer

#: Jobs of the measured function that run at a time, and the seconds of each: the capacity is their quotient.
_SLOTS: Final = 20
_SECONDS: Final = 0.1
#: The share of the capacity that the measured jobs use.
_SHARE: Final = 0.1
#: The number of rows that a server has updated so far.
_UPDATED: Final = {
    "mariadb": "SHOW GLOBAL STATUS LIKE 'Handler_update'",
    "postgresql": "SELECT sum(tup_updated) FROM pg_stat_database",
}


class Queue(NamedTuple):
    """The parts of a measured queue. Its QueueRunner is a process."""

    server: SQLServer
    kind: str
    client: Client
    address: str

    def updated(self) -> int:
        """Return how many rows the server has updated so far."""
        return int(self.server.execute(_UPDATED[self.kind])[0][-1])

    def fill(self, rows: int, **job: object) -> None:
        """Insert a backlog of due jobs of ``f`` or of another function."""
        batch = [{"funcname": "f", **job}] * 2000
        for _ in range(rows // len(batch)):
            self.client.insert_jobs(batch, dispatch=False)

    async def pickups(self, count: int, insert: Callable[[], object], funcname: str = "f") -> list[float]:
        """Insert jobs at a tenth of the capacity; return the milliseconds from each insert to its start.

        ``insert`` inserts a job whose argument is the time of the call. The jobs of the backlog have none.
        """
        took: list[float] = []
        worker = Worker(self.client, [self.address])

        @worker.function(funcname)
        async def f(job: Job) -> None:
            if job.arg:
                took.append((time.time() - float(job.arg)) * 1000)
            await asyncio.sleep(_SECONDS)

        stop = asyncio.Event()
        serving = asyncio.create_task(worker.serve(stop))
        await asyncio.sleep(2.0)  # the worker has registered, and the backlog runs
        for _ in range(count):
            await asyncio.to_thread(insert)
            await asyncio.sleep(random.expovariate(_SHARE * _SLOTS / _SECONDS))
        async with asyncio.timeout(600):
            while len(took) < count:
                await asyncio.sleep(0.05)
        stop.set()
        await serving
        return took


@contextmanager
def queue(kind: str) -> Iterator[Queue]:
    """Start a server, a QueueRunner and a Gearman server."""
    with (
        tempfile.TemporaryDirectory() as folder,
        SERVERS[kind]() as server,
        server.database() as url,
        embedded() as address,
        Client(url, [address]) as client,
    ):
        client.shards[1].upgrade()
        environment = {"GARIVINI_DB": url, "GARIVINI_JOB_SERVERS": address}
        with command(Path(folder), "run", "queue-runner", **environment):
            yield Queue(server, kind, client, address)


def report(what: str, took: list[float], updated: int) -> None:
    p50, p99 = statistics.median(took), statistics.quantiles(took, n=100)[98]
    click.echo(
        f"{what}: {len(took)} pickups, p50 {p50:.1f} ms, p99 {p99:.1f} ms, "
        f"{updated / len(took):.1f} rows updated per pickup"
    )


def measure(parts: Queue, what: str, count: int, insert: Callable[[], object], funcname: str = "f") -> None:
    before = parts.updated()
    took = asyncio.run(parts.pickups(count, insert, funcname))
    report(what, took, parts.updated() - before)


@click.group()
def main() -> None:
    """Measure pickups beside a large backlog, and beside none."""


_server = click.option("--server", type=click.Choice([*SERVERS]), default="mariadb", show_default=True)
_backlog = click.option("--backlog", type=click.IntRange(2000), default=1_000_000, show_default=True)
_pickups = click.option("--pickups", type=click.IntRange(10), default=1000, show_default=True)


@main.command()
@_server
@_backlog
@_pickups
@click.option("--partitions", type=click.IntRange(2), default=10_000, show_default=True)
def partitions(server: str, backlog: int, pickups: int, partitions: int) -> None:
    """One partition of a fair function has the backlog; measure the pickups of the others."""
    with queue(server) as parts:
        parts.client.shards[1].set_function(
            "f", FunctionPolicy(fair=True, max_running=_SLOTS, partition_max_running=_SLOTS)
        )

        def insert() -> None:
            partition = f"p{random.randrange(partitions - 1)}"
            parts.client.insert_job("f", str(time.time()), partition=partition, dispatch=False)

        measure(parts, "without a backlog", pickups, insert)
        parts.fill(backlog, partition="big")
        measure(parts, f"beside {backlog:,} jobs of one partition", pickups, insert)


@main.command()
@_server
@_backlog
@_pickups
@click.option("--by", type=click.Choice(["pause", "limit"]), default="pause", show_default=True)
def held(server: str, backlog: int, pickups: int, by: str) -> None:
    """A pause or a full limit holds the backlog of another function; measure the pickups of a plain one."""
    with queue(server) as parts:
        database = parts.client.shards[1]

        def insert() -> None:
            parts.client.insert_job("f", str(time.time()), dispatch=False)

        # Before the first measure, so that the QueueRunner knows the rule when the backlog is inserted.
        if by == "pause":
            database.pause("held", Never())
        else:
            # No worker knows the function, so its first job stays in flight.
            database.set_function("held", FunctionPolicy(max_running=1, lease=86400))
        measure(parts, "without a backlog", pickups, insert)
        parts.fill(backlog, funcname="held")
        measure(parts, f"beside {backlog:,} jobs held by a {by}", pickups, insert)


if __name__ == "__main__":
    main()
