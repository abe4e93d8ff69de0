"""Answers of the administrative protocol, read into values. No I/O."""

from collections.abc import Iterable
from typing import NamedTuple

from garivini.errors import ProtocolError, UsageError
from garivini.gearman.packets import check_function


class FunctionStatus(NamedTuple):
    """A line of ``status``: jobs held for the function, how many of them run, workers that can do it."""

    total: int
    running: int
    workers: int

    @property
    def queued(self) -> int:
        """Jobs that wait for a worker. ``total`` includes the running ones."""
        return self.total - self.running


class PriorityStatus(NamedTuple):
    """A line of ``prioritystatus``: jobs that wait for the function by priority, workers that can do it."""

    high: int
    normal: int
    low: int
    workers: int


class HeldJob(NamedTuple):
    """A line of ``show jobs``."""

    handle: bytes
    retries: int
    #: Whether it is to be dropped when a worker asks for it.
    ignored: bool
    #: Whether it waits, in the background, for a worker.
    queued: bool


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


def parse_priority_status(lines: Iterable[bytes]) -> dict[bytes, PriorityStatus]:
    """Read the lines of ``prioritystatus``.

    Raises:
        ProtocolError: a line has another form.

    """
    functions = {}
    for line in lines:
        try:
            name, high, normal, low, workers = line.rsplit(b"\t", 4)
            functions[name] = PriorityStatus(int(high), int(normal), int(low), int(workers))
        except ValueError:
            raise ProtocolError(f"not a line of prioritystatus: {line[:80]!r}") from None
    return functions


def parse_jobs(lines: Iterable[bytes]) -> list[HeldJob]:
    """Read the lines of ``show jobs``. With many jobs gearmand takes long to answer: never poll it.

    Raises:
        ProtocolError: a line has another form.

    """
    jobs = []
    for line in lines:
        try:
            handle, retries, ignored, queued = line.rsplit(b"\t", 3)
            jobs.append(HeldJob(handle, int(retries), ignored != b"0", queued != b"0"))
        except ValueError:
            raise ProtocolError(f"not a line of show jobs: {line[:80]!r}") from None
    return jobs


def max_queue(function: bytes, most: int) -> bytes:
    """Return the command that lets a function hold at most so many jobs; 0: any number.

    gearmand answers OK also where it does not know the function, and then does nothing.
    """
    return b"maxqueue %s %d" % (check_function(function), most)


def cancel_job(handle: bytes) -> bytes:
    """Return the command that drops a queued job. A running one goes on, and the answer is OK all the same.

    Raises:
        UsageError: the handle has white space.

    """
    if not handle or len(handle.split()) != 1:
        raise UsageError(f"{handle!r} is no job handle")
    return b"cancel job " + handle


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
