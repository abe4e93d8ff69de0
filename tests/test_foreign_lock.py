"""A transaction of another program that holds some leased rows, beside real processes at work."""

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Connection, create_engine

from garivini import Client, Job, State
from garivini.model.new_jobs import new_job
from garivini.store.database import Lane
from garivini.store.dialects.dialect import Dialect
from tests.kills.load import ROOT
from tests.processes import PATIENCE, command, until
from tests.servers import free_port
from tests.sql_servers import SQLServer
from tests.system import system, upgraded

pytestmark = [pytest.mark.servers, pytest.mark.slow]

MODULE = """
import os
import time
from garivini import Client, Worker

worker = Worker(Client(os.environ["GARIVINI_DB"]), os.environ["GARIVINI_JOB_SERVERS"])
starts = os.open("starts", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@worker.function("f")
def f(job):
    os.write(starts, b".")
    time.sleep(0.002)
    if job.jobid % 10 == 0:
        raise ValueError("one in ten fails")
"""
#: Seconds of a window in which starts are counted, and how many windows pass before the lock.
WINDOW: Final = 3.0
BEFORE: Final = 2
#: Seconds for which a call may wait for a lock in a test of calls that do not.
LOCK_WAIT: Final = 2 * PATIENCE
DRIVERS: Final = {"mysql": "mysql+pymysql", "postgresql": "postgresql+psycopg"}


@contextmanager
def locked(url: str, count: int, first: int = 300) -> Iterator[list[int]]:
    """Lock leased rows, from the one of this number on: a worker gets them about a second later."""
    scheme, _, rest = url.partition("://")
    engine = create_engine(f"{DRIVERS[scheme]}://{rest}")
    with engine.connect() as connection:
        while not (jobids := _lock(connection, count, first)):
            connection.rollback()  # a worker was faster
        yield jobids
        connection.rollback()
    engine.dispose()


def _lock(connection: Connection, count: int, first: int) -> list[int]:
    """Lock so many leased rows; return their ids, or none if one of them is leased no more."""
    found = connection.exec_driver_sql(
        f"SELECT jobid FROM job WHERE state = 1 ORDER BY jobid LIMIT {count} OFFSET {first}"
    ).scalars()
    jobids = list(found)
    connection.rollback()
    locks = (f"SELECT state FROM job WHERE jobid = {jobid} FOR UPDATE" for jobid in jobids)
    return jobids if all(connection.exec_driver_sql(lock).scalar() == 1 for lock in locks) else []


class Counts:
    """Starts and committed outcomes."""

    def __init__(self, jobs: int, starts: Path, server: SQLServer, url: str) -> None:
        self._jobs = jobs
        self._starts = starts
        self._server = server
        self._database = url.rpartition("/")[2]

    def read(self) -> tuple[int, int]:
        ((left,),) = self._server.execute("SELECT COUNT(*) FROM job WHERE failcount = 0", self._database)
        return self._starts.stat().st_size, self._jobs - left

    def windows(self, count: int) -> tuple[list[int], list[int]]:
        """Return how many there were in each of some windows."""
        found = [self.read()]
        for _ in range(count):
            time.sleep(WINDOW)
            found.append(self.read())
        starts, commits = zip(*found, strict=True)
        return _steps(starts), _steps(commits)


def _steps(counts: Sequence[int]) -> list[int]:
    return [after - before for before, after in pairwise(counts)]


@pytest.mark.alone
@pytest.mark.parametrize("name", ["mariadb", "postgresql"])
# With 20 windows the lock lasts as long as a lease does by default: those of the locked rows end meanwhile.
@pytest.mark.parametrize(
    ("windows", "jobs"),
    [(3, 16_000), pytest.param(20, 60_000, marks=pytest.mark.soak)],
    ids=["short", "long"],
)
def test_a_foreign_lock_on_four_leased_rows_slows_nothing_else(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, windows: int, jobs: int
) -> None:
    server: SQLServer = request.getfixturevalue(name)
    (tmp_path / "work.py").write_text(MODULE)
    starts = tmp_path / "starts"
    starts.touch()
    with ExitStack() as stack:
        url = stack.enter_context(server.database())
        upgraded(url).close()
        environment: dict[str, Any] = {
            "GARIVINI_DB": url,
            "GARIVINI_JOB_SERVERS": f"127.0.0.1:{free_port()}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        client = stack.enter_context(Client(url))
        for _ in range(jobs // 1000):
            client.insert_jobs([["f", None, None, b""]] * 1000)
        stack.enter_context(command(tmp_path, "run", "--watermark", "500", **environment))
        worker = stack.enter_context(command(tmp_path, "worker", "work.py", "-p", "1", **environment))
        until(lambda: starts.stat().st_size > 200)
        counts = Counts(jobs, starts, server, url)
        before = counts.windows(BEFORE)
        with locked(url, 4) as jobids:
            during = counts.windows(windows)
            assert [
                job.jobid for job in map(client.get_job, [(jobid, 1) for jobid in jobids]) if job
            ] == jobids
        assert "outcomes.put_aside" in worker.output
        for what, old, new in zip(("starts", "commits"), before, during, strict=True):
            sys.stdout.write(f"{name}: {what} per {WINDOW:g} s before the lock {old}, during it {new}\n")
            assert min(new) >= sum(old) / len(old) / 2


def test_a_worker_that_is_stopped_does_not_wait_for_a_foreign_lock(
    mariadb: SQLServer, tmp_path: Path
) -> None:
    (tmp_path / "work.py").write_text(MODULE)
    with ExitStack() as stack:
        url = stack.enter_context(mariadb.database())
        upgraded(url).close()
        environment: dict[str, Any] = {
            "GARIVINI_DB": url,
            "GARIVINI_JOB_SERVERS": f"127.0.0.1:{free_port()}",
            "GARIVINI_LOG_FORMAT": "json",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        client = stack.enter_context(Client(url))
        client.insert_jobs([["f", None, None, b""]] * 400)
        stack.enter_context(command(tmp_path, "run", "--watermark", "500", **environment))
        until(lambda: sum(job.state.name == "LEASED" for job in client.list_jobs(limit=500)) == 400)
        stack.enter_context(locked(url, 1))
        worker = stack.enter_context(
            command(tmp_path, "worker", "work.py", "-p", "1", "--drain", "3", **environment)
        )
        until(lambda: "outcomes.put_aside" in worker.output)
        assert worker.stop() == 0, worker.output
        assert "keeper.abandoned" in worker.output
        assert "child_died" not in worker.output


@pytest.mark.parametrize("name", ["mariadb", "postgresql"])
def test_leases_that_ran_out_do_not_wait_for_a_foreign_lock(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(Dialect, "lock_timeout", LOCK_WAIT)
    server: SQLServer = request.getfixturevalue(name)
    with server.database() as url:
        upgraded(url).close()

        async def scenario() -> None:
            async with system(tmp_path, url) as queue:

                @queue.worker.function("f")
                def f(job: Job) -> None:
                    pass

                await queue.call(queue.database.insert, [new_job("f", b"")] * 10)
                lane = Lane("f", State.WAITING, "normal", 0)
                await queue.call(queue.database.claim, lane, limit=10, lease=3)
                passed = "UPDATE job SET run_after = run_after - 100, lease_end = lease_end - 100"
                await queue.call(server.execute, passed, url.rpartition("/")[2])
                with locked(url, 2, 0) as jobids:
                    queue.start_queue_runner()
                    queue.start_worker()
                    await queue.gone(2)
                    assert sorted(job.jobid for job in await queue.call(queue.database.jobs)) == jobids
                    assert not queue.seen.of("role.error")
                await queue.gone()

        asyncio.run(scenario())
