"""The client: inserts, completes, reschedules, fails and reads jobs. It blocks, and starts no threads."""

import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from garivini import settings
from garivini.client.batches import BatchCalls
from garivini.client.bulk import BulkCalls
from garivini.client.direct import DirectDispatch
from garivini.client.functions import FunctionCalls
from garivini.client.late_outcomes import complete, finish, write_outcomes, write_setback
from garivini.client.reads import ReadCalls
from garivini.client.schedules import Schedules
from garivini.client.waiting import WaitCalls
from garivini.databases import DatabasesLike
from garivini.errors import UsageError
from garivini.gearman.servers import parse_addresses
from garivini.model.handles import HandleLike, handle_of, named_job
from garivini.model.inserted import Inserted
from garivini.model.job import Handle, Job, NewJob
from garivini.model.limits import Flag, Priority
from garivini.model.new_jobs import JobLike, checked_job, checked_jobs
from garivini.model.outcome import Setback, failure, success
from garivini.model.pacing import WATERMARK
from garivini.model.state import State
from garivini.model.unique import Unique
from garivini.model.when import parse_when
from garivini.store.callers import Joinable, after_commit
from garivini.store.shards import Shards


class Client(ReadCalls, BulkCalls, FunctionCalls, WaitCalls, BatchCalls):
    """Inserts jobs into a queue, reports their outcomes and reads them.

    Construction opens no connection. Several threads may share a client, and a child process may use it
    after a fork. A client is a context manager that closes itself.

    Without ``dbs``, the databases come from the settings of the commands: the environment, then the file
    ``garivini.toml`` in the working directory or the file that ``GARIVINI_CONFIG`` names, then
    ``sqlite:///garivini.db``.
    If ``job_servers`` is not given either, the Gearman servers and TLS come from there too.

    Every call that reaches a database can raise ``UnreachableError``, ``RefusedError``, ``ConflictError`` and
    ``SchemaError``, after which nothing was done. It can also raise ``OutcomeUnknownError``, after which the
    request may have been carried out. A call with a handle raises ``UsageError`` if the value is not a handle
    or names an unknown database.

    Args:
        dbs: a database URL (``sqlite:///jobs.db``), a SQLAlchemy Engine, a list of these, in which the
            position from 1 is the id of a database, or the original's mapping
            ``{id: {"id", "dsn", "user", "pass"}}``.
        job_servers: Gearman servers as ``host:port``. With them, an insert submits its due jobs right
            after the commit, and wakes a QueueRunner for due jobs that it leaves in the database. Without
            them, a QueueRunner finds the jobs within a second.
        watermark: maximum jobs of a function that wait in the Gearman servers. Jobs beyond this number
            stay in the database for a QueueRunner. 0: no limit.
        tls: encrypts the connections to Gearman servers, which are plain without it.

    Raises:
        UsageError: a URL, an address, the watermark or the settings are wrong.

    """

    def __init__(
        self,
        dbs: DatabasesLike | None = None,
        job_servers: str | Iterable[str] | None = None,
        *,
        watermark: int = WATERMARK,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if watermark < 0:
            raise UsageError(f"a watermark is 0 (none) or more, not {watermark}")
        if dbs is None:
            found = settings.current()
            dbs = found.databases()
            if job_servers is None:
                job_servers, tls = found.job_servers(), tls or found.tls()
        self._shards = Shards(dbs)
        #: The Gearman servers as ``host:port``; empty if a QueueRunner finds the jobs by itself.
        self.job_servers: list[str] = parse_addresses(job_servers) if job_servers else []
        #: The TLS context for connections to the Gearman servers; None: these are not encrypted.
        self.tls: ssl.SSLContext | None = tls
        self._direct = (
            DirectDispatch(self._shards, self.job_servers, watermark=watermark, tls=tls)
            if self.job_servers
            else None
        )

    @property
    def shards(self) -> Shards:
        """The databases of the jobs, for tests and tools that run roles themselves."""
        return self._shards

    @property
    def schedules(self) -> Schedules:
        """The schedules of the databases."""
        return Schedules(self._shards)

    # ---- the calls of the original

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
        dispatch: bool = True,
        expires: float | timedelta | None = None,
        partition: str | None = None,
        headers: Mapping[str, Any] | None = None,
        connection: Joinable | None = None,
    ) -> Inserted:
        """Insert a job in one transaction, which is committed when the call returns.

        Args:
            funcname: the worker's function: 1 to 200 bytes of UTF-8, without line breaks.
            arg: the argument, up to 16 MB. A str is stored as UTF-8.
            run_after: seconds from now by the database's clock, or a timedelta; by default now.
            unique: unique key, up to 255 characters. At most one job of the function has it: a second insert
                returns that job. A ``Unique`` gives the key other rules than the settings of the function.
            coalesce: stored with the job for the worker, up to 255 characters.
            flag: ``shim`` (default): the worker reports the outcome. ``controller``: a Controller does.
            uniqkey: another name for ``unique``.
            priority: ``high``, ``normal`` (default) or ``low``.
            dispatch: False leaves the job to a QueueRunner, even if the client knows Gearman servers.
            expires: seconds, or a timedelta: a job not handed out this long after it was due is discarded.
            partition: the customer, account or host for which the job runs, up to 200 bytes of UTF-8. A
                function can have limits and turns per partition.
            headers: values beside the argument, for hooks and tools, up to 2 kB as JSON. The worker has them
                as ``job.headers``.
            connection: inserts the job in the transaction of this connection. The job exists when the caller
                commits. A QueueRunner is woken after the commit of a Session or Django connection; with any
                other connection, call ``wake``.

        Returns:
            The id of the job. ``new`` is False if a job with the unique key already exists.

        Raises:
            UsageError: a value cannot be stored, or the connection cannot be joined. Nothing was inserted.
            DuplicateJobError: a job with the unique key exists, and the rule of the key is ``raise``.
            UnreachableError, RefusedError, ConflictError, SchemaError: nothing was inserted.
            OutcomeUnknownError: the connection was lost at the commit. With a unique key, repeat the call.

        """
        job = checked_job(
            *(funcname, arg, run_after, unique, coalesce, flag),
            uniqkey=uniqkey,
            priority=priority,
            dispatch=dispatch,
            expires=expires,
            partition=partition,
            headers=headers,
        )
        return self._insert_checked([job], connection)[0]

    def insert_jobs(
        self,
        jobs: Iterable[JobLike],
        run_after: float | timedelta | None = None,
        flag: Flag | None = None,
        *,
        dispatch: bool = True,
        connection: Joinable | None = None,
    ) -> list[Inserted]:
        """Insert many jobs, in one transaction per database.

        Args:
            jobs: each a list ``[funcname, uniqkey, coalesce, arg]`` or a mapping with the keys ``funcname``,
                ``arg``, ``unique`` or ``uniqkey``, ``coalesce``, ``priority``, ``expires``,
                ``partition``, ``headers``.
            run_after: as for ``insert_job``, for all jobs.
            flag: as for ``insert_job``, for all jobs.
            dispatch: as for ``insert_job``. If a database gets more than 4,000 of the jobs, a QueueRunner
                dispatches them.
            connection: as for ``insert_job``.

        Returns:
            One result per job, in the same order.

        Raises:
            UsageError: a job cannot be stored; the message says which. Nothing was inserted.
            GariviniError: as for ``insert_job``. With several databases, those that have not failed may have
                stored their part: ``stored`` of the error has the results of these jobs by their position in
                the list. ``failed`` has the positions of the jobs that the error concerns. All other jobs
                were not tried. Jobs without a unique key are inserted last, and together unless their
                functions have rules. So without such functions, the same list can be inserted again after
                any error but ``OutcomeUnknownError``.

        """
        return self._insert_checked(checked_jobs(jobs, run_after, flag, dispatch=dispatch), connection)

    def complete_job(
        self, handle: HandleLike, result: bytes | str | None = None, *, worker: str = ""
    ) -> bool:
        """Delete a job that has succeeded. The call is not fenced, because work that is done is done.

        Args:
            handle: names the job: a Job, a Handle, the result of an insert, an id such as ``"1:42"``, the
                payload that a worker received (a mapping or JSON), or a pair ``(jobid, dbid)``. A Job
                or payload from before a failover has an effect only if the row still belongs to that job.
            result: the job's result. The job is kept with it for the retention of its function. A str is
                stored as UTF-8. None: the job is not kept. Any other result needs a second statement.
            worker: the name of the worker that ran the job. It is stored with a kept job.

        Returns:
            Whether the job existed.

        """
        if result is None:
            return self.complete_jobs([handle]) == 1
        named = named_job(handle)
        done = success(handle_of(named), result, worker)
        return write_outcomes(self._shards[named.dbid], [named], partial(finish, done))

    def complete_jobs(self, handles: Iterable[HandleLike]) -> int:
        """Delete jobs that have succeeded, in one transaction per database; return how many existed."""
        by_database: dict[int, list[Job | Handle]] = {}
        for named in map(named_job, handles):
            by_database.setdefault(named.dbid, []).append(named)
        parts = [(self._shards[dbid], part) for dbid, part in by_database.items()]
        return sum(write_outcomes(database, part, complete) for database, part in parts)

    def reschedule_job(self, handle: HandleLike, when: str | int | timedelta | datetime) -> bool:
        """Let a job run again at another time, without counting a failure.

        Args:
            handle: as for ``complete_job``. With an attempt, the call has an effect only while that attempt
                holds the job.
            when: ``"never"`` makes the job dead. ``"+360"`` (seconds) or a timedelta counts from now.
                ``"1313572984"``, an int or a datetime with a time zone is a unix time.

        Returns:
            Whether the job was rescheduled, now or by an earlier call for the same attempt. False: the job
            does not exist, or another attempt holds it.

        Raises:
            UsageError: ``when`` is none of these, or out of range.

        """
        named = named_job(handle)
        setback = Setback(handle=handle_of(named), kind="rescheduled", when=parse_when(when))
        return write_setback(self._shards[named.dbid], named, setback)

    def failed_job(self, handle: HandleLike, error: BaseException | str | None = None) -> bool:
        """Count a failure and let the job run again after 2^failcount minutes, up to a day.

        At the maximum of failures, by default 25, the job is dead until an operator retries it.

        Args:
            handle: as for ``complete_job``. With an attempt, the call has an effect only while that attempt
                holds the job.
            error: stored as the job's failure.

        Returns:
            Whether the failure is recorded, now or by an earlier call for the same attempt. False: the job
            does not exist, or another attempt holds it.

        """
        named = named_job(handle)
        return write_setback(self._shards[named.dbid], named, failure(handle_of(named), error))

    # ---- calls that the original does not have

    def retry_job(self, handle: HandleLike) -> bool:
        """Make a waiting or dead job due now and reset its counts of failures and crashes.

        Returns:
            Whether the job was waiting or dead.

        """
        jobid, dbid, _ = handle_of(handle)
        retried = self._shards[dbid].retry(jobid)
        if retried:
            self.wake()
        return retried

    def cancel_job(self, handle: HandleLike, reason: str = "") -> bool:
        """Make a job dead, whatever its state. The call reads the job, then writes it in a new transaction.

        If a ``Worker`` is running the job, ``job.cancelled`` is true within two seconds, and an ``async def``
        is cancelled. If a Controller has called a worker for the job, it ends that call. If the job succeeds
        anyway, it is complete; any other outcome has no effect. From two seconds after this call, a
        ``Worker`` that receives a copy of the job from a Gearman server drops the copy.

        Args:
            handle: as for ``complete_job``. An attempt in it is ignored.
            reason: stored as the job's failure.

        Returns:
            Whether the job existed and was not dead.

        """
        jobid, dbid, _ = handle_of(handle)
        job = self._shards[dbid].get(jobid)
        if job is None or job.state is State.DEAD:
            return False
        named = Handle(jobid, dbid)
        setback = Setback(handle=named, kind="cancelled", message=reason)
        return write_setback(self._shards[dbid], named, setback)

    def delete_jobs(self, handles: Iterable[HandleLike]) -> int:
        """Delete jobs and their records, whatever their state; return how many existed."""
        return self.complete_jobs(handles)

    def wake(self) -> None:
        """Let a QueueRunner start a pass now instead of within a second. The call never raises an error."""
        if self._direct is not None:
            self._direct.wake()

    def close(self) -> None:
        """Close the client's own connections. A later call opens new ones."""
        self._shards.close()
        if self._direct is not None:
            self._direct.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _insert_checked(
        self,
        jobs: Sequence[NewJob],
        connection: Joinable | None = None,
        *,
        wake: Callable[[], None] | None = None,
    ) -> list[Inserted]:
        """Insert jobs from ``checked_job``; after the commit, submit them or ``wake`` a QueueRunner."""
        wake = wake or self.wake
        if connection is not None:
            answers = self._shards.insert(jobs, connection=connection) if jobs else []
            if any(answer.new and not job.delay for job, answer in zip(jobs, answers, strict=True)):
                after_commit(connection, wake)
        elif self._direct is None:
            answers = self._shards.insert(jobs) if jobs else []
        else:
            answers = self._direct.insert(jobs, wake) if jobs else []
        return answers
