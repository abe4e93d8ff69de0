"""What a Gearman server holds: functions with their queues, jobs, connections. No I/O.

The records know how to keep themselves whole; who is told of a change is the broker's affair.
"""

from collections import OrderedDict
from typing import Final

#: Places of a function's queues and limits, most urgent first.
HIGH: Final = 0
NORMAL: Final = 1
LOW: Final = 2


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
        "unsent",
    )

    def __init__(self, number: int, host: bytes) -> None:
        self.number = number
        self.host = host
        self.client_id = b"-"
        self.exceptions = False  # whether it hears of a WORK_EXCEPTION as such
        self.asleep = False
        self.functions: dict[bytes, Function] = {}  # that it can do
        self.held: dict[bytes, Job] = {}  # that it works on, by handle
        self.follows: set[Job] = set()  # whose end it waits for
        self.out: list[bytes] = []
        self.unsent = 0  # bytes in ``out``


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

    def __init__(
        self, handle: bytes, function: "Function", unique: bytes, data: bytes, priority: int
    ) -> None:
        self.handle = handle
        self.function = function
        self.unique = unique
        self.key = coalescing_key(unique, data)
        self.data = data
        self.priority = priority
        self.sequence = 0  # place in the queue, over all functions
        self.retries = 0  # workers that died with it
        self.background = False  # whether a background submit asked for it
        # One entry a foreground submit. A tuple, because most jobs have none: the empty one costs nothing,
        # and a list in each of very many queued jobs doubles the work of the garbage collector.
        self.clients: tuple[Connection, ...] = ()
        self.worker: Connection | None = None
        self.numerator = 0
        self.denominator = 0

    @property
    def wanted(self) -> bool:
        """Whether anyone still asks for it. Background submitters ask for ever."""
        return self.background or bool(self.clients)


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

    __slots__ = ("limits", "live", "name", "queues", "running", "sleepers", "workers")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.queues: tuple[OrderedDict[int, Job], ...] = (OrderedDict(), OrderedDict(), OrderedDict())
        self.live: dict[Key, Job] = {}  # queued and running jobs that a submit can join
        self.running = 0
        self.workers = 0
        self.sleepers: dict[Connection, None] = {}  # to be woken by a job, in the order of falling asleep
        self.limits = [0, 0, 0]  # by priority of a new job; 0 or less: none

    @property
    def queued(self) -> int:
        """Jobs that wait for a worker."""
        return sum(map(len, self.queues))

    @property
    def total(self) -> int:
        """Jobs that wait or run."""
        return self.queued + self.running

    def full(self, priority: int) -> bool:
        """Whether the limit for new jobs of this priority is reached. Running jobs count, as in gearmand."""
        limit = self.limits[priority]
        return limit > 0 and self.total >= limit


def first_job(functions: dict[bytes, Function]) -> Job | None:
    """Return the job to do next: of the most urgent priority in any of the functions, the oldest."""
    for priority in (HIGH, NORMAL, LOW):
        found: OrderedDict[int, Job] | None = None
        oldest = 0
        for function in functions.values():
            queue = function.queues[priority]
            if queue:
                sequence = next(iter(queue))
                if found is None or sequence < oldest:
                    found, oldest = queue, sequence
        if found is not None:
            return found[oldest]
    return None
