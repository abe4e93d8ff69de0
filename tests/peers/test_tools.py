"""Debian's ``gearman`` as client and worker, on the embedded server and on gearmand."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from garivini import Client
from garivini.gearman import blocking
from garivini.gearman.protocol import Submission
from tests.databases import sqlite_url
from tests.gearman.peer import Peer as Connection
from tests.peers import peer
from tests.processes import PATIENCE, command, until

pytestmark = pytest.mark.servers

BYTES = bytes(range(256))


def tool(address: str, *words: str, data: bytes | None = None) -> bytes:
    """Run ``gearman`` as a client; return what it prints."""
    host, port = address.split(":")
    result = subprocess.run(
        ["gearman", "-h", host, "-p", port, *words],
        input=data,
        stdin=subprocess.DEVNULL if data is None else None,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, b"")
    return result.stdout


@pytest.fixture
def tool_worker(either_server: str, tmp_path: Path) -> Iterator[None]:
    """``gearman`` as a worker of ``copy``, which runs ``cat``."""
    host, port = either_server.split(":")
    with peer.run(["gearman", "-w", "-h", host, "-p", port, "-f", "copy", "cat"], tmp_path):
        yield


def test_the_tool_is_a_client_of_the_tool(either_server: str, tool_worker: None) -> None:
    assert tool(either_server, "-f", "copy", data=BYTES * 100) == BYTES * 100
    assert tool(either_server, "-f", "copy", "-n", data=b"a\nb\nc\n") == b"a\nb\nc\n"
    assert tool(either_server, "-f", "copy", "-I", "-u", "mine", "hasty") == b"hasty"


def test_the_tool_is_a_worker_of_our_client(either_server: str, tool_worker: None) -> None:
    with blocking.Client(either_server) as client:
        assert client.run(Submission(b"copy", BYTES, b"u")) == BYTES


def test_the_tool_submits_background_jobs_to_our_worker(either_server: str) -> None:
    tool(either_server, "-b", "-f", "later", "-u", "one", data=BYTES)
    tool(either_server, "-b", "-f", "later", "-u", "one", data=b"merged with the first")
    tool(either_server, "-b", "-f", "later", "-L", data=b"low")
    with Connection(either_server) as worker:
        worker.can_do(b"later")
        assert [worker.grab()[1] for _ in range(3)] == [BYTES, b"low", b""]


def test_the_tool_wakes_a_queue_runner(either_server: str, tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    with (
        Client(url) as client,
        command(
            tmp_path,
            "run",
            "queue-runner",
            "--poll",
            "60",
            GARIVINI_DB=url,
            GARIVINI_JOB_SERVERS=either_server,
        ) as running,
    ):
        running.wait_for("role.started")
        with Connection(either_server) as admin:
            admin.until(lambda admin: admin.status(b"garivini_wake")[2] == 1)
            for _ in range(3):
                client.insert_job("f")
                tool(either_server, "-b", "-s", "-f", "garivini_wake", "-u", "wake")
                until(lambda: not client.list_jobs(state="waiting"), "the job to be dispatched")
