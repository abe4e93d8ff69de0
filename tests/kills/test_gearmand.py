"""A gearmand that dies with thousands of jobs in it, and one whose connections are cut."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from garivini import Client
from tests.databases import sqlite_url
from tests.kills.history import History, Started
from tests.kills.load import ROOT
from tests.processes import Command, command, until
from tests.proxy import Proxy
from tests.servers import free_port, gearmand_process

pytestmark = [pytest.mark.servers, pytest.mark.slow]

FUNCTIONS: Final = ("one", "two", "three")

MODULE: Final = """
import os, time
from pathlib import Path
from garivini import Client, Worker
from tests.kills.history import Recorder, Started

worker = Worker(Client(os.environ["GARIVINI_DB"]), os.environ["GARIVINI_JOB_SERVERS"])
record = Recorder(Path("history"))

def run(job):
    record(Started(job=(job.jobid, job.dbid), attempt=job.attempt, token=job.arg.decode(), pid=os.getpid()))
    time.sleep(0.0005)

for name in ("one", "two", "three"):
    worker.function(name)(run)
"""


class Queue:
    """A database, the way to a gearmand, and what has run."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        (folder / "history").mkdir()
        (folder / "work.py").write_text(MODULE)
        self.address = f"127.0.0.1:{free_port()}"
        self.client = Client(url)
        self.environment = {
            "GARIVINI_DB": url,
            "GARIVINI_JOB_SERVERS": self.address,
            "GARIVINI_LOG_FORMAT": "json",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        self._history = History(folder / "history")

    @contextmanager
    def queue_runner(self, address: str) -> Iterator[Command]:
        environment = {**self.environment, "GARIVINI_JOB_SERVERS": address}
        with command(self.folder, "run", "queue-runner", "-v", **environment) as runner:
            yield runner

    @contextmanager
    def worker(self) -> Iterator[Command]:
        with command(self.folder, "worker", "work.py", "-p", "2", **self.environment) as worker:
            yield worker

    def insert(self, count: int) -> None:
        for funcname in FUNCTIONS:
            self.client.insert_jobs([funcname, None, None, f"{funcname}-{number}"] for number in range(count))

    def starts(self) -> list[Started]:
        return self._history.refresh().starts()

    def until_empty(self) -> None:
        until(
            lambda: self.client.list_jobs(limit=1) == [],
            lambda: self.client.list_jobs(limit=10),
            progress=lambda: len(self.starts()),
        )


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    queue = Queue(tmp_path, sqlite_url(tmp_path))
    yield queue
    queue.client.close()


def until_dispatched(runner: Command, count: int) -> None:
    until(
        lambda: dispatched(runner) == count,
        lambda: f"dispatched {dispatched(runner)}",
        progress=lambda: dispatched(runner),
    )


def dispatched(runner: Command) -> int:
    lines = [line for line in runner.output.splitlines() if '"jobs.dispatched"' in line]
    return sum(int(line.partition('"jobs": ')[2].partition("}")[0].partition(",")[0]) for line in lines)


@pytest.mark.timeout(300)
def test_ten_thousand_dispatched_jobs_are_not_lost_with_their_gearmand(
    queue: Queue, record_property: Callable[[str, object], None]
) -> None:
    each = 3_400
    with ExitStack() as stack:
        gearmand = stack.enter_context(gearmand_process(queue.folder, queue.address))
        runner = stack.enter_context(queue.queue_runner(queue.address))
        queue.insert(each)
        until_dispatched(runner, 3 * each)
        stack.enter_context(queue.worker())
        until(lambda: len(queue.starts()) > 500)
        gearmand.kill()
        gearmand.wait()
        assert len(queue.starts()) < 2 * each
        stack.enter_context(gearmand_process(queue.folder, queue.address))
        back = time.monotonic_ns()
        until(lambda: any(run.time > back for run in queue.starts()))
        queue.until_empty()
    starts = queue.starts()
    runs = Counter(run.token for run in starts)
    assert len(runs) == 3 * each
    # What a worker had begun when the server died may run once more: one job a process.
    assert runs.total() - len(runs) <= 2
    first = min(run.time for run in starts if run.time > back and run.attempt > 1)
    record_property("seconds until the first job", (first - back) / 1e9)
    # Far from a lease: nothing waits for one to end.
    assert first - back < 30e9


@pytest.mark.timeout(300)
def test_a_dispatcher_that_is_cut_off_from_gearmand_sends_nothing_twice(queue: Queue) -> None:
    each = 1_500
    with (
        gearmand_process(queue.folder, queue.address),
        Proxy(queue.address) as way,
        queue.queue_runner(way.address) as runner,
    ):
        queue.insert(each)
        # What is cut off on its way never arrived, and goes out again under its next attempt.
        until_dispatched(runner, 3 * each)
        with queue.worker():
            for share in (100, each, 2 * each):
                until(lambda share=share: len(queue.starts()) > share, progress=lambda: len(queue.starts()))
                opened = way.opened
                assert way.reset() > 0
                until(lambda opened=opened: way.opened > opened)
            queue.until_empty()
        runner.wait_for("gearman.lost")
    assert Counter(run.token for run in queue.starts()).most_common(1)[0][1] == 1
    assert {run.attempt for run in queue.starts()} == {1}
    assert len(queue.starts()) == 3 * each
