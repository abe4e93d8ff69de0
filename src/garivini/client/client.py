"""The thin client: inserts, completes, reschedules and fails jobs. Blocking, without threads."""

import ssl
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from garivini import settings
from garivini.client.direct import DirectDispatch
from garivini.databases import DatabasesLike
from garivini.errors import UsageError
from garivini.gearman.servers import parse_addresses
from garivini.model.handles import HandleLike, handle_of
from garivini.model.inserted import Inserted
from garivini.model.job import Handle, Job, NewJob, parse_state
from garivini.model.new_jobs import JobLike, checked_job, checked_jobs
from garivini.model.outcome import Setback, failure
from garivini.model.pacing import WATERMARK
from garivini.model.state import State
from garivini.model.when import parse_when
from garivini.outcome_events import emit_settled
from garivini.store.callers import after_commit
from garivini.store.database import FailedAttempt
from garivini.store.records import KeptJob, Reported
from garivini.store.shards import Shards


class Client:
    """Inserts jobs into a queue and says how they ended.

    Constructing it connects to nothing. It may be used by several threads and after a fork.

    Without ``dbs`` the databases come from the settings of the commands: the environment, then the file
    ``garivini.toml`` in the working folder or the one that ``GARIVINI_CONFIG`` names, then the default. If
    ``job_servers`` are not given either, the Gearman servers and TLS to them come from there too.

    Args:
        dbs: a database URL (``sqlite:///jobs.db``), an SQLAlchemy Engine, a list of these (a database's
            position, from 1, is its id) or the original's mapping ``{id: {"id", "dsn", "user", "pass"}}``.
        job_servers: Gearman servers as ``host:port``. With them a job that is due is submitted to them by the
            insert itself, as soon as it is committed, or else a QueueRunner is woken; without, a QueueRunner
            finds the job within a second.
        watermark: jobs of a function that may wait in gearmand; what is above waits in SQL. 0: any number.
        tls: how to encrypt the connections to Gearman servers; they are plain without it.

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
        self.shards = Shards(dbs)
        #: The Gearman servers as ``host:port``; none if a QueueRunner finds the jobs by itself.
        self.job_servers = parse_addresses(job_servers) if job_servers else []
        #: How the connections to them are encrypted.
        self.tls = tls
        self._direct = (
            DirectDispatch(self.shards, self.job_servers, watermark=watermark, tls=tls)
            if self.job_servers
            else None
        )

    # ---- the calls of the original

    def insert_job(
        self,
        funcname: str,
        arg: bytes | str = b"",
        run_after: float | timedelta | None = None,
        unique: str | None = None,
        coalesce: str | None = None,
        flag: str | None = None,
        *,
        uniqkey: str | None = None,
        priority: str | None = None,
        dispatch: bool = True,
        connection: Any = None,
    ) -> Inserted:
        """Insert a job. It is committed when this returns.

        Args:
            funcname: the worker's function: 1 to 200 bytes, without line breaks.
            arg: up to 16 MB; a str travels as UTF-8.
            run_after: seconds from now by the database's clock, or a timedelta; now where not given.
            unique: at most one live job of this function has this key; a second insert answers the first.
            coalesce: kept with the job, for the worker.
            flag: ``shim`` (the worker completes the job through a client; the default) or ``controller``.
            uniqkey: another name for ``unique``.
            priority: ``high``, ``normal`` or ``low``.
            dispatch: False leaves it to a QueueRunner, even where this client knows Gearman servers.
            connection: a SQLAlchemy Connection or Session, or a driver's connection: the job is inserted in
                its transaction, and is there when that is committed. After the commit of a Session a
                QueueRunner is woken; otherwise call ``wake``.

        Returns:
            What unpacks as ``(jobid, dbid)``, with ``new`` telling it from the duplicate of a live job.

        Raises:
            UsageError: a value cannot be stored; nothing was inserted.
            UnreachableError, RefusedError, ConflictError, SchemaError: nothing was inserted.
            OutcomeUnknownError: the connection was lost at the commit; a unique key makes trying again safe.

        """
        job = checked_job(
            *(funcname, arg, run_after, unique, coalesce, flag),
            uniqkey=uniqkey,
            priority=priority,
            dispatch=dispatch,
        )
        return self.insert_checked([job], connection)[0]

    def insert_jobs(
        self,
        jobs: Iterable[JobLike],
        run_after: float | timedelta | None = None,
        flag: str | None = None,
        *,
        dispatch: bool = True,
        connection: Any = None,
    ) -> list[Inserted]:
        """Insert many jobs, in one transaction for each database touched.

        Args:
            jobs: lists ``[funcname, uniqkey, coalesce, arg]``, or mappings with the names of
                ``insert_job``'s arguments.
            run_after: one delay for all.
            flag: one flag for all.
            dispatch: as for ``insert_job``. Of a list of more than 4,000 jobs all are left to a QueueRunner.
            connection: as for ``insert_job``.

        Returns:
            One answer a job, in order.

        Raises:
            UsageError: a job cannot be stored; it says which. Nothing was inserted.
            GariviniError: as ``insert_job``. With several databases, others may have taken their part: the
                error's ``stored`` has their answers by position in the list, ``failed`` the positions that
                it is about; the rest was not tried. Jobs without a unique key are stored last and together,
                so the same list may be inserted again after any error but ``OutcomeUnknownError``.

        """
        return self.insert_checked(checked_jobs(jobs, run_after, flag, dispatch=dispatch), connection)

    def complete_job(self, handle: HandleLike) -> bool:
        """Delete a finished job, whoever finished it; return whether it was still there.

        Args:
            handle: a Job, the payload a worker received (mapping or JSON), or ``(jobid, dbid)``.

        """
        return self.complete_jobs([handle]) == 1

    def complete_jobs(self, handles: Iterable[HandleLike]) -> int:
        """Delete many finished jobs, in one transaction a database; return how many were still there."""
        jobids: dict[int, list[int]] = {}
        for handle in map(handle_of, handles):
            jobids.setdefault(handle.dbid, []).append(handle.jobid)
        parts = [(self.shards[dbid], part) for dbid, part in jobids.items()]
        return sum(len(database.complete(part)) for database, part in parts)

    def reschedule_job(self, handle: HandleLike, when: str | int | timedelta | datetime) -> bool:
        """Let a job run at another time. For a failure call ``failed_job``, which counts it.

        Args:
            handle: as for ``complete_job``. With an attempt it applies only while that attempt holds the job.
            when: ``"never"`` parks it for inspection; ``"+360"`` or a timedelta is from now;
                ``"1313572984"``, an int or an aware datetime is a time.

        Returns:
            Whether it applies, now or from an earlier call. False: the job is gone or another attempt's.

        """
        return self._settle(Setback(handle=handle_of(handle), kind="rescheduled", when=parse_when(when)))

    def failed_job(self, handle: HandleLike, error: BaseException | str | None = None) -> bool:
        """Count a failure and let the job run again after 2^failcount minutes, a day at most.

        After 25 failures the job is dead: parked until a person retries it.

        Args:
            handle: as for ``complete_job``. With an attempt it applies only while that attempt holds the job.
            error: kept in the job's record.

        Returns:
            Whether it applies, now or from an earlier call. False: the job is gone or another attempt's.

        """
        return self._settle(failure(handle_of(handle), error))

    def list_jobs(
        self,
        funcname: str | None = None,
        state: str | None = None,
        *,
        after: int = 0,
        limit: int = 100,
    ) -> list[Job]:
        """Return jobs by id, of every database.

        Args:
            funcname: of this function only.
            state: ``waiting``, ``leased``, ``running``, ``suspect`` or ``dead`` only.
            after: with ids above this one.
            limit: at most, of each database.

        """
        chosen = None if state is None else parse_state(state)
        return [
            job
            for database in self.shards
            for job in database.jobs(funcname=funcname, state=chosen, after=after, limit=limit)
        ]

    def failed_jobs(self, funcname: str | None = None, *, after: int = 0, limit: int = 100) -> list[Job]:
        """Return the jobs that have failed at least once or are dead, as ``list_jobs`` does."""
        return [
            job
            for database in self.shards
            for job in database.jobs(funcname=funcname, failed=True, after=after, limit=limit)
        ]

    # ---- beyond the original

    def get_job(self, handle: HandleLike) -> Job | None:
        """Return a job as it stands, or None where there is none."""
        jobid, dbid, _ = handle_of(handle)
        return self.shards[dbid].get(jobid)

    def failures(self, handle: HandleLike) -> list[FailedAttempt]:
        """Return the record of a job's attempts that did not complete, oldest first."""
        jobid, dbid, _ = handle_of(handle)
        return self.shards[dbid].failures(jobid)

    def result(self, handle: HandleLike) -> KeptJob | None:
        """Return a finished job that is kept, with its result, or None.

        Jobs of flag ``controller`` are kept whose function has a retention, for so many seconds. None: there
        is no such job, it has not finished, it is not kept or no longer.
        """
        jobid, dbid, _ = handle_of(handle)
        return self.shards[dbid].finished(jobid)

    def reports(self, handle: HandleLike) -> list[Reported]:
        """Return what a job said while it ran, oldest attempt first; of each its last status, then its lines.

        Also of a finished job that is kept. A Controller takes them down, of jobs of flag ``controller``.
        """
        jobid, dbid, _ = handle_of(handle)
        return self.shards[dbid].reports(jobid)

    def retry_job(self, handle: HandleLike) -> bool:
        """Let a waiting or dead job run now, its failures forgiven; return whether it was one."""
        jobid, dbid, _ = handle_of(handle)
        retried = self.shards[dbid].retry(jobid)
        if retried:
            self.wake()
        return retried

    def cancel_job(self, handle: HandleLike, reason: str = "") -> bool:
        """Park a job dead, whatever its state; return whether it was there and not dead.

        A worker that is running it learns of that at its next renewal, from which on ``job.superseded`` is
        true. If the job succeeds anyway, it is complete; other outcomes change nothing. A copy that waits in
        a Gearman server may still start.
        """
        jobid, dbid, _ = handle_of(handle)
        job = self.shards[dbid].get(jobid)
        if job is None or job.state is State.DEAD:
            return False
        return self._settle(Setback(handle=Handle(jobid, dbid), kind="cancelled", message=reason))

    def delete_jobs(self, handles: Iterable[HandleLike]) -> int:
        """Delete jobs and their records, whatever their state; return how many were there."""
        return self.complete_jobs(handles)

    def wake(self) -> None:
        """Let a QueueRunner look for work at once. Never fails: without it the job is found in a second."""
        if self._direct is not None:
            self._direct.wake()

    def close(self) -> None:
        """Close the connections that are ours. A later call opens new ones."""
        self.shards.close()
        if self._direct is not None:
            self._direct.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def insert_checked(
        self, jobs: Sequence[NewJob], connection: Any = None, *, wake: Callable[[], None] | None = None
    ) -> list[Inserted]:
        """Insert what ``checked_job`` has made; when it is committed, submit it or ``wake`` a QueueRunner."""
        wake = wake or self.wake
        if connection is not None:
            answers = self.shards.insert(jobs, connection=connection) if jobs else []
            if any(answer.new and not job.delay for job, answer in zip(jobs, answers, strict=True)):
                after_commit(connection, wake)
        elif self._direct is None:
            answers = self.shards.insert(jobs) if jobs else []
        else:
            answers = self._direct.insert(jobs, wake) if jobs else []
        return answers

    def _settle(self, setback: Setback) -> bool:
        (settled,) = self.shards[setback.handle.dbid].settle([setback])
        emit_settled(setback, settled)
        return settled.result in ("applied", "repeated")
