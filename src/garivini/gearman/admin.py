"""The administrative protocol: commands, and the values in its answers. No I/O."""

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
    r"""Return a name as the embedded server shows it: bytes that would end a line are escaped, as ``\x0a``.

    ``word``: also escape white space and control bytes, so that several names can stand on one line. gearmand
    escapes nothing.
    """
    return (_WORDS if word else _LINES).sub(lambda found: b"\\x%02x" % found[0][0], name)


def unescape(name: bytes) -> bytes:
    """Return the name that ``escape`` has escaped."""
    return _ESCAPED.sub(lambda found: bytes((int(found[1], 16),)), name) if b"\\" in name else name


class FunctionStatus(NamedTuple):
    """A line of ``status``: how many jobs a function has, how many of them run, and its workers."""

    total: int
    running: int
    workers: int

    @property
    def queued(self) -> int:
        """Number of queued jobs, without the running ones."""
        return self.total - self.running


class PriorityStatus(NamedTuple):
    """A line of ``prioritystatus``: queued jobs of a function by priority, and its workers."""

    high: int
    normal: int
    low: int
    workers: int


class HeldJob(NamedTuple):
    """A line of ``show jobs``."""

    handle: bytes
    retries: int
    #: Whether the server drops the job instead of assigning it to a worker.
    ignored: bool
    #: Whether the job is a background job.
    queued: bool


class ConnectedWorker(NamedTuple):
    """A line of ``workers``: a connection, its address and id, and its functions."""

    fd: int
    address: str
    client_id: str
    functions: tuple[bytes, ...]


def parse_status(lines: Iterable[bytes]) -> dict[bytes, FunctionStatus]:
    """Return the values of the lines of ``status``. Other lines are skipped."""
    return {
        name: FunctionStatus(total, running, workers) for name, (total, running, workers) in _counts(lines, 3)
    }


def parse_priority_status(lines: Iterable[bytes]) -> dict[bytes, PriorityStatus]:
    """Return the values of the lines of ``prioritystatus``. Other lines are skipped."""
    return {
        name: PriorityStatus(high, normal, low, workers)
        for name, (high, normal, low, workers) in _counts(lines, 4)
    }


def _counts(lines: Iterable[bytes], count: int) -> Iterator[tuple[bytes, list[int]]]:
    """Yield the name of each entry, and the numbers behind the name.

    A name may have tabs. gearmand does not escape line breaks: a name with a line break takes two lines,
    which are joined here. If a line of a name is a single dot, the list ends there, but the entries before
    that name are valid.
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
    """Return the jobs in the lines of ``show jobs``. With many jobs gearmand answers slowly: do not poll.

    Raises:
        ProtocolError: a line has a different form.

    """
    jobs = []
    for line in lines:
        try:
            handle, retries, ignored, queued = line.rsplit(b"\t", 3)
            jobs.append(HeldJob(handle, int(retries), ignored != b"0", queued != b"0"))
        except ValueError:
            raise ProtocolError(f"not a line of show jobs: {line[:80]!r}") from None
    return jobs


def max_queue(function: bytes, limit: int) -> bytes:
    """Return the command that limits the number of queued and running jobs of a function; 0: no limit.

    If gearmand does not know the function, it answers OK but does nothing.

    Raises:
        UsageError: the name has white space, which would end the argument.

    """
    if len(function.split()) != 1:
        raise UsageError(f"function name {function!r} has white space: its queue cannot be limited")
    return b"maxqueue %s %d" % (check_function(function), limit)


def cancel_job(handle: bytes) -> bytes:
    """Return the command that drops a queued job. A running job continues, although the answer is OK.

    Raises:
        UsageError: the handle has white space.

    """
    if not handle or len(handle.split()) != 1:
        raise UsageError(f"{handle!r} is not a job handle")
    return b"cancel job " + handle


def parse_workers(lines: Iterable[bytes]) -> list[ConnectedWorker]:
    """Return the connections in the lines of ``workers``. Clients are listed too, without functions.

    Raises:
        ProtocolError: a line has a different form.

    """
    entries: list[bytes] = []
    for line in lines:
        # gearmand does not escape ids and names, not even their line breaks.
        if entries and not _ENTRY.match(line):
            entries[-1] += b"\n" + line
        else:
            entries.append(line)
    workers = []
    for entry in entries:
        # Ids may contain spaces and colons. Names of functions usually contain no spaces.
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
