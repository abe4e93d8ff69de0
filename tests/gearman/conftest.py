from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import servers
from tests.gearman.peer import Peer


@pytest.fixture(params=["embedded", "gearmand"])
def gearman_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Address of a private server, once of each kind. Both must behave the same."""
    kind = servers.embedded() if request.param == "embedded" else servers.gearmand(tmp_path)
    with kind as address:
        yield address


@pytest.fixture
def embedded_server() -> Iterator[str]:
    """Address of a private embedded server."""
    with servers.embedded() as address:
        yield address


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    """What is entered here is closed after the test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def peer(gearman_server: str, closing: ExitStack) -> Callable[[], Peer]:
    """Makes connections to the server."""
    return lambda: closing.enter_context(Peer(gearman_server))


@pytest.fixture
def embedded_peer(embedded_server: str, closing: ExitStack) -> Callable[[], Peer]:
    """Makes connections to an embedded server."""
    return lambda: closing.enter_context(Peer(embedded_server))
