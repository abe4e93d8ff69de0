"""The Injector when a database or an Injector dies under load: nothing that was answered is lost."""

import asyncio
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from garivini import Client, Worker, events
from garivini.errors import GariviniError
from garivini.model.job import Job
from garivini.model.lease import LEASE
from garivini.roles import injector
from garivini.roles.injector import InjectorSettings
from tests.databases import sqlite_url
from tests.processes import PATIENCE, command
from tests.servers import free_port, gearmand, gearmand_process
from tests.sql_servers import SERVERS, MariaDB, PostgreSQL
from tests.system import Seen, upgraded
from tests.test_injector import Caller


@pytest.fixture(params=SERVERS)
def sql_server(request: pytest.FixtureRequest) -> MariaDB | PostgreSQL:
    server: MariaDB | PostgreSQL = request.getfixturevalue(f"own_{request.param}")
    return server


class Load:
    """Callers that inject one job after the other, and what each call came to."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._number = 0
        self.stored: dict[str, int] = {}
        self.unknown: set[str] = set()
        self.refused = 0
        self._ending = False

    async def run(self, callers: int) -> None:
        await asyncio.gather(*(self._calls() for _ in range(callers)))

    def end(self) -> None:
        """Let each caller make its last call."""
        self._ending = True

    async def _calls(self) -> None:
        async with Caller(self._address) as caller:
            while not self._ending:
                self._number += 1
                arg = str(self._number)
                try:
                    async with asyncio.timeout(PATIENCE):
                        self.stored[arg], _, _ = await caller.inject("f", arg=arg, flag="shim")
                except GariviniError as error:
                    if "nothing was stored" in str(error):
                        self.refused += 1
                    else:
                        self.unknown.add(arg)
                    await asyncio.sleep(0.05)  # as a caller would

    async def until(self, more: int) -> None:
        """Wait until so many more jobs are stored."""
        wanted = len(self.stored) + more
        async with asyncio.timeout(PATIENCE):
            while len(self.stored) < wanted:
                await asyncio.sleep(0.01)

    def check(self, jobs: Sequence[Job]) -> None:
        """What was answered is there, once; what else is there may have been stored."""
        there: dict[str, list[int]] = {}
        for job in jobs:
            there.setdefault(job.arg.decode(), []).append(job.jobid)
        assert {arg: there.get(arg) for arg in self.stored} == {
            arg: [jobid] for arg, jobid in self.stored.items()
        }
        assert there.keys() - self.stored.keys() <= self.unknown


@pytest.mark.timeout(180)
@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_a_database_that_dies_under_load_loses_nothing_answered(
    sql_server: MariaDB | PostgreSQL, fault: str, tmp_path: Path
) -> None:
    url = sql_server.create_database()
    upgraded(url).close()

    async def scenario(address: str) -> None:
        seen, stop = Seen(), asyncio.Event()
        unlisten = events.listen(seen)
        with Client(url) as client:
            serving = asyncio.create_task(
                injector.serve(client.shards, [address], InjectorSettings(), stop=stop)
            )
            load = Load(address)
            running = asyncio.create_task(load.run(50))
            await load.until(500)
            await asyncio.to_thread(getattr(sql_server, fault))
            await seen.wait("inject.failed")
            await asyncio.to_thread(sql_server.start if fault == "kill" else sql_server.thaw)
            await load.until(500)
            load.end()
            await running
            assert load.refused or load.unknown
            stop.set()
            await serving
            load.check(await asyncio.to_thread(client.list_jobs, limit=100_000))
        unlisten()

    with gearmand(tmp_path) as address:
        asyncio.run(scenario(address))


@pytest.mark.servers
@pytest.mark.timeout(180)
def test_a_gearmand_that_dies_under_load_loses_nothing_answered(tmp_path: Path) -> None:
    """Its memory goes with it. What it had, and what it had not been told of, is sent again in seconds."""
    url = sqlite_url(tmp_path)
    address = f"127.0.0.1:{free_port()}"

    async def scenario(first: "subprocess.Popen[bytes]") -> None:
        environment = {"GARIVINI_DB": url, "GARIVINI_JOB_SERVERS": address}
        load = Load(address)
        with Client(url) as client, command(tmp_path, "run", "queue-runner", "injector", **environment):
            running = asyncio.create_task(load.run(50))
            await load.until(500)
            first.kill()
            first.wait()
            with gearmand_process(tmp_path, address):
                await load.until(500)
                load.end()
                await running
                load.check(await asyncio.to_thread(client.list_jobs, limit=100_000))
                await all_run(client, address)

    with gearmand_process(tmp_path, address) as first:
        asyncio.run(scenario(first))


async def all_run(client: Client, address: str) -> None:
    """Run what is there; it must be sooner than the end of a lease."""
    stop = asyncio.Event()
    worker = Worker(client, [address])
    worker.function("f")(lambda job: None)
    serving = asyncio.create_task(worker.serve(stop))
    async with asyncio.timeout(LEASE / 2):
        while await asyncio.to_thread(client.list_jobs):
            await asyncio.sleep(0.1)
    stop.set()
    await serving


@pytest.mark.timeout(180)
def test_an_injector_that_is_killed_under_load_loses_nothing_answered(
    sql_server: MariaDB | PostgreSQL, tmp_path: Path
) -> None:
    """Its calls go to the next one. All jobs end: those that were not sent, within seconds."""
    url = sql_server.create_database()
    upgraded(url).close()

    async def scenario(address: str) -> None:
        environment = {"GARIVINI_DB": url, "GARIVINI_JOB_SERVERS": address}
        load = Load(address)
        with (
            Client(url) as client,
            command(tmp_path, "run", "injector", **environment) as first,
            command(tmp_path, "run", "queue-runner", **environment),
        ):
            running = asyncio.create_task(load.run(50))
            await load.until(500)
            first.process.kill()
            with command(tmp_path, "run", "injector", **environment) as second:
                await load.until(500)
                load.end()
                await running
                jobs = await asyncio.to_thread(client.list_jobs, limit=100_000)
                assert {job.jobid for job in jobs} >= set(load.stored.values())
                times = Counter(job.arg.decode() for job in jobs)
                assert set(times) == set(load.stored)
                # Twice are those that the first had stored and not yet answered.
                assert sum(times.values()) - len(times) <= 50
                await all_run(client, address)
                assert second.stop() == 0

    with gearmand(tmp_path) as address:
        asyncio.run(scenario(address))
