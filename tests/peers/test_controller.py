"""Stock workers in PHP and Perl, which know of no database, with a Controller on each database."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from garivini import Client
from garivini.model.policy import Envelope, FunctionPolicy
from garivini.model.records import FailedAttempt
from garivini.store.database import Database
from tests.peers import peer
from tests.peers.databases import Place
from tests.peers.peer import PROGRAMS, SUFFIXES, Peer
from tests.processes import command, until

pytestmark = pytest.mark.servers

BYTES = bytes(range(256))


@pytest.fixture(params=PROGRAMS)
def existing_worker(request: pytest.FixtureRequest, server: str, tmp_path: Path) -> Iterator[Peer]:
    """A worker of ``turn`` in each language, which turns its payload around."""
    script = peer.HERE / f"existing_worker.{SUFFIXES[request.param]}"
    with peer.run([PROGRAMS[request.param], str(script), *server.split(":")], tmp_path) as running:
        yield running


@pytest.fixture
def controlled(client: Client, database: Place, server: str, tmp_path: Path) -> Iterator[Database]:
    """The client's database, whose jobs of flag controller go to stock workers."""
    (store,) = client.shards
    envelopes: tuple[tuple[str, Envelope], ...] = (("turn", "raw"), ("act", "raw"), ("read", "latin-1"))
    for funcname, envelope in envelopes:
        store.set_function(funcname, FunctionPolicy(envelope=envelope, retention=60))
    words = ("run", "queue-runner", "controller")
    with command(tmp_path, *words, GARIVINI_DB=database.url, GARIVINI_JOB_SERVERS=server):
        yield store


def result(client: Client, database: Database, funcname: str, arg: bytes | str) -> bytes | None:
    """Run a job and return its result."""
    jobid, _ = client.insert_job(funcname, arg, flag="controller")
    until(lambda: database.finished(jobid), "the job to finish")
    finished = database.finished(jobid)
    assert finished is not None
    assert client.get_job((jobid, 1)) is None
    return finished.result


@pytest.mark.parametrize("arg", [BYTES, "Grüße, 世界".encode(), b"x"], ids=["bytes", "text", "short"])
def test_an_existing_worker_gets_the_raw_argument(
    existing_worker: Peer, client: Client, controlled: Database, arg: bytes
) -> None:
    assert result(client, controlled, "turn", arg) == arg[::-1]


def test_a_worker_of_the_original_reads_the_argument(
    existing_worker: Peer, client: Client, controlled: Database
) -> None:
    assert result(client, controlled, "read", BYTES) == BYTES.hex().encode()


def test_what_an_existing_worker_says_is_recorded(
    existing_worker: Peer, client: Client, controlled: Database
) -> None:

    def act(words: str, kind: str) -> FailedAttempt:
        jobid, _ = client.insert_job("act", words, flag="controller")
        until(lambda: controlled.failures(jobid), "its record")
        (failure,) = controlled.failures(jobid)
        assert failure.kind == kind
        return failure

    failed = act("die zu groß", "failed")
    assert (failed.error, failed.message) == ("WORK_EXCEPTION", "zu groß")
    assert act("fail", "failed").error == "WORK_FAIL"
    assert act('answer {"garivini": {"retry": 60, "reason": "busy"}}', "rescheduled").message == "busy"
    assert act('answer {"garivini": {"discard": "unknown"}}', "discarded").message == "unknown"
    # The worker has come to no harm by any of these.
    jobid, _ = client.insert_job("act", "report done", flag="controller")
    until(lambda: controlled.finished(jobid), "the job to finish")
    said = [(one.kind, one.body) for one in controlled.reports(jobid)]
    assert said == [("status", b"3/4"), ("data", b"a line"), ("warning", b"beware")]
