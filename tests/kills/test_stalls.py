"""Workers that stand still or take longer than their lease, as real processes."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from garivini import Handle, State
from garivini.gearman import aio
from garivini.model.payload import decode_payload
from tests.databases import sqlite_url
from tests.kills.history import History, Started
from tests.kills.load import ROOT
from tests.processes import PATIENCE, Command, command, until
from tests.servers import free_port
from tests.system import Waking

pytestmark = pytest.mark.slow

LEASE = 3
#: So long a job waits or runs in these tests.
FIVE_LEASES = 5 * LEASE

MODULE = """
import os, time
from pathlib import Path
from garivini import Client, Worker
from tests.kills.history import Recorder, Started

worker = Worker(Client(os.environ["GARIVINI_DB"]), os.environ["GARIVINI_JOB_SERVERS"])
record = Recorder(Path("history"))

def started(job):
    record(Started(job=(job.jobid, job.dbid), attempt=job.attempt, token=job.arg.decode(), pid=os.getpid()))

@worker.function("hold")
def hold(job):
    started(job)
    while not Path(f"go-on-{job.attempt}").exists():
        time.sleep(0.01)
    if job.attempt == 1:
        Path("lost").write_text(str(job.superseded))
        raise RuntimeError("too late")

@worker.function("slow")
def slow(job):
    started(job)
    time.sleep(0.3)

@worker.function("quick")
def quick(job):
    started(job)
    time.sleep(0.005)
"""


class Queue:
    """A QueueRunner and an embedded server with a short lease, and what has run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "history").mkdir()
        (folder / "work.py").write_text(MODULE)
        url = sqlite_url(folder)
        self.address = f"127.0.0.1:{free_port()}"
        self.client = Waking(url, self.address)
        self.environment = {
            "GARIVINI_DB": url,
            "GARIVINI_JOB_SERVERS": self.address,
            "GARIVINI_LOG_FORMAT": "json",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        self._history = History(folder / "history")

    @contextmanager
    def roles(self) -> Iterator[Command]:
        with command(self.folder, "run", "--lease", str(LEASE), "-v", **self.environment) as roles:
            roles.wait_for("role.started")
            yield roles

    @contextmanager
    def server(self) -> Iterator[Command]:
        with command(self.folder, "run", "gearman", **self.environment) as server:
            server.wait_for("server.listening")
            yield server

    @contextmanager
    def worker(self, processes: int) -> Iterator[Command]:
        arguments = ("worker", "work.py", "-p", str(processes), "-v")
        with command(self.folder, *arguments, **self.environment) as worker:
            yield worker

    def starts(self) -> list[Started]:
        return sorted(self._history.refresh().starts(), key=lambda run: run.time)

    def until_empty(self) -> None:
        until(
            lambda: self.client.list_jobs() == [],
            lambda: self.client.list_jobs(),
            progress=lambda: len(self.starts()),
        )


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    queue = Queue(tmp_path)
    yield queue
    queue.client.close()


def logged(process: Command, event: str) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in process.output.splitlines() if line.startswith("{")]
    return [entry for entry in entries if entry["event"] == event]


@pytest.mark.alone
def test_a_worker_that_stood_still_past_its_lease_is_replaced_and_changes_nothing_when_it_goes_on(
    queue: Queue,
) -> None:
    with queue.roles(), queue.worker(2) as worker:
        jobid, dbid = queue.client.insert_job("hold", "x")
        # Not before it has renewed: a process that is stopped inside a transaction locks all of SQLite.
        until(lambda: (row := queue.client.get_job((jobid, dbid))) and row.state is State.RUNNING)
        until(queue.starts)
        stalled = queue.starts()[0].pid
        os.kill(stalled, signal.SIGSTOP)
        stopped = time.monotonic_ns()
        try:
            until(lambda: len(queue.starts()) == 2, queue.starts)
        finally:
            os.kill(stalled, signal.SIGCONT)
        again = queue.starts()[1]
        assert (again.attempt, again.pid != stalled) == (2, True)
        # The lease, a third of it for the second strike, and a few seconds: 2 for roundings, 1 between looks.
        assert (again.time - stopped) / 1e9 < LEASE * 4 / 3 + 6
        # Its renewal is refused, and the function is told.
        until(lambda: len(logged(worker, "job.stale")) == 1)
        (queue.folder / "go-on-1").touch()
        # So is its failure.
        until(lambda: len(logged(worker, "job.stale")) == 2)
        refused = [(entry["process"], entry["attempt"]) for entry in logged(worker, "job.stale")]
        assert refused == [(stalled, 1)] * 2
        assert (queue.folder / "lost").read_text() == "True"
        job = queue.client.get_job((jobid, dbid))
        assert job is not None
        assert (job.attempt, job.failcount) == (2, 0)
        assert queue.client.failures(Handle(jobid, dbid)) == []
        (queue.folder / "go-on-2").touch()
        queue.until_empty()
        assert len(queue.starts()) == 2


def test_jobs_that_wait_in_the_server_for_five_leases_run_once_and_are_sent_once(queue: Queue) -> None:
    count = FIVE_LEASES * 4
    with queue.roles() as roles, queue.worker(1):
        queue.client.insert_jobs(["slow", None, None, str(number)] for number in range(count))
        for share in (count // 2, count):
            until(lambda share=share: len(queue.starts()) >= share, lambda: len(queue.starts()))
        queue.until_empty()
        starts = queue.starts()
        assert starts[-1].time - starts[0].time > FIVE_LEASES * 1e9
        assert sorted(int(run.token) for run in starts) == list(range(count))
        assert {run.attempt for run in starts} == {1}
        assert sum(entry["jobs"] for entry in logged(roles, "jobs.dispatched")) == count
        # Leases did run out, and that was all.
        assert logged(roles, "lease.expired")
        assert not [entry for entry in logged(roles, "lease.expired") if "Reclaim" in entry["step"]]


def test_a_foreign_worker_that_knows_no_leases_may_take_five_of_them(queue: Queue) -> None:
    seconds = FIVE_LEASES + 1.0

    async def work() -> list[bytes]:
        """Run one job as a program in another language would: it reads the payload and says the end."""
        payloads = []
        done = asyncio.Event()

        def run(held: aio.Held) -> None:
            payloads.append(held.job.data)
            asyncio.get_running_loop().call_later(seconds, end, held)

        def end(held: aio.Held) -> None:
            assert queue.client.complete_job(held.job.data)
            held.complete()
            done.set()

        worker = aio.Worker(queue.address, [b"foreign"], run, slots=4)
        running = asyncio.create_task(worker.run())
        await asyncio.to_thread(queue.client.insert_job, "foreign", "x")
        async with asyncio.timeout(PATIENCE):
            await done.wait()
            await worker.drain()
            await running
        return payloads

    with queue.roles() as roles:
        (payload,) = asyncio.run(work())
        assert decode_payload(payload).attempt == 1
        assert queue.client.list_jobs() == []
        steps = [entry["step"] for entry in logged(roles, "lease.expired")]
        assert len(steps) >= 3
        assert not [step for step in steps if "LEASED" not in step]


def test_what_a_worker_had_asked_about_and_not_begun_when_its_server_died_does_not_wait_for_its_lease(
    queue: Queue,
) -> None:
    with command(queue.folder, "run", "queue-runner", **queue.environment), queue.worker(1):
        for attempt in (1, 2, 3):
            with queue.server() as server:
                if attempt == 1:
                    queue.client.insert_jobs(["quick", None, None, str(number)] for number in range(600))
                # Before it begins a second attempt a worker asks; then some wait behind the one that runs.
                until(lambda attempt=attempt: sum(run.attempt == attempt for run in queue.starts()) > 100)
                if attempt < 3:
                    server.process.kill()
                else:
                    queue.until_empty()
    assert sorted({int(run.token) for run in queue.starts()}) == list(range(600))
