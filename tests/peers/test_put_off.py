"""Perl workers that put jobs off by their time alone, as the original's `reschedule_job` does."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from garivini import Client, State
from garivini.store.database import Database
from tests.peers import peer
from tests.peers.databases import Place
from tests.peers.peer import Peer
from tests.processes import PATIENCE, Command, command, until

pytestmark = [pytest.mark.servers, pytest.mark.slow]

#: The database's time with its fraction, in SQL.
PRECISE: Final = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "mariadb": "UNIX_TIMESTAMP() + MICROSECOND(NOW(6)) / 1e6",
    "postgresql": "extract(epoch FROM clock_timestamp())",
}
#: Seconds by which jobs are put off. A QueueRunner asks about what others leased after 6 to 9 s.
DELAYS: Final = [1, 4, 7, 10, 13, 16]
#: After so many seconds the QueueRunner is killed and started again.
RESTARTS: Final = [3, 8, 12]


@contextmanager
def original(folder: Path, server: str, place: Place) -> Iterator[Peer]:
    host, port = server.split(":")
    words = [str(peer.HERE / "original.pl"), host, port, place.now, PRECISE[place.kind], *place.dbi]
    with peer.run(["perl", *words], folder) as running:
        yield running


def store(client: Client) -> Database:
    (database,) = client.shards
    return database


def start(folder: Path, place: Place, server: str, lease: int) -> ExitStack:
    """Start a QueueRunner; to close what is returned kills it."""
    stack = ExitStack()
    running: Command = stack.enter_context(
        command(
            folder,
            *("run", "queue-runner", "--lease", str(lease)),
            GARIVINI_DB=place.url,
            GARIVINI_JOB_SERVERS=server,
        )
    )
    stack.callback(running.process.kill)
    running.wait_for("role.started")
    return stack


@pytest.mark.parametrize("lease", [60, pytest.param(1000, marks=pytest.mark.soak)])
def test_reschedule_job_of_a_perl_worker_is_never_early(
    tmp_path: Path, server: str, database: Place, client: Client, lease: int
) -> None:
    queue_runner = start(tmp_path, database, server, lease)
    with ExitStack() as stack:
        worker = stack.enter_context(original(tmp_path, server, database))
        direct = stack.enter_context(Client(database.url, server))
        began = store(client).clock()
        # Those that the QueueRunner sends, and those that it did not send itself.
        inserted = [
            each.insert_job("put_off", str(seconds)).jobid for seconds in DELAYS for each in (client, direct)
        ]
        due = {}
        for _ in inserted:
            _, jobid, _, until_then = worker.line()
            due[int(jobid)] = int(until_then)
        assert due.keys() == set(inserted)
        for seconds in RESTARTS:
            until(lambda: store(client).clock() > began + seconds, "the time")  # noqa: B023
            queue_runner.close()
            queue_runner = start(tmp_path, database, server, lease)
        for _ in inserted:
            _, jobid, time, _ = worker.line()
            # Neither early nor so late as after a wait for the end of a lease.
            assert due[int(jobid)] <= float(time) < due.pop(int(jobid)) + PATIENCE
        queue_runner.close()
        assert due == {}
        assert client.list_jobs() == []
        assert worker.silent()


def test_a_job_that_a_perl_worker_parks_with_never_is_dead_and_can_be_retried(
    tmp_path: Path, server: str, database: Place, client: Client
) -> None:
    with (
        start(tmp_path, database, server, 60),
        original(tmp_path, server, database) as worker,
    ):
        at = client.insert_job("put_off", "never", unique="k")
        assert worker.line()[1] == str(at.jobid)
        assert [job.jobid for job in client.failed_jobs()] == [at.jobid]
        assert [job.state for job in client.list_jobs(state="dead")] == [State.DEAD]
        assert [(count.state, count.jobs) for count in store(client).counts()] == [(State.DEAD, 1)]
        again = client.insert_job("put_off", unique="k")
        assert (again.jobid, again.new, again.dead) == (at.jobid, False, True)
        assert client.retry_job(at)
        assert worker.line()[1] == str(at.jobid)
        until(lambda: client.list_jobs() == [])
