from collections.abc import Iterator
from pathlib import Path

import pytest

from garivini import Client
from tests import servers
from tests.peers.databases import KINDS, Place, place
from tests.processes import Command, command


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An upgraded database of each kind, the test's own."""
    with place(request.param, tmp_path, request) as made:
        yield made


@pytest.fixture
def server(database: Place, tmp_path: Path) -> Iterator[str]:
    """Address of a private Gearman server: embedded beside SQLite, gearmand beside the others."""
    kind = KINDS[database.kind]
    with servers.embedded() if kind == "embedded" else servers.gearmand(tmp_path) as address:
        yield address


@pytest.fixture(params=["embedded", "gearmand"])
def either_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Address of a private Gearman server, once of each kind."""
    with servers.embedded() if request.param == "embedded" else servers.gearmand(tmp_path) as address:
        yield address


@pytest.fixture
def client(database: Place) -> Iterator[Client]:
    """A client that does not know the Gearman server: what it inserts waits for the QueueRunner."""
    with Client(database.url) as client:
        yield client


@pytest.fixture
def queue_runner(database: Place, server: str, tmp_path: Path) -> Iterator[Command]:
    """A QueueRunner between the two, in a process of its own."""
    with command(
        tmp_path, "run", "queue-runner", GARIVINI_DB=database.url, GARIVINI_JOB_SERVERS=server
    ) as running:
        running.wait_for("role.started")
        yield running
