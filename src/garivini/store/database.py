"""One database: an engine, the statements, and the translation of errors. Blocking; safe for threads."""

import os
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec, TypeVar
from weakref import WeakSet

from sqlalchemy import URL, Engine, create_engine, exc, make_url

from garivini.config import DatabaseSettings, without_password
from garivini.errors import (
    ConflictError,
    GariviniError,
    OutcomeUnknownError,
    RefusedError,
    SchemaError,
    UnreachableError,
    UsageError,
)
from garivini.job import NEVER, PRIORITIES, Handle, Inserted, Job, NewJob, State, new_job
from garivini.policy import (
    BATCH_BYTES,
    MAX_CRASHES,
    MAX_FAILURES,
    MIN_LEASE,
    At,
    FunctionPolicy,
    Never,
    Offset,
    When,
    backoff,
)
from garivini.store import schema
from garivini.store.callers import Cursor, cursor_of
from garivini.store.dialects import DIALECTS
from garivini.store.dialects.dialect import SCHEMA_ADVICE, Dialect
from garivini.store.schema import SCHEMA
from garivini.store.statements import load

#: Rows in one statement, at most. Above 1,000 MariaDB gives up the key for a list of ids.
CHUNK: Final = 1000


class Lane(NamedTuple):
    """Jobs of one function, state and priority, in the order in which they are due."""

    funcname: str
    state: State
    priority: str
    #: Unix time at which its first job is due, or its first lease ends.
    due: int


class Lanes(NamedTuple):
    """The lanes that hold jobs, the most urgent first, and the database's time when it said so."""

    now: float
    lanes: list[Lane]


class Lapsed(NamedTuple):
    """A lease that ran out: what a decision about it rests on, and what its write must find unchanged."""

    jobid: int
    attempt: int
    flag: str
    crashes: int
    #: Unix time of the claim, or of the last time that a server said "queued"; and seconds since then.
    since: int
    age: int
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class Setback:
    """The end of an attempt without success."""

    handle: Handle
    #: ``failed`` (counts; backs off unless ``when`` is given), ``rescheduled`` (does not count),
    #: ``discarded``, ``parked`` or ``cancelled`` (dead at once), ``crashed`` (the process died; the attempt
    #: goes on in another, unless that was the last crash allowed).
    kind: str
    error: str = ""
    message: str = ""
    trace: str = ""
    worker: str = ""
    when: When | None = None


class Settled(NamedTuple):
    """What became of a setback."""

    #: ``applied``, ``repeated`` (this attempt had reported its end before), ``stale`` (another attempt
    #: holds the job, or nobody) or ``gone`` (there is no such job).
    result: str
    #: Where it was applied: the job's new state, its failures, and seconds until it runs again (None: never,
    #: or at a time that was given).
    state: State = State.WAITING
    failcount: int = 0
    delay: int | None = None


class FailedAttempt(NamedTuple):
    """One row of a job's record of attempts that did not complete."""

    attempt: int
    #: Unix time.
    failed_at: int
    kind: str
    error: str
    message: str
    trace: str
    worker: str


class Count(NamedTuple):
    """How many jobs of a function are in a state, and the earliest ``run_after`` among them."""

    funcname: str
    state: State
    jobs: int
    first: int


#: What the trigger of a database that is being drained says.
DRAINING: Final = "garivini is draining this database"
#: Seconds between two tries of what failed by another's doing, more or less.
_PAUSES: Final = (0.0, 0.01, 0.03, 0.1, 0.3)

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _again(
    method: "Callable[Concatenate[Database, _P], _R]",
) -> "Callable[Concatenate[Database, _P], _R]":
    """Call a method again where nothing was done and the reason is gone: see ``GariviniError.passing``."""

    @wraps(method)
    def call(self: "Database", /, *arguments: _P.args, **named: _P.kwargs) -> _R:
        for pause in _PAUSES:
            try:
                return method(self, *arguments, **named)
            except GariviniError as error:
                # A caller's transaction is gone as a whole: only the caller can begin it again.
                if not error.passing or named.get("connection") is not None:
                    raise
            time.sleep(pause * random.uniform(0.5, 1.5))
        return method(self, *arguments, **named)

    return call


class _TakeBack(Exception):
    """Ends a transaction without a trace."""


#: Databases whose connections must not be open while this process forks.
_CLOSE_BEFORE_FORK: "Final[WeakSet[Database]]" = WeakSet()


def _before_fork() -> None:
    for database in list(_CLOSE_BEFORE_FORK):
        database.close()


os.register_at_fork(before=_before_fork)


class Database:
    """One database that holds jobs.

    Constructing it does no I/O. Each method is one transaction: it happens as a whole or not at all. All of
    them raise what ``garivini.errors`` lists: ``UnreachableError``, ``RefusedError``, ``ConflictError``,
    ``OutcomeUnknownError`` and ``SchemaError`` in the first place.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        self.dbid = settings.dbid
        self._owned = not isinstance(settings.target, Engine)
        if self._owned:
            url = _url(settings.target)
            self._dialect = _dialect(url.get_backend_name())
            self._engine = _engine(self._dialect, url)
        else:
            self._engine = settings.target
            self._dialect = _dialect(self._engine.dialect.name)
        self._pid = os.getpid()
        self._checked = False
        if self._owned and self._dialect.close_before_fork:
            _CLOSE_BEFORE_FORK.add(self)
        shown = without_password(self._engine.url.render_as_string(hide_password=True))
        #: For messages: the id and the URL without its password.
        self.where = f"database {self.dbid} ({shown})"

    # ---- jobs in

    @_again
    def insert(self, jobs: Sequence[NewJob], *, connection: Any = None) -> list[Inserted]:
        """Insert jobs in one transaction; return one answer each, in order.

        ``connection``: a caller's own (see ``callers.cursor_of``); then it is the caller's transaction.
        """
        answers: list[Inserted | None] = [None] * len(jobs)
        # In the order of the keys, so that two who insert the same ones do not wait for each other.
        keyed = sorted(
            (index for index, job in enumerate(jobs) if job.uniqkey is not None),
            key=lambda index: (jobs[index].funcname, jobs[index].uniqkey),
        )
        unkeyed = [index for index, job in enumerate(jobs) if job.uniqkey is None]
        with self.transaction() if connection is None else self._joined(connection) as run:
            self._check_sizes(jobs)
            for part in _chunks(unkeyed, lambda index: len(jobs[index].arg), self._dialect.statement_bytes):
                jobids = self._dialect.insert(run, [_insert_row(jobs[index]) for index in part])
                for index, jobid in zip(part, jobids, strict=True):
                    answers[index] = Inserted(jobid, self.dbid)
            for part in _chunks(keyed, lambda index: len(jobs[index].arg), self._dialect.statement_bytes):
                self._insert_keyed(run, jobs, part, answers)
        return [answer for answer in answers if answer is not None]

    def _check_sizes(self, jobs: Sequence[NewJob]) -> None:
        bound = self._dialect.statement_bytes
        for job in jobs:
            if len(job.arg) > bound:
                raise UsageError(
                    f"{self.where} takes arguments of at most {bound} bytes, by its "
                    f"{self._dialect.statement_setting}; one for {job.funcname} has {len(job.arg)}: "
                    "raise that, or store it elsewhere"
                )

    def _insert_keyed(
        self,
        run: "_Run",
        jobs: Sequence[NewJob],
        part: list[int],
        answers: list[Inserted | None],
        tries: int = 5,
    ) -> None:
        gone: list[int] = []
        rows = self._dialect.insert_keyed(run, [_insert_row(jobs[index]) for index in part])
        new = {(funcname, uniqkey): jobid for jobid, funcname, uniqkey in rows}
        known: dict[tuple[str, str | None], int] = {}
        for index in part:
            key = (jobs[index].funcname, jobs[index].uniqkey)
            if key in new:
                known[key] = new.pop(key)
                answers[index] = Inserted(known[key], self.dbid)
                continue
            if key not in known:
                rows = run("live", funcname=key[0], uniqkey=key[1])
                if not rows:
                    gone.append(index)
                    continue
                known[key] = rows[0][0]
            answers[index] = Inserted(known[key], self.dbid, new=False)
        if not gone:
            return
        if not tries:
            raise ConflictError(f"{self.where}: jobs of a unique key came and went; try again")
        # Their live jobs ended between the two statements.
        self._insert_keyed(run, jobs, gone, answers, tries - 1)

    @_again
    def live(self, funcname: str, uniqkey: str) -> int | None:
        """Return the id of the live job of a key, or None."""
        with self.reading() as run:
            rows = run("live", funcname=funcname, uniqkey=uniqkey)
        return rows[0][0] if rows else None

    # ---- jobs out

    @_again
    def lanes(self) -> Lanes:
        """Return the lanes that hold jobs, dead ones left out."""
        with self.reading() as run:
            rows = self._dialect.lanes(run)
        found = [
            Lane(funcname, State(state), PRIORITIES[priority], due)
            for funcname, state, priority, due, _ in rows
        ]
        return Lanes(rows[0][4] if rows else 0.0, found)

    @_again
    def claim(self, lane: Lane, *, limit: int, lease: int, max_bytes: int = BATCH_BYTES) -> list[Job]:
        """Take due jobs of a lane: raise their attempt and lease them.

        Args:
            lane: of state WAITING.
            limit: jobs, at most.
            lease: seconds.
            max_bytes: of arguments; one larger job alone is taken all the same.

        Returns:
            The jobs in the order in which they were due, ``run_after`` being that time.

        """
        with self.transaction() as run:
            due: dict[int, int] = {}
            size = 0
            priority = PRIORITIES.index(lane.priority)
            for jobid, run_after, length in run(
                "due", funcname=lane.funcname, priority=priority, limit=min(limit, CHUNK)
            ):
                size += length
                if due and size > max_bytes:
                    break
                due[jobid] = run_after
            if not due:
                return []
            rows = run("claim", jobids=sorted(due), lease=lease)
        jobs = {row[0]: self._job(row, lease=lease, due=due[row[0]]) for row in rows}
        return [jobs[jobid] for jobid in due]

    @_again
    def release(self, jobs: Collection[Job]) -> None:
        """Give back claims that were not sent: waiting at their old time."""
        with self.transaction() as run:
            for job in sorted(jobs, key=lambda job: job.jobid):
                run("release", jobid=job.jobid, attempt=job.attempt, run_after=job.run_after)

    @_again
    def end_early(self, handles: Collection[Handle], *, lease: int) -> None:
        """End the leases, of so many seconds, of attempts that may have got lost on their way."""
        with self.transaction() as run:
            for attempt, jobids in _by_attempt(handles):
                run("end_early", jobids=jobids, attempt=attempt, lease=lease)

    @_again
    def expired(self, lane: Lane, *, limit: int) -> list[Lapsed]:
        """Return leases of a lane that ran out."""
        with self.reading() as run:
            rows = run(
                "expired",
                funcname=lane.funcname,
                state=lane.state,
                priority=PRIORITIES.index(lane.priority),
                limit=limit,
            )
        return [Lapsed._make((*row, lane.state)) for row in rows]

    @_again
    def extend(self, steps: Sequence[tuple[Lapsed, State, int, bool]]) -> None:
        """Let leases that ran out go on.

        Each step has the new state, the seconds, and whether a server says that it is queued there. Where
        anything has changed since it was read, nothing happens.
        """
        with self.transaction() as run:
            for lapsed, state, seconds, queued in steps:
                run(
                    "extend",
                    jobid=lapsed.jobid,
                    attempt=lapsed.attempt,
                    state=lapsed.state,
                    new_state=state,
                    seconds=seconds,
                    queued=queued,
                )

    @_again
    def bump(self, steps: Sequence[tuple[Lapsed, bool]], *, lease: int) -> list[Job]:
        """Claim again what ran out for good: each with whether its holder is known to have crashed.

        Where anything has changed since it was read, nothing happens and no job is returned. Their
        ``run_after`` is when the attempt before was claimed: a release makes them due at once.
        """
        jobs = []
        with self.transaction() as run:
            for lapsed, crashed in steps:
                rows = run(
                    "bump",
                    jobid=lapsed.jobid,
                    attempt=lapsed.attempt,
                    state=lapsed.state,
                    lease=lease,
                    crashed=crashed,
                )
                jobs += [self._job(row, lease=lease, due=lapsed.since) for row in rows]
        return jobs

    @_again
    def adopt(self, jobid: int, *, lease: int) -> Job | None:
        """Take an attempt for a copy that came without one, from a QueueRunner of the original.

        None: somebody runs the job already, or it is dead or gone.
        """
        with self.transaction() as run:
            rows = run("adopt", jobid=jobid, lease=lease)
        return self._job(rows[0], lease=lease) if rows else None

    @_again
    def dispatched(
        self, lane: Lane, *, age: int, after: int = 0, limit: int = CHUNK
    ) -> list[tuple[Handle, int]]:
        """Return attempts that were handed to Gearman at least ``age`` seconds ago, with their leases' ends.

        Only leases that go on and end at or after the unix time ``after``, in that order.
        """
        priority = PRIORITIES.index(lane.priority)
        with self.reading() as run:
            rows = run(
                "dispatched", funcname=lane.funcname, priority=priority, age=age, after=after, limit=limit
            )
        return [(Handle(jobid, self.dbid, attempt), run_after) for jobid, attempt, run_after in rows]

    @_again
    def give_back(self, handles: Collection[Handle]) -> None:
        """Let jobs wait again that a worker holds and has not started."""
        with self.transaction() as run:
            for attempt, jobids in _by_attempt(handles):
                run("give_back", jobids=jobids, attempt=attempt)

    @_again
    def unstart(self, handles: Collection[Handle]) -> None:
        """Let jobs count as handed out, and not as running, that a holder renewed and will not start.

        Their leases go on, for the server may have given the copies to another worker.
        """
        with self.transaction() as run:
            for attempt, jobids in _by_attempt(handles):
                run("unstart", jobids=jobids, attempt=attempt)

    # ---- the ends of attempts

    @_again
    def renew(self, handles: Collection[Handle], *, lease: int) -> set[Handle]:
        """Prolong the leases of what these attempts hold; return the handles that still hold their job."""
        kept: set[Handle] = set()
        with self.transaction() as run:
            for attempt, jobids in _by_attempt(handles):
                run("renew", jobids=jobids, attempt=attempt, lease=lease)
                rows = run("mine", jobids=jobids, attempt=attempt)
                kept.update(Handle(jobid, self.dbid, attempt) for (jobid,) in rows)
        return kept

    @_again
    def complete(self, jobids: Collection[int]) -> set[int]:
        """Delete finished jobs and their record; return the ids that were there."""
        gone: set[int] = set()
        with self.transaction() as run:
            for part in _chunks(sorted(set(jobids))):
                rows = run("complete", jobids=part)
                gone.update(jobid for jobid, _ in rows)
                scarred = [jobid for jobid, has_record in rows if has_record]
                if scarred:
                    run("forget_failures", jobids=scarred)
        return gone

    @_again
    def settle(self, setbacks: Sequence[Setback], *, max_failures: int = MAX_FAILURES) -> list[Settled]:
        """Record the ends of attempts without success; return what became of each, in order.

        A fenced one applies only while its attempt holds the job.

        Args:
            setbacks: what ended.
            max_failures: after so many a job is dead, where its function has no number of its own.

        """
        with self.transaction() as run:
            return [self._settle(run, setback, max_failures) for setback in setbacks]

    def _settle(self, run: "_Run", setback: Setback, max_failures: int) -> Settled:
        jobid, _, fence = setback.handle
        rows = run("standing", jobids=[jobid])
        if not rows:
            return Settled("gone")
        _, attempt, number, failcount, crashes, most = rows[0]
        state = State(number)
        held = state in (State.LEASED, State.RUNNING, State.SUSPECT)
        if fence is not None and not (held and attempt == fence):
            return Settled("repeated" if run("recorded", jobid=jobid, attempt=fence) else "stale")
        if held or setback.kind != "rescheduled":
            self._record(run, setback, attempt)
        when = setback.when
        if setback.kind == "crashed":
            run("crash", jobid=jobid, attempt=attempt)
            if crashes + 1 < MAX_CRASHES:
                return Settled("applied", state, failcount)
            when = Never()
        if setback.kind == "failed":
            failcount = min(failcount + 1, 255)
        dead = setback.kind in ("discarded", "parked", "cancelled") or (
            setback.kind == "failed" and failcount >= (most or max_failures)
        )
        when = Never() if dead else when or Offset(backoff(failcount))
        unchanged = {"jobid": jobid, "attempt": attempt, "state": state, "failcount": failcount}
        match when:
            case Offset(seconds):
                run("put_back", **unchanged, delay=seconds)
            case At(time):
                run("put_at", **unchanged, run_after=time)
            case Never():
                run("put_at", **unchanged, run_after=NEVER)
        delay = when.seconds if isinstance(when, Offset) else None
        return Settled("applied", State.DEAD if when == Never() else State.WAITING, failcount, delay)

    def _record(self, run: "_Run", setback: Setback, attempt: int) -> None:
        run(
            "record_failure",
            jobid=setback.handle.jobid,
            attempt=attempt,
            kind=setback.kind,
            error=_storable(setback.error)[:255],
            message=_storable(setback.message)[:65_535],
            trace=_storable(setback.trace)[-65_535:],
            worker=_storable(setback.worker)[:255],
        )

    # ---- functions

    @_again
    def functions(self) -> dict[str, FunctionPolicy]:
        """Return what is set for each function."""
        with self.reading() as run:
            rows = run("functions")
        return {
            funcname: FunctionPolicy(
                lease=lease,
                deadline=deadline,
                renews=None if renews is None else bool(renews),
                envelope=envelope,
                max_failures=max_failures,
            )
            for funcname, lease, deadline, renews, envelope, max_failures in rows
        }

    @_again
    def set_function(self, funcname: str, policy: FunctionPolicy, *, by_worker: bool = False) -> None:
        """Set what ``policy`` gives; the rest stays as it is.

        ``by_worker``: a starting worker says what it does. Whether a function's workers renew is then set
        only where nobody has said it: a person may know of others that do not.
        """
        with self.transaction() as run:
            run(
                "register_function" if by_worker else "set_function",
                funcname=funcname,
                lease=policy.lease,
                deadline=policy.deadline,
                renews=policy.renews,
                envelope=policy.envelope,
                max_failures=policy.max_failures,
            )

    @_again
    def unset_function(self, funcname: str) -> None:
        """Go back to the defaults."""
        with self.transaction() as run:
            run("unset_function", funcname=funcname)

    # ---- for people

    @_again
    def get(self, jobid: int) -> Job | None:
        """Return one job, or None."""
        with self.reading() as run:
            rows = run("get", jobid=jobid)
        return self._job(rows[0]) if rows else None

    @_again
    def jobs(
        self,
        *,
        funcname: str | None = None,
        state: State | None = None,
        failed: bool = False,
        after: int = 0,
        limit: int = 100,
    ) -> list[Job]:
        """Return jobs by id, from the one after ``after`` on."""
        with self.reading() as run:
            rows = run("jobs", funcname=funcname, state=state, failed=failed, after=after, limit=limit)
        return [self._job(row) for row in rows]

    @_again
    def failures(self, jobid: int) -> list[FailedAttempt]:
        """Return the record of a job's attempts that did not complete, oldest first."""
        with self.reading() as run:
            return [FailedAttempt(*row) for row in run("failures", jobid=jobid)]

    @_again
    def retry(self, jobid: int) -> bool:
        """Let a waiting or dead job run now, its failures forgiven; return whether it was one."""
        with self.transaction() as run:
            rows = run("standing", jobids=[jobid])
            run("retry", jobid=jobid)
        return bool(rows) and State(rows[0][2]) in (State.WAITING, State.DEAD)

    @_again
    def counts(self) -> list[Count]:
        """Count the jobs of each function and state."""
        with self.reading() as run:
            return [
                Count(funcname, State(state), jobs, first) for funcname, state, jobs, first in run("counts")
            ]

    @_again
    def clock(self) -> float:
        """Return the database's unix time."""
        with self.reading() as run:
            return float(run("clock")[0][0])

    @property
    def dialect(self) -> str:
        """Return the kind of database: ``sqlite``, ``mysql`` (MariaDB too) or ``postgresql``."""
        return self._dialect.name

    @_again
    def facts(self) -> dict[str, str]:
        """Return settings of the database that matter here, by its own names."""
        with self.reading() as run:
            return {name.lower(): str(value) for name, value in run("facts")}

    @_again
    def probe(self) -> int:
        """Do what clients, QueueRunners and workers do, and take it back; return the id that it got.

        Raises:
            GariviniError: which of it fails, and why.

        """
        job = new_job("garivini_probe", b"")
        with suppress(_TakeBack), self.transaction() as run:
            (jobid,) = self._dialect.insert(run, [_insert_row(job)])
            (row,) = run("claim", jobids=[jobid], lease=MIN_LEASE)
            handle = self._job(row).handle
            self._settle(run, Setback(handle=handle, kind="failed"), MAX_FAILURES)
            run("complete", jobids=[jobid])
            run("forget_failures", jobids=[jobid])
            run("functions")
            raise _TakeBack
        return jobid

    # ---- the schema

    def upgrade(self) -> None:
        """Bring the schema to the version of this code. Does nothing where it is there already."""
        from alembic.util import CommandError  # see schema

        with self._connection() as connection:
            self._dialect.before_upgrade(connection)
        try:
            with self._engine.begin() as connection:
                self._dialect.begin_upgrade(connection)
                schema.upgrade(connection)
        except CommandError as error:
            raise SchemaError(f"{self.where}: its schema is not known here: update garivini") from error
        except exc.SQLAlchemyError as error:
            raise self._translated(error) from error
        finally:
            self.close()  # an upgrade's connection may wait for longer than others
        self._checked = False
        self.check()

    def check(self, *, name: bool = True) -> None:
        """Make sure that the schema is this code's and the database is known by this id.

        ``name``: whether to give the database this id if it has none. That writes, which on SQLite would
        wait for a caller's own transaction.

        Raises:
            SchemaError: it has no schema, another version of it, or another id.

        """
        with self._connection() as connection:
            run = _Run(self._dialect, connection.cursor())
            versions = [version for (version,) in run("schema")]
            if versions != [SCHEMA]:
                found = ", ".join(versions) or "none"
                newer = any(version > SCHEMA for version in versions)
                advice = "update garivini" if newer else SCHEMA_ADVICE
                raise SchemaError(f"{self.where} has schema {found}, this code needs {SCHEMA}: {advice}")
            if name and not run("dbid"):
                run("set_dbid", dbid=self.dbid)
            named = [dbid for (dbid,) in run("dbid")]
        if named not in ([], [self.dbid]):
            raise SchemaError(
                f"{self.where} calls itself database {named[0]}: is the list of databases in another order?"
            )
        self._checked = bool(named)

    def close(self) -> None:
        """Close the pooled connections, if they are ours. A later call opens new ones."""
        if self._owned:
            self._engine.dispose()

    # ---- the seam

    @contextmanager
    def reading(self) -> "Iterator[_Run]":
        """Run statements that read, each on its own."""
        if not self._checked:
            self.check()
        with self._connection() as connection:
            yield _Run(self._dialect, connection.cursor())

    @contextmanager
    def transaction(self) -> "Iterator[_Run]":
        """Run several statements as one transaction."""
        if not self._checked:
            self.check()
        with self._connection() as connection:
            cursor = connection.cursor()
            committing = done = False
            try:
                cursor.execute(self._dialect.begin)
                yield _Run(self._dialect, cursor)
                committing = True
                cursor.execute("COMMIT")
                done = True
            except self._driver_error as error:
                raise self._translated(error, connection, committing=committing) from error
            finally:
                if not done and self._dialect.in_transaction(connection):
                    with suppress(self._driver_error):
                        cursor.execute("ROLLBACK")

    @contextmanager
    def _joined(self, connection: Any) -> "Iterator[_Run]":
        """Run statements in a caller's transaction, which the caller ends."""
        if not self._checked:
            self.check(name=False)
        cursor, url = cursor_of(connection, self._dialect.cursor)
        if url is not None and not isinstance(
            _dialect(make_url(url).get_backend_name()), type(self._dialect)
        ):
            raise UsageError(f"the connection is not one to {self.where}")
        try:
            yield _Run(self._dialect, cursor)
        except (exc.DBAPIError, self._driver_error) as error:
            raise self._translated(error) from error

    def is_at(self, url: str) -> bool:
        """Whether this database is the one of a URL, whoever connects and by which driver."""
        return _place(make_url(url)) == _place(self._engine.url)

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """Borrow a driver's connection from the pool, in autocommit; translate the driver's errors."""
        if self._pid != os.getpid():
            # The parent's connections are not ours to use, nor to close.
            self._pid = os.getpid()
            if self._owned:
                self._engine.dispose(close=False)
        try:
            pooled = self._engine.raw_connection()
        except (exc.DBAPIError, self._driver_error, OSError) as error:
            raise self._translated(error) from error
        connection = pooled.driver_connection
        before, lost = None, False
        try:
            if not self._owned:
                before = self._dialect.borrow(connection)
            elif not pooled.info.get("garivini"):
                self._dialect.prepare(connection)
                pooled.info["garivini"] = True
            yield connection
        except self._driver_error as error:
            found = self._translated(error, connection)
            lost = isinstance(found, (UnreachableError, OutcomeUnknownError))
            raise found from error
        except (UnreachableError, OutcomeUnknownError):
            lost = True
            raise
        finally:
            # Not every driver knows of its connection that it is lost.
            if not lost and self._dialect.usable(connection) and self._given_back(connection, before):
                pooled.close()
            else:
                pooled.invalidate()
                if self._owned:
                    # A server that restarted has closed the others too.
                    self._engine.dispose()

    def _given_back(self, connection: Any, before: Any) -> bool:
        """Switch a caller's connection back; return whether it is as it was."""
        if not self._owned:
            try:
                self._dialect.give_back(connection, before)
            except self._driver_error:
                return False
        return True

    @property
    def _driver_error(self) -> type[Exception]:
        error: type[Exception] = self._engine.dialect.loaded_dbapi.Error
        return error

    def _translated(
        self, error: BaseException, connection: Any = None, *, committing: bool = False
    ) -> GariviniError:
        original = error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error
        assert isinstance(original, Exception)
        if DRAINING in str(original):
            refused = RefusedError(f"{self.where} takes no jobs: it is being drained")
            refused.draining = True
            return refused
        found = self._dialect.translate(original, self.where, committing=committing)
        # Lost while it was in use, not in the making: another will do, unless the database is gone.
        lost = isinstance(found, UnreachableError) and connection is not None
        if lost and not self._dialect.silent(original):
            found.passing = True
        return found

    def _job(self, row: Sequence[Any], *, lease: int = 0, due: int | None = None) -> Job:
        (
            jobid,
            funcname,
            arg,
            uniqkey,
            coalesce,
            run_after,
            flag,
            failcount,
            attempt,
            priority,
            state,
            since,
            crashes,
            created,
        ) = row
        return Job(
            jobid=jobid,
            dbid=self.dbid,
            funcname=funcname,
            arg=arg or b"",
            uniqkey=uniqkey,
            coalesce=coalesce,
            run_after=run_after if due is None else due,
            flag=flag or "shim",
            failcount=failcount,
            attempt=attempt,
            priority=PRIORITIES[priority],
            state=State(state),
            since=since,
            crashes=crashes,
            created=created,
            lease=lease,
            lease_end=run_after if lease else 0,
        )


class _Run:
    """Runs named statements on one cursor."""

    __slots__ = ("_cursor", "_statements")

    def __init__(self, dialect: Dialect, cursor: Cursor) -> None:
        self._statements = load(dialect.name, dialect.placeholder, dialect.form)
        self._cursor = cursor

    def __call__(self, name: str, /, rows: Sequence[Mapping[str, Any]] = (), **values: Any) -> Any:
        found: Any = []
        for step in self._statements[name].steps:
            try:
                self._cursor.execute(*step.bind(values, rows))
            except (UnicodeEncodeError, OverflowError) as error:
                raise UsageError(f"a value does not fit the database: {error}") from None
            if self._cursor.description is not None:
                found = self._cursor.fetchall()
                if not found:
                    break
        return found


#: Other names in URLs.
_ALSO: Final = {"mariadb": "mysql", "postgres": "postgresql"}


_PORTS: Final = {"mysql": 3306, "postgresql": 5432}


def _place(url: URL) -> tuple[str, str | None, int | None, str | None]:
    """Return where a URL leads to."""
    name = url.get_backend_name()
    name = _ALSO.get(name, name)
    return name, url.host, url.port or _PORTS.get(name), url.database


def _url(target: Any) -> URL:
    if not isinstance(target, str):
        raise UsageError(f"a database is a URL or an SQLAlchemy Engine, not {type(target).__name__}")
    try:
        return make_url(target)
    except (exc.SQLAlchemyError, ValueError):
        raise UsageError(
            f"{without_password(target)!r} is not a database URL such as sqlite:///jobs.db"
        ) from None


def _dialect(name: str) -> Dialect:
    name = _ALSO.get(name, name)
    if name not in DIALECTS:
        raise UsageError(f"{name} is not supported; use {', '.join(DIALECTS)}")
    return DIALECTS[name]()


def _engine(dialect: Dialect, url: URL) -> Engine:
    """Make an engine of ours. No I/O."""
    url, arguments = dialect.engine(url)
    try:
        engine = create_engine(url, connect_args=arguments, pool_reset_on_return=None)
        dialect.hook(engine)
        return engine
    except (exc.SQLAlchemyError, ImportError) as error:
        shown = without_password(url.render_as_string())
        raise UsageError(f"{shown!r} cannot be used: {error}") from None


def _insert_row(job: NewJob) -> dict[str, Any]:
    return {
        "funcname": job.funcname,
        "uniqkey": job.uniqkey,
        "coalesce": job.coalesce,
        "arg": job.arg,
        "flag": job.flag,
        "priority": PRIORITIES.index(job.priority),
        "delay": job.delay,
    }


def _storable(text: str) -> str:
    """Return an error's text as any database takes it: it may hold NUL or halves of surrogate pairs."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


_T = TypeVar("_T")


def _chunks(
    items: Iterable[_T], size: Callable[[_T], int] = lambda item: 0, most: int = BATCH_BYTES
) -> Iterator[list[_T]]:
    """Cut into lists of at most ``CHUNK`` items and ``BATCH_BYTES`` bytes, or fewer."""
    most = min(most, BATCH_BYTES)
    part: list[_T] = []
    total = 0
    for item in items:
        if part and (len(part) == CHUNK or total + size(item) > most):
            yield part
            part, total = [], 0
        part.append(item)
        total += size(item)
    if part:
        yield part


def _by_attempt(handles: Iterable[Handle]) -> Iterator[tuple[int, list[int]]]:
    """Group by attempt, ids sorted, in chunks. Nearly all are of attempt 1."""
    groups: dict[int, list[int]] = {}
    for jobid, _, attempt in handles:
        if attempt is not None:
            groups.setdefault(attempt, []).append(jobid)
    for attempt, jobids in sorted(groups.items()):
        for part in _chunks(sorted(jobids)):
            yield attempt, part
