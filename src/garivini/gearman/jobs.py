"""The contents and limits of a Gearman server: functions with their queues, jobs, connections. No I/O.

The records know how to keep themselves whole; who is told of a change is the broker's affair.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

#: Places of a function's queues and limits, most urgent first.
HIGH: Final = 0
NORMAL: Final = 1
LOW: Final = 2

MIB: Final = 1024 * 1024
#: Bytes of a known function, and of each registration of one, besides its name. Measured, rounded up.
RECORD: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Upper bounds of a server."""

    #: Jobs that wait or run, and bytes of their payloads and uniques.
    jobs: int = 500_000
    job_bytes: int = 512 * MIB
    #: Bytes of all known functions, and of the registrations of all workers.
    function_bytes: int = 128 * MIB
    registration_bytes: int = 256 * MIB
    #: Bytes that one connection may leave unread before it is closed.
    unread: int = 64 * MIB
    #: Bytes of unread output and of unfinished requests of all connections. Above it the largest is closed.
    buffered: int = 256 * MIB
    #: Seconds for one request to arrive whole, and for output to be read at all.
    patience: float = 60.0
    #: Connections; fewer if the process has a lower limit of file descriptors. Others wait to be accepted.
    connections: int = 10_000


#: The default limits.
LIMITS: Final = Limits()


class Connection:
    """A connection as the server sees it: what it can do, what it works on, what it waits for.

    Args:
        number: names the connection in the answer to ``workers``.
        host: address of the other end.

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
        self.number = number
        self.host = host
        self.client_id = b"-"
        self.exceptions = False  # whether it hears of a WORK_EXCEPTION as such
        self.asleep = False
        self.functions: dict[bytes, Function] = {}  # that it can do
        # By priority: functions that may have jobs for it, the next in turn first. Each of its functions is
        # either here or has the connection among its watchers.
        self.ready: tuple[OrderedDict[Function, None], ...] = (OrderedDict(), OrderedDict(), OrderedDict())
        self.held: dict[bytes, Job] = {}  # that it works on, by handle
        self.follows: set[Job] = set()  # whose end it waits for
        self.out: list[bytes] = []
        self.unsent = 0  # bytes in ``out``
        self.overflowed = False  # whether its unread output exceeded the limit: further output is dropped

    def next_job(self) -> Job | None:
        """Return the next job: in the most urgent priority, the oldest job of the function in turn.

        A function without jobs is removed until it has some, so that it is not visited twice in vain.
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
        """Take back a registered function."""
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
        self.handle = handle
        self.function = function
        self.unique = unique
        self.key = coalescing_key(unique, data)
        self.data = data
        self.priority = priority
        self.sequence = 0  # place in the queue, over all functions
        self.retries = 0  # workers that died with it
        self.background = False  # whether a background submit asked for it
        # Foreground submits by client. Most jobs have none and share one empty dictionary: one for each of
        # very many queued jobs would double the work of the garbage collector.
        self.clients = NOBODY
        self.worker: Connection | None = None
        self.numerator = 0
        self.denominator = 0

    @property
    def wanted(self) -> bool:
        """Whether anyone still asks for it. Background submitters ask for ever."""
        return self.background or bool(self.clients)

    def follow(self, client: Connection) -> None:
        """Let a client receive the results of this job, once for each submit."""
        if not self.clients:
            self.clients = {}
        self.clients[client] = self.clients.get(client, 0) + 1
        client.follows.add(self)


#: The clients of a job that has none. Never written to.
NOBODY: Final[dict[Connection, int]] = {}

Key = bytes | tuple[bytes, bytes]


def coalescing_key(unique: bytes, data: bytes) -> Key:
    """Return what makes two submits of one function the same job; empty: nothing does."""
    if unique != b"-":
        return unique
    return (b"-", data) if data else b""


class Function:
    """A function: its waiting jobs, and who can do it.

    The queues are ordered dictionaries, sequence to job, so that taking the first, adding a last one and
    removing one in the middle cost the same at any depth.
    """

    __slots__ = ("limits", "name", "queues", "running", "watchers", "workers")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.queues: tuple[OrderedDict[int, Job], ...] = (OrderedDict(), OrderedDict(), OrderedDict())
        self.running = 0
        self.workers = 0
        # By priority: workers that found no job here, to be notified of the next one.
        self.watchers: list[dict[Connection, None]] = [{}, {}, {}]
        self.limits = [0, 0, 0]  # by priority of a new job; 0 or less: none

    @property
    def queued(self) -> int:
        """Jobs that wait for a worker."""
        return sum(map(len, self.queues))

    @property
    def total(self) -> int:
        """Jobs that wait or run."""
        return self.queued + self.running

    @property
    def idle(self) -> bool:
        """Whether it may be removed: it has only a name."""
        return not (self.workers or self.total or any(self.limits))

    def full(self, priority: int) -> bool:
        """Whether the limit for new jobs of this priority is reached. Running jobs count, as in gearmand."""
        limit = self.limits[priority]
        return limit > 0 and self.total >= limit
