"""The ids by which Gearman servers, and so ``doctor``, know the connections of roles."""

from typing import Final

import garivini

#: The beginning of the id of a QueueRunner.
_QUEUE_RUNNER: Final = "queue-runner"


def queue_runner_id() -> bytes:
    """Return the client id of a QueueRunner of this version."""
    return f"{_QUEUE_RUNNER}/{garivini.__version__}".encode()


def queue_runner_version(client_id: str) -> str:
    """Return the version in the client id of a QueueRunner; empty if it has none."""
    return client_id.partition("/")[2]
