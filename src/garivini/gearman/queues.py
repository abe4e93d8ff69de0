"""The functions and the jobs of a Gearman server, each within its limits. No I/O."""

from collections import OrderedDict

from garivini.errors import UsageError
from garivini.gearman.jobs import RECORD, Function, Job, Key, coalescing_key
from garivini.gearman.packets import MAX_FUNCTION


class Functions(dict[bytes, Function]):
    """The known functions by name. A function is known from its first use.

    If there is no room for another one, idle functions are removed.

    Args:
        max_bytes: maximum bytes of all functions.

    """

    __slots__ = ("_idle", "_max_bytes", "size")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        #: Bytes of all functions.
        self.size: int = 0
        #: Names of functions that were idle at their last check; the oldest is removed first.
        self._idle: OrderedDict[bytes, None] = OrderedDict()

    def get_or_add(self, name: bytes) -> Function:
        """Return the function of this name; if it is new, add it.

        Raises:
            UsageError: a function cannot have this name, or there are too many functions.

        """
        found = self.get(name)
        if found is None:
            self._make_room(_check_name(name))
            found = self[name] = Function(name)
            self.size += RECORD + len(name)
            self.note_idle(found)
        return found

    def _make_room(self, name: bytes) -> None:
        while self.size + RECORD + len(name) > self._max_bytes:
            if not self._idle:
                raise UsageError("there are too many functions")
            found = self.get(self._idle.popitem(last=False)[0])
            if found is not None and found.idle:
                self.remove(found)

    def remove(self, function: Function) -> None:
        """Remove a function that has neither workers nor jobs."""
        del self[function.name]
        self._idle.pop(function.name, None)
        self.size -= RECORD + len(function.name)

    def note_idle(self, function: Function) -> None:
        """Record that a function may be removed when room is needed, if it is idle now and then."""
        if function.idle:
            self._idle[function.name] = None


class Jobs(dict[bytes, Job]):
    """The queued and running jobs by handle.

    Args:
        functions: the functions of the jobs.

    """

    __slots__ = ("_functions", "by_key", "size")

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        #: Bytes of payloads and uniques.
        self.size: int = 0
        #: The jobs that a submit can join, by their coalescing key. If jobs of several functions have the
        #: same key, the value is a dictionary of these jobs by their function.
        self.by_key: dict[Key, Job | OrderedDict[Function, Job]] = {}

    def to_join(self, function: Function, unique: bytes, data: bytes) -> Job | None:
        """Return the job that a submit with this unique is merged with, or None."""
        found = self.by_key.get(coalescing_key(unique, data))
        if isinstance(found, OrderedDict):
            return found.get(function)
        return found if found is not None and found.function is function else None

    def of_unique(self, unique: bytes) -> Job | None:
        """Return a job with this unique, of any function, or None."""
        found = self.by_key.get(unique)
        return next(iter(found.values())) if isinstance(found, OrderedDict) else found

    def add(self, job: Job) -> None:
        """Add a job."""
        self[job.handle] = job
        self.size += len(job.data) + len(job.unique)
        if job.key:
            other = self.by_key.setdefault(job.key, job)
            if isinstance(other, OrderedDict):
                other[job.function] = job
            elif other is not job:
                self.by_key[job.key] = OrderedDict({other.function: other, job.function: job})

    def remove(self, job: Job) -> None:
        """Remove a job that has ended."""
        del self[job.handle]
        self.size -= len(job.data) + len(job.unique)
        function = job.function
        if job.key:
            found = self.by_key[job.key]
            if isinstance(found, OrderedDict) and len(found) > 1:
                del found[function]
            else:
                del self.by_key[job.key]
        for client in job.clients:
            client.follows.discard(job)
        if not function.workers:
            self._functions.note_idle(function)


def _check_name(name: bytes) -> bytes:
    """Return a name if a function can have it.

    gearmand accepts any bytes, and closes the connection if a name does not fit its buffer. gearmand's
    administrative lines show only the part of a name before a NUL byte.
    """
    if len(name) > MAX_FUNCTION:
        raise UsageError(f"a function name has at most {MAX_FUNCTION} bytes, this one has {len(name)}")
    if b"\0" in name:
        raise UsageError("a function name has no NUL byte")
    return name
