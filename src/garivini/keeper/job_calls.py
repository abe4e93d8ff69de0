"""The calls of functions about their own jobs, such as ``job.run`` and ``job.insert_job``."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import msgspec
from msgspec.structs import force_setattr, replace

from garivini.errors import UsageError
from garivini.keeper.functions import Functions
from garivini.keeper.reports import Reports
from garivini.model.job import Job, NewJob
from garivini.model.new_jobs import JobLike, checked_job, checked_jobs
from garivini.model.outcome import Report, Success
from garivini.model.pacing import BATCH_BYTES
from garivini.model.policy import NO_POLICY, RuleScope
from garivini.store.database import Database
from garivini.store.homes import check_key, home_of_job
from garivini.store.records import LATER_LINES, MAX_LINE, MAX_LINES

#: Maximum follow-ups of a job, so that the transaction of its end stays short.
MAX_FOLLOW_UPS: Final = 1000


class JobCalls:
    """The calls that running functions make about their jobs in one database. Safe for threads.

    Args:
        database: has the jobs.
        databases: the ids of all databases of the queue.
        functions: knows whether the jobs of a function are kept after success, and where they belong.
        reports: writes reports.

    """

    #: The name of the worker, for kept jobs.
    worker: str = ""
    #: Whether the worker's process accepts no more jobs, and ends.
    stopping: bool = False

    def __init__(
        self, database: Database, databases: Collection[int], functions: Functions, reports: Reports
    ) -> None:
        self._reports = reports
        self._database = database
        self._functions = functions
        self._databases = databases or (database.dbid,)
        self._lock = threading.Lock()
        self.in_thread: Callable[[Callable[[], int]], Awaitable[int]] = asyncio.to_thread

    def __repr__(self) -> str:
        return "JobCalls()"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()

    def count_run(self, job: Job) -> int:
        """Count a start of this job; return its number. Raises as ``Job.run``."""
        return self._database.expecting(job.incarnation).count_run(job.handle)

    def insert_job(self, job: Job, *values: Any, **named: Any) -> None:
        """Keep a follow-up. Raises as ``Job.insert_job``."""
        new = checked_job(*values, **named, dispatch=False)
        self._add(job, [new])

    def insert_jobs(
        self, job: Job, jobs: Iterable[JobLike], run_after: float | timedelta | None, flag: str | None
    ) -> None:
        """Keep follow-ups, all of them or none. Raises as ``Job.insert_jobs``."""
        self._add(job, checked_jobs(jobs, run_after, flag, dispatch=False))

    def _add(self, job: Job, new: Sequence[NewJob]) -> None:
        if job.completed:
            raise UsageError("insert follow-ups before the call of job.complete")
        new = [self._checked(each) for each in new]
        with self._lock:
            every = (*job.follow_ups, *new)
            if len(every) > MAX_FOLLOW_UPS:
                raise UsageError(
                    f"a job has at most {MAX_FOLLOW_UPS} follow-ups: insert one that inserts the others"
                )
            if len(every) > 1 and sum(len(each.arg) for each in every) > BATCH_BYTES:
                raise UsageError(
                    f"the arguments of a job's follow-ups have at most {BATCH_BYTES} bytes together: store "
                    "them elsewhere"
                )
            force_setattr(job, "follow_ups", every)

    def _checked(self, new: NewJob) -> NewJob:
        """Check as far as possible that the job's database can store a follow-up; return it with its home."""
        limit = self._database.statement_bytes
        if len(new.arg) > limit:
            raise UsageError(f"{self._database.where} takes arguments of at most {limit} bytes")
        if len(self._databases) == 1:
            return new
        scope = (self._functions.stored or {}).get(new.funcname, NO_POLICY).rule_scope
        scopes: Mapping[str, RuleScope] = {} if scope is None else {new.funcname: scope}
        check_key(new, scopes)
        home = home_of_job(self._databases, new, scopes)
        return new if home in (None, self._database.dbid) else replace(new, home=home)

    def complete(self, job: Job, connection: Any, result: Any) -> None:
        """End a job in a transaction of its function. Raises as ``Job.complete``."""
        policy = (self._functions.policies or {}).get(job.funcname, NO_POLICY)
        success = Success(job.jobid, job.attempt, worker=self.worker, retention=policy.retention or 0)
        if success.retention:
            success = success._replace(result=_encoded(result))
        force_setattr(job, "completed", True)
        self._database.end_in(connection, job, success, job.follow_ups)

    def progress(self, job: Job, done: int, total: int) -> None:
        """Report the progress of a job. Raises as ``Job.progress``."""
        for number in (done, total):
            if type(number) is not int or number < 0:
                raise UsageError(f"a progress has whole numbers from 0 on, not {number!r:.100}")
        self._reports.set_progress(Report(job.handle, "status", b"%d/%d" % (done, total), job))

    def log(self, job: Job, text: str | bytes) -> None:
        """Add a line to the log of a job. Raises as ``Job.log``."""
        if isinstance(text, str):
            text = text.encode("utf-8", "backslashreplace")
        elif not isinstance(text, bytes):
            raise UsageError(f"a line is str or bytes, not {type(text).__name__}")
        with self._lock:
            force_setattr(job, "lines", job.lines + 1)
            lines = job.lines
        if lines < MAX_LINES:
            self._reports.add(Report(job.handle, "data", text[:MAX_LINE], job))
        elif lines == MAX_LINES:
            self._reports.add(Report(job.handle, "warning", LATER_LINES, job))


def _encoded(result: Any) -> bytes:
    try:
        return msgspec.json.encode(result)
    except Exception as error:  # of the object
        name = type(result).__qualname__
        raise UsageError(f"the result, a {name}, cannot be written as JSON: {error}") from error
