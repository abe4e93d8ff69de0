"""A job: its row, its handle, and a job to insert."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import force_setattr

from garivini.errors import UsageError
from garivini.model.inserted import Inserted
from garivini.model.limits import FLAGS, PRIORITIES, Flag, Priority, check_word
from garivini.model.state import State
from garivini.model.unique import KeyRule


class Handle(NamedTuple):
    """Names a job for ``complete_job`` and similar calls.

    ``attempt`` is the fence. If it is None, as in a payload of the original or a pair, a call has an effect
    whoever holds the job.
    """

    jobid: int
    dbid: int
    attempt: int | None = None

    @property
    def id(self) -> str:
        """The job's id as text, ``1:42`` for job 42 of database 1."""
        return f"{self.dbid}:{self.jobid}"


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job to insert, with values that have been checked.

    Raises:
        UsageError: the flag or the priority is unknown.

    """

    funcname: str
    arg: bytes
    uniqkey: str | None
    coalesce: str | None
    flag: Flag
    priority: Priority
    #: Seconds from now by the database's clock.
    delay: int
    #: Seconds of the lease with which it is inserted, as if it were claimed immediately; 0: it waits.
    lease: int = 0
    #: Whether a client that knows Gearman servers may submit the job after the commit.
    dispatch: bool = True
    #: The rules of its unique key; None: the defaults.
    rule: KeyRule | None = None
    #: Seconds after it is due until which it must be handed out; 0: the setting of its function applies.
    expires: int = 0
    partition: str | None = None

    def __post_init__(self) -> None:
        check_word("flag", self.flag, FLAGS)
        check_word("priority", self.priority, PRIORITIES)


class StartCounter:
    """Counts the starts of the jobs of one database. A job sent to another process loses its counter."""

    __slots__ = ("_count", "in_thread")

    def __init__(
        self,
        count: Callable[["Job"], int],
        in_thread: Callable[[Callable[[], int]], Awaitable[int]],
    ) -> None:
        self._count = count
        #: Calls a function in a thread, to be awaited.
        self.in_thread: Callable[[Callable[[], int]], Awaitable[int]] = in_thread

    def __call__(self, job: "Job") -> int:
        """Count a start of this job; return its number."""
        return self._count(job)

    def __repr__(self) -> str:
        return "StartCounter()"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()


# Not kw_only: CPython passes the arguments of a call in a dictionary if there are more than 30 of them, those
# with keywords counted twice. That takes three times as long, and one of these is built per job.
class Job(msgspec.Struct, frozen=True, gc=False):
    """A job as read from its row or received by a worker. Times are unix seconds by the database's clock."""

    jobid: int
    dbid: int
    funcname: str
    arg: bytes
    uniqkey: str | None = None
    coalesce: str | None = None
    #: Waiting: when it is due. Leased, running, suspect: when the lease ends. In a payload: when it was due.
    run_after: int = 0
    flag: str = "shim"
    failcount: int = 0
    #: Incremented by each claim. None in a payload of Garivini for Perl, which has no attempt numbers.
    attempt: int | None = None
    priority: str = "normal"
    state: State = State.WAITING
    #: When it was claimed, or when a server last had it queued.
    since: int = 0
    crashes: int = 0
    created: int = 0
    #: Seconds of this attempt's lease; 0: unknown.
    lease: int = 0
    #: When this lease ends unless it is renewed; 0: unknown.
    lease_end: int = 0
    #: The incarnation of the database that gave this attempt: see ``docs/explanation/leases.md``. None: the
    #: database has none, or the payload is of the original or of an older version.
    incarnation: int | None = None
    #: Number of starts that have read ``run``. In a function: 0 until it reads ``run``.
    runs: int = 0
    #: Whether this attempt no longer holds the job while it runs: another attempt has it, or it was cancelled
    #: or put off. Then only success counts: if the function returns, the job is complete anyway. To leave the
    #: job as it is, raise an exception.
    superseded: bool = False
    #: Whether the job was cancelled while it runs. Then ``superseded`` is true, too.
    cancelled: bool = False
    #: Counts this start when ``run`` is first read; None outside of a function.
    counter: "StartCounter | None" = None
    #: For whom or what it runs: limits per partition count by it. None: it was inserted without one.
    partition: str | None = None

    def __hash__(self) -> int:
        # The hash cannot use all fields, because the worker may set ``superseded`` while the job runs.
        return hash(self.handle)

    @classmethod
    def from_insert(cls, job: NewJob, stored: Inserted) -> "Job":
        """Return a job that was inserted with a lease, as a claim returns it."""
        return cls(
            stored.jobid,
            stored.dbid,
            job.funcname,
            job.arg,
            uniqkey=job.uniqkey,
            coalesce=job.coalesce,
            run_after=stored.created,
            flag=job.flag,
            attempt=1,
            priority=job.priority,
            state=State.LEASED,
            since=stored.created,
            created=stored.created,
            lease=job.lease,
            lease_end=stored.created + job.lease + 1,
            incarnation=stored.incarnation,
            partition=job.partition,
        )

    @property
    def id(self) -> str:
        """The job's id as text, ``1:42`` for job 42 of database 1."""
        return f"{self.dbid}:{self.jobid}"

    @property
    def handle(self) -> Handle:
        """The job's handle, fenced by its attempt."""
        return Handle(self.jobid, self.dbid, self.attempt)

    @property
    def lost(self) -> bool:
        """Alias of ``superseded``."""
        return self.superseded

    @property
    def run(self) -> int:
        """The number of this start of the job, from 1, however the earlier starts ended.

        It rises also if a Gearman server gives the copy of a killed worker to another one, when ``attempt``
        does not. A start is counted when its function first reads ``run``, by one short write to the job's
        database. A start that does not read it is not counted, so read it at the beginning. In an
        ``async def`` the write delays other tasks; ``await job.get_run()`` does not.

        Outside of a function: the number of counted starts.

        Raises:
            ConflictError: this attempt no longer holds the job.
            GariviniError: the database does not answer.

        """
        if self.counter is not None:
            force_setattr(self, "runs", self.counter(self))
            force_setattr(self, "counter", None)
        return self.runs

    async def get_run(self) -> int:
        """Return ``run``, counted in a thread, so that other tasks continue. Raises as ``run``."""
        if self.counter is not None:
            await self.counter.in_thread(lambda: self.run)
        return self.runs

    @property
    def json(self) -> Any:
        """The argument, decoded from JSON.

        Raises:
            UsageError: it is not JSON.

        """
        try:
            return msgspec.json.decode(self.arg)
        except msgspec.DecodeError as error:
            raise UsageError(f"the argument of job {self.jobid} is not JSON: {error}") from error

    @property
    def unique(self) -> bytes:
        """The Gearman unique of this attempt, by which a server can be asked about it."""
        return unique_of(self.dbid, self.jobid, self.attempt or 0)


def unique_of(dbid: int, jobid: int, attempt: int) -> bytes:
    """Return the Gearman unique of one attempt. It has at most 41 bytes; a server keeps up to 63."""
    return b"%d:%d:%d" % (dbid, jobid, attempt)


def parse_state(state: str) -> State:
    """Return the state of this name.

    Raises:
        UsageError: no state has it.

    """
    try:
        return State[state.upper()]
    except (KeyError, AttributeError):
        names = ", ".join(member.name.lower() for member in State)
        raise UsageError(f"state {state!r:.100} is unknown: it is one of {names}") from None
