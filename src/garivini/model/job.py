"""A job: its row, its handle, and a job to insert."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec.structs import force_setattr

from garivini.errors import UsageError
from garivini.model.headers import parse_headers
from garivini.model.inserted import Inserted
from garivini.model.job_calls import JobCalls
from garivini.model.limits import FLAGS, PRIORITIES, Flag, Priority, check_word
from garivini.model.state import State
from garivini.model.unique import KeyRule, Unique

if TYPE_CHECKING:
    from garivini.model.new_jobs import JobLike
    from garivini.store.callers import Joinable


class Handle(NamedTuple):
    """Names a job for ``complete_job`` and similar calls.

    ``attempt`` is the fence. If it is None, as in a payload of the original or a pair, a call has an effect
    whichever attempt holds the job.
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
    #: Seconds after its due time until which it must be handed out; 0: the setting of its function applies.
    expires: int = 0
    partition: str | None = None
    #: The headers as JSON; None: there are none.
    headers: str | None = None
    #: Of a follow-up, the id of the database to which it is moved; 0: it stays where it was inserted.
    home: int = 0

    def __post_init__(self) -> None:
        check_word("flag", self.flag, FLAGS)
        check_word("priority", self.priority, PRIORITIES)

    def with_arg(self, arg: bytes) -> "NewJob":
        """Return this job with another argument. Its other values are not checked again."""
        return self._with("arg", arg)

    def with_lease(self, lease: int) -> "NewJob":
        """Return this job with a lease of the given seconds. Its other values are not checked again."""
        return self._with("lease", lease)

    def _with(self, name: str, value: object) -> "NewJob":
        job: NewJob = self.__copy__()  # type: ignore[attr-defined]  # every Struct has it
        force_setattr(job, name, value)
        return job


# Not kw_only: CPython passes the arguments of a call in a dictionary if there are more than 30 of them, and
# arguments with keywords count twice. A dictionary takes three times as long, and each job needs such a call.
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
    #: database has none, or the payload comes from the original or an older version.
    incarnation: int | None = None
    #: Number of starts that have read ``run``. In a function: 0 until it reads ``run``.
    runs: int = 0
    #: Whether this attempt no longer holds the job while it runs: another attempt has it, or it was cancelled
    #: or put off. Then only success counts: if the function returns, the job is complete anyway. To leave the
    #: job as it is, raise an exception.
    superseded: bool = False
    #: Whether the job was cancelled while it runs. Then ``superseded`` is true, too.
    cancelled: bool = False
    #: The calls of the function that runs it; None outside of a function.
    calls: JobCalls | None = None
    #: The jobs to insert with the commit of its success: see ``insert_job``.
    follow_ups: tuple[NewJob, ...] = ()
    #: Whether its function has called ``complete``.
    completed: bool = False
    #: Number of lines that its function has logged by ``log``.
    lines: int = 0
    #: For whom or what it runs: limits per partition count by it. None: it was inserted without one.
    partition: str | None = None
    #: The headers as JSON; None: there are none. ``headers`` has them as a mapping.
    headers_text: str | None = None
    #: The other jobs of its call; see ``bundle``.
    members: tuple["Job", ...] = ()
    #: The answer of its function for this job alone: None if there is none, True for success, or the error.
    answer: bool | BaseException | None = None

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
            job.uniqkey,
            job.coalesce,
            stored.created,
            job.flag,
            0,  # failures
            1,  # attempt
            priority=job.priority,
            state=State.LEASED,
            since=stored.created,
            created=stored.created,
            lease=job.lease,
            lease_end=stored.created + job.lease + 1,
            incarnation=stored.incarnation,
            partition=job.partition,
            headers_text=job.headers,
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
    def bundle(self) -> "tuple[Job, ...]":
        """The jobs of this call, this one first: several if its function has ``coalesce_max``."""
        return (self, *self.members)

    def succeed(self) -> None:
        """Let this job succeed when its function ends, even if the function then raises an exception.

        The last answer for a job counts; a job without an answer ends as the function does. Nothing is
        written before the function ends. Raises UsageError if no function runs this job here.
        """
        self._running()
        force_setattr(self, "answer", True)

    def fail(self, error: BaseException) -> None:
        """Let this job end as if its function had raised ``error``, but not the other jobs of the bundle.

        ``Retry`` and ``Discard`` have their usual effects. Otherwise as ``succeed``; it also raises
        UsageError if ``error`` is not an exception.
        """
        self._running()
        if not isinstance(error, BaseException):
            raise UsageError(f"fail needs an exception, not {error!r:.100}")
        force_setattr(self, "answer", error)

    @property
    def lost(self) -> bool:
        """Alias of ``superseded``."""
        return self.superseded

    @property
    def stopping(self) -> bool:
        """In a function: whether its process was told to stop, or is replaced. Any thread may read it."""
        return self.calls is not None and self.calls.stopping

    @property
    def run(self) -> int:
        """The number of this start of the job, from 1, however the earlier starts ended.

        It also rises if a Gearman server gives the copy of a killed worker to another worker, although
        ``attempt`` stays the same. A start is counted when its function first reads ``run``, by one short
        write to the job's database. A start that does not read ``run`` is not counted, so read it at the
        beginning. In an ``async def`` the write delays other tasks; ``await job.get_run()`` does not.

        Outside of a function: the number of counted starts.

        Raises:
            ConflictError: this attempt no longer holds the job.
            GariviniError: the database does not answer.

        """
        if self.calls is not None and not self.runs:
            force_setattr(self, "runs", self.calls.count_run(self))
        return self.runs

    async def get_run(self) -> int:
        """Return ``run``, counted in a thread, so that other tasks continue. Raises as ``run``."""
        if self.calls is not None and not self.runs:
            await self.calls.in_thread(lambda: self.run)
        return self.runs

    def insert_job(
        self,
        funcname: str,
        arg: bytes | str = b"",
        run_after: float | timedelta | None = None,
        unique: str | Unique | None = None,
        coalesce: str | None = None,
        flag: Flag | None = None,
        *,
        uniqkey: str | None = None,
        priority: Priority | None = None,
        expires: float | timedelta | None = None,
        partition: str | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> None:
        """Insert another job if this one succeeds, in the transaction that completes this one.

        Call this in the function that runs this job, a ``def`` or an ``async def``: it does no I/O. The
        follow-up is inserted exactly once, however often this job runs, and an attempt that fails inserts
        none. It is stored in this job's database. If the database refuses it later, this attempt has failed.

        Args:
            funcname: as for ``Client.insert_job``.
            arg: as there.
            run_after: as there, but counted from the commit.
            unique: as there. The rules of the key apply at the commit; by default, nothing is inserted if a
                job has the key then.
            coalesce: as there.
            flag: as there.
            uniqkey: another name for ``unique``.
            priority: as there.
            expires: as there.
            partition: as there.
            headers: as there.

        Raises:
            UsageError: a value cannot be stored, there are too many follow-ups, or no function runs this job
                here. Earlier follow-ups remain.

        """
        self._running().insert_job(
            *(self, funcname, arg, run_after, unique, coalesce, flag),
            uniqkey=uniqkey,
            priority=priority,
            expires=expires,
            partition=partition,
            headers=headers,
        )

    def insert_jobs(
        self,
        jobs: "Iterable[JobLike]",
        run_after: float | timedelta | None = None,
        flag: Flag | None = None,
    ) -> None:
        """Insert other jobs if this one succeeds, as ``insert_job`` does.

        Args:
            jobs: as for ``Client.insert_jobs``; at most 1,000 with all other follow-ups.
            run_after: as for ``insert_job``, for all of them.
            flag: as for ``insert_job``, for all of them.

        Raises:
            UsageError: as for ``insert_job``; none of these is inserted.

        """
        self._running().insert_jobs(self, jobs, run_after, flag)

    def complete(self, *, connection: "Joinable", result: Any = None) -> None:
        """End this job in a transaction of its function, so that the end commits with the transaction.

        Call this in the function that runs this job, a ``def`` or an ``async def``; it blocks while the
        database works. The transaction must be in the job's own database, and the function commits it. The
        call deletes the row, and inserts the follow-ups so far. If the transaction was rolled back, the call
        may be repeated in the next one; if the function returns after a rollback, the attempt has failed with
        the error ``RolledBack``.

        Args:
            connection: a SQLAlchemy Connection or Session, Django's connection or a driver's. For an
                AsyncConnection or AsyncSession, call this in its ``run_sync``, with the connection that it
                passes.
            result: kept as the result, instead of the return value, if the function has a retention.

        Raises:
            JobLost: this attempt no longer holds the job. Roll back.
            UsageError: the connection leads to another database or has no transaction, the result cannot be
                written as JSON, or no function runs this job here.
            ConflictError: another transaction is in the way; roll back, and repeat it or let the job fail.
            GariviniError: the database does not answer.

        """
        self._running().complete(self, connection, result)

    def progress(self, done: int, total: int) -> None:
        """Report the progress of this job, for ``Client.reports``. Does no I/O.

        Of the reports in one second, only the last is stored. The last report of all is always stored.

        Raises:
            UsageError: a number is not a whole number from 0 on, or no function runs this job here.

        """
        self._running().progress(self, done, total)

    def log(self, text: str | bytes) -> None:
        """Add a line to the log of this job, for ``Client.reports``. Does no I/O.

        The first 999 lines of an attempt are stored, with up to 64 KiB each, and a note if there are more.
        They are deleted with the job, and kept with a kept or dead job.

        Raises:
            UsageError: it is not text or bytes, or no function runs this job here.

        """
        self._running().log(self, text)

    def _running(self) -> JobCalls:
        if self.calls is None:
            raise UsageError(f"job {self.id} is not running here: call this in the function that runs it")
        return self.calls

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
    def headers(self) -> dict[str, Any]:
        """The values that the insert gave beside the argument, such as a request's id; empty without any."""
        return {} if self.headers_text is None else parse_headers(self.headers_text)

    @property
    def unique(self) -> bytes:
        """The Gearman unique of this attempt, by which a server can be asked about it."""
        return unique_of(self.dbid, self.jobid, self.attempt or 0)


def unique_of(dbid: int, jobid: int, attempt: int) -> bytes:
    """Return the Gearman unique of one attempt. It has at most 41 bytes; a server keeps up to 63."""
    return b"%d:%d:%d" % (dbid, jobid, attempt)
