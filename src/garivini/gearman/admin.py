"""Answers of the administrative protocol, read into values. No I/O."""

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from garivini.errors import ProtocolError, UsageError
from garivini.gearman.packets import check_function

_LINES: Final = re.compile(rb"[\x00\r\n]|\\(?=x[0-9a-f]{2})|\A\.\Z")
_WORDS: Final = re.compile(rb"[\x00-\x20\x7f]|\\(?=x[0-9a-f]{2})|\A\.\Z")
#: The beginning of a line of ``workers``.
_ENTRY: Final = re.compile(rb"\d+ \S+ ")
_ESCAPED: Final = re.compile(rb"\\x([0-9a-f]{2})")


def escape(name: bytes, *, word: bool = False) -> bytes:
    r"""Return a name as the embedded server shows it, with ``\x0a`` for each byte that would end a line.

    ``word``: also escape white space and control bytes, for names on one line. gearmand shows them raw.
    """
    return (_WORDS if word else _LINES).sub(lambda found: b"\\x%02x" % found[0][0], name)


def unescape(name: bytes) -> bytes:
    """Return the name that ``escape`` was given."""
    return _ESCAPED.sub(lambda found: bytes((int(found[1], 16),)), name) if b"\\" in name else name


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
    """Read the lines of ``status``; other lines are skipped."""
    return {
        name: FunctionStatus(total, running, workers) for name, (total, running, workers) in _counts(lines, 3)
    }


def parse_priority_status(lines: Iterable[bytes]) -> dict[bytes, PriorityStatus]:
    """Read the lines of ``prioritystatus``; other lines are skipped."""
    return {
        name: PriorityStatus(high, normal, low, workers)
        for name, (high, normal, low, workers) in _counts(lines, 4)
    }


def _counts(lines: Iterable[bytes], count: int) -> Iterator[tuple[bytes, list[int]]]:
    """Yield names and the numbers behind them.

    A name may have tabs. gearmand shows one with a line break raw too, on two lines: they are put together.
    A name with a line of a single dot ends the list too early; one such function must not stop the others.
    """
    begun: list[bytes] = []
    for line in lines:
        name, *numbers = line.rsplit(b"\t", count)
        if len(numbers) == count and all(field.isdigit() and len(field) <= 20 for field in numbers):
            yield unescape(b"\n".join([*begun, name])), [int(number) for number in numbers]
            begun.clear()
        else:
            begun.append(line)


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

    Raises:
        UsageError: the name has white space, which the line cannot carry.

    """
    if len(function.split()) != 1:
        raise UsageError(f"function name {function!r} has white space: its queue cannot be limited")
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
    entries: list[bytes] = []
    for line in lines:
        # gearmand shows ids and names as they are, ends of lines included.
        if entries and not _ENTRY.match(line):
            entries[-1] += b"\n" + line
        else:
            entries.append(line)
    workers = []
    for entry in entries:
        # Ids may hold spaces and colons; names of functions usually hold no space.
        head, _, functions = entry.rpartition(b" :")
        try:
            fd, address, client_id = head.split(b" ", 2)
            workers.append(
                ConnectedWorker(
                    int(fd),
                    address.decode("ascii", "replace"),
                    client_id.decode("utf-8", "replace"),
                    tuple(map(unescape, functions.split())),
                )
            )
        except ValueError:
            raise ProtocolError(f"not a line of workers: {entry[:80]!r}") from None
    return workers
