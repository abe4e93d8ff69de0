"""The functions, jobs and connections of a Gearman server, and its limits. No I/O.

Each object keeps itself consistent. The broker notifies the connections of a change.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, TypeAlias

#: Indexes of a function's queues and limits, most urgent first.
HIGH: Final = 0
NORMAL: Final = 1
LOW: Final = 2

MIB: Final = 1024 * 1024
#: Bytes that a known function or one registration takes, without the name: measured and rounded up.
RECORD: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Upper bounds of a server."""

    #: Queued and running jobs, and bytes of their payloads and uniques.
    jobs: int = 500_000
    job_bytes: int = 512 * MIB
    #: Bytes of all known functions, and of the registrations of all workers.
    function_bytes: int = 128 * MIB
    registration_bytes: int = 256 * MIB
    #: Bytes of unread output after which a connection is closed.
    unread: int = 64 * MIB
    #: Bytes of unread output and incomplete requests of all connections, above which the largest is closed.
    buffered: int = 256 * MIB
    #: Maximum seconds for one request to arrive completely, and for the peer to read some output.
    patience: float = 60.0
    #: Accepted connections; fewer if the process has a lower limit of file descriptors.
    connections: int = 10_000


#: The default limits.
LIMITS: Final = Limits()


class Connection:
    """A connection: its functions, the jobs that it runs and those that it waits for, and its output.

    Args:
        number: identifies the connection in the answer to ``workers``.
        host: the address of the peer.

    """

    __slots__ = (
        "asleep",
        "client_id",
        "exceptions",
        "follows",
        "functions",
        "held",
        "host",
        "number",
        "out",
        "overflowed",
        "ready",
        "unsent",
    )

    def __init__(self, number: int, host: bytes) -> None:
        self.number: int = number
        self.host: bytes = host
        self.client_id: bytes = b"-"
        self.exceptions: bool = False  # whether the client receives WORK_EXCEPTION packets unchanged
        self.asleep: bool = False
        self.functions: dict[bytes, Function] = {}  # registered
        # By priority: registered functions that may have jobs of this priority, in the order of their turns.
        # A registered function is either here, or has this connection among its watchers.
        self.ready: tuple[OrderedDict[Function, None], ...] = (OrderedDict(), OrderedDict(), OrderedDict())
        self.held: dict[bytes, Job] = {}  # the jobs that it runs, by handle
        self.follows: set[Job] = set()  # the foreground jobs whose end it waits for
        self.out: list[bytes] = []
        self.unsent: int = 0  # bytes in ``out``
        self.overflowed: bool = False  # whether its output exceeded the limit: further output is dropped

    def next_job(self) -> Job | None:
        """Return the next job: in the most urgent priority, the oldest job of the function whose turn it is.

        A function without jobs is removed from ``ready`` until a job arrives, so that later calls do not
        visit it for nothing.
        """
        for priority in (HIGH, NORMAL, LOW):
            ready = self.ready[priority]
            while ready:
                function = next(iter(ready))
                queue = function.queues[priority]
                if queue:
                    return queue[next(iter(queue))]
                del ready[function]
                function.watchers[priority][self] = None
        return None

    def learn(self, function: Function) -> bool:
        """Register a function; return whether it has jobs."""
        self.functions[function.name] = function
        function.workers += 1
        for priority, queue in enumerate(function.queues):
            if queue:
                self.ready[priority][function] = None
            else:
                function.watchers[priority][self] = None
        return bool(function.queued)

    def unlearn(self, function: Function) -> None:
        """Unregister a function."""
        del self.functions[function.name]
        function.workers -= 1
        for ready, watchers in zip(self.ready, function.watchers, strict=True):
            ready.pop(function, None)
            watchers.pop(self, None)


class Job:
    """A job, from its submit to its end."""

    __slots__ = (
        "background",
        "clients",
        "data",
        "denominator",
        "function",
        "handle",
        "key",
        "numerator",
        "priority",
        "retries",
        "sequence",
        "unique",
        "worker",
    )

    def __init__(self, handle: bytes, function: Function, unique: bytes, data: bytes, priority: int) -> None:
        self.handle: bytes = handle
        self.function: Function = function
        self.unique: bytes = unique
        self.key: Key = coalescing_key(unique, data)
        self.data: bytes = data
        self.priority: int = priority
        self.sequence: int = 0  # the job's place in the order of arrival, over all functions
        self.retries: int = 0  # number of workers that died while they ran the job
        self.background: bool = False  # whether the job was submitted as a background job at least once
        # For each client, the number of its foreground submits. Most jobs have no clients and share one empty
        # dictionary: a dictionary per job would double the work of the garbage collector if very many jobs
        # are queued.
        self.clients: dict[Connection, int] = NOBODY
        self.worker: Connection | None = None
        self.numerator: int = 0
        self.denominator: int = 0

    @property
    def wanted(self) -> bool:
        """Whether a client waits for the job, or a background submit asked for it."""
        return self.background or bool(self.clients)

    def follow(self, client: Connection) -> None:
        """Send the reports and the end of this job to a client, once per submit."""
        if not self.clients:
            self.clients = {}
        self.clients[client] = self.clients.get(client, 0) + 1
        client.follows.add(self)


def status_fields(job: Job | None) -> tuple[bytes, bytes, bytes, bytes]:
    """Return the fields known, running, numerator and denominator of the answer about a job."""
    if job is None:
        return b"0", b"0", b"0", b"0"
    return b"1", b"1" if job.worker else b"0", b"%d" % job.numerator, b"%d" % job.denominator


#: An empty collection for a job without clients. Never written to.
NOBODY: Final[dict[Connection, int]] = {}

Key: TypeAlias = bytes | tuple[bytes, bytes]


def coalescing_key(unique: bytes, data: bytes) -> Key:
    """Return the key of a submit: submits of one function with equal keys share a job. Empty: it shares none.

    With the unique ``-``, the data is the key.
    """
    if unique != b"-":
        return unique
    return (b"-", data) if data else b""


class Function:
    """A function: its queued jobs and its workers.

    Each queue is an ordered dictionary of jobs by their ``sequence``. So it takes the same time at any length
    to remove the first job or any other, and to append a job.
    """

    __slots__ = ("limits", "name", "queues", "running", "watchers", "workers")

    def __init__(self, name: bytes) -> None:
        self.name: bytes = name
        self.queues: tuple[OrderedDict[int, Job], ...] = (OrderedDict(), OrderedDict(), OrderedDict())
        self.running: int = 0
        self.workers: int = 0
        # By priority: workers that found no job here. They are notified of the next job.
        self.watchers: list[dict[Connection, None]] = [{}, {}, {}]
        self.limits: list[int] = [0, 0, 0]  # by the priority of a new job; 0 or less: no limit

    @property
    def queued(self) -> int:
        """Number of queued jobs."""
        return sum(map(len, self.queues))

    @property
    def total(self) -> int:
        """Number of queued and running jobs."""
        return self.queued + self.running

    @property
    def idle(self) -> bool:
        """Whether the function may be removed: it has no jobs, workers or limits."""
        return not (self.workers or self.total or any(self.limits))

    def full(self, priority: int) -> bool:
        """Whether the limit for new jobs of this priority is reached. Running jobs count, as in gearmand."""
        limit = self.limits[priority]
        return limit > 0 and self.total >= limit
