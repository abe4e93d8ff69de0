"""Answers of the administrative protocol, read into values. No I/O."""

from collections.abc import Iterable
from typing import NamedTuple

from garivini.errors import ProtocolError


class FunctionStatus(NamedTuple):
    """A line of ``status``: jobs held for the function, how many of them run, workers that can do it."""

    total: int
    running: int
    workers: int

    @property
    def queued(self) -> int:
        """Jobs that wait for a worker. ``total`` includes the running ones."""
        return self.total - self.running


class ConnectedWorker(NamedTuple):
    """A line of ``workers``: a connection, its address and id, and what it can do."""

    fd: int
    address: str
    client_id: str
    functions: tuple[bytes, ...]


def parse_status(lines: Iterable[bytes]) -> dict[bytes, FunctionStatus]:
    """Read the lines of ``status``.

    Raises:
        ProtocolError: a line has another form.

    """
    functions = {}
    for line in lines:
        try:
            name, total, running, workers = line.rsplit(b"\t", 3)
            functions[name] = FunctionStatus(int(total), int(running), int(workers))
        except ValueError:
            raise ProtocolError(f"not a line of status: {line[:80]!r}") from None
    return functions


def parse_workers(lines: Iterable[bytes]) -> list[ConnectedWorker]:
    """Read the lines of ``workers``. Client connections are listed too, with no function.

    Raises:
        ProtocolError: a line has another form.

    """
    workers = []
    for line in lines:
        # Ids may hold spaces and colons; names of functions hold no space.
        head, _, functions = line.rpartition(b" :")
        try:
            fd, address, client_id = head.split(b" ", 2)
            workers.append(
                ConnectedWorker(
                    int(fd),
                    address.decode("ascii", "replace"),
                    client_id.decode("utf-8", "replace"),
                    tuple(functions.split()),
                )
            )
        except ValueError:
            raise ProtocolError(f"not a line of workers: {line[:80]!r}") from None
    return workers
