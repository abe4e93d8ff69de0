"""The client for asyncio: the calls of ``Client``, to be awaited."""

import asyncio
import ssl
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, ParamSpec, TypeVar

from garivini.client.aio_bulk import AsyncBulkCalls
from garivini.client.batches import AsyncBatchCalls
from garivini.client.client import Client
from garivini.client.functions import AsyncFunctionCalls
from garivini.client.reads import AsyncReadCalls
from garivini.client.schedules import AsyncSchedules
from garivini.client.waiting import AsyncWaitCalls, SharedPolls
from garivini.databases import DatabasesLike
from garivini.model.handles import HandleLike
from garivini.model.inserted import Inserted
from garivini.model.job import NewJob
from garivini.model.limits import Flag, Priority
from garivini.model.new_jobs import JobLike, checked_job, checked_jobs
from garivini.model.pacing import WATERMARK
from garivini.model.unique import Unique
from garivini.store.callers import AsyncJoinable
from garivini.store.split_inserts import Ends, SplitInserts

_P = ParamSpec("_P")
_R = TypeVar("_R")


class _Caller(NamedTuple):
    """A single insert that waits for its result."""

    jobs: list[NewJob]
    answer: asyncio.Future[Inserted]


@dataclass(slots=True)
class _Stream:
    """Single inserts that wait for the same database."""

    callers: list[_Caller] = field(default_factory=list)
    #: The task that inserts them, while there are any.
    inserting: asyncio.Task[None] | None = None


class AsyncClient(AsyncReadCalls, AsyncBulkCalls, AsyncFunctionCalls, AsyncWaitCalls, AsyncBatchCalls):
    """Inserts jobs into a queue, reports their outcomes and reads them, in an event loop.

    Construction opens no connection. The client is an asynchronous context manager that closes itself. Use it
    in one event loop only. Arguments, results and errors are those of ``Client``.

    Database calls run in a pool of threads, which has one thread more than there are databases. Single
    inserts that arrive during another commit are committed together, so many concurrent inserts need few
    commits. If a batch fails, it is retried in smaller batches, and each caller gets the result or error of
    its own job. A call that is cancelled may have been executed.

    Every call that reaches a database can raise ``UnreachableError``, ``RefusedError``, ``ConflictError`` and
    ``SchemaError``, after which nothing was done. It can also raise ``OutcomeUnknownError``, after which the
    request may have been carried out. A call with a handle raises ``UsageError`` if the value is not a handle
    or names an unknown database.

    Args:
        dbs: a database URL (``sqlite:///jobs.db``), a SQLAlchemy Engine, a list of these, in which the
            position from 1 is the id of a database, or the original's mapping
            ``{id: {"id", "dsn", "user", "pass"}}``. By default, the databases of the commands' settings.
        job_servers: Gearman servers as ``host:port``. With them, an insert submits its due jobs right
            after the commit. Without them, a QueueRunner finds the jobs within a second.
        watermark: maximum jobs of a function that wait in the Gearman servers. 0: no limit.
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
        self._client: Client = Client(dbs, job_servers, watermark=watermark, tls=tls)
        # Each unique key has a home. An unreachable home, or a locked key in it, delays no other stream.
        homes = [database.dbid for database in self._client._shards]
        self._streams = {home: _Stream() for home in (None, *homes)}
        self._polls: dict[int, SharedPolls] = {}
        self._threads = ThreadPoolExecutor(len(self._streams), thread_name_prefix="garivini-client")

    async def insert_job(
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
        connection: AsyncJoinable | None = None,
    ) -> Inserted:
        """Insert a job in one transaction, which is committed when the call returns.

        If the call is cancelled before its batch is started, nothing is inserted. If it is cancelled later,
        the job may have been inserted.

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
            connection: inserts the job in the transaction of this connection, which may also be an
                AsyncConnection or AsyncSession. The job exists when the caller commits. A QueueRunner is
                woken after the commit of a session or Django connection; with any other connection, call
                ``wake``.

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
        if connection is not None:
            (inserted,) = await self._join(connection, [job])
            return inserted
        home = self._client._shards.home_of_job(job)
        stream = self._streams[None if home is None else home.dbid]
        answer: asyncio.Future[Inserted] = asyncio.get_running_loop().create_future()
        stream.callers.append(_Caller([job], answer))
        if stream.inserting is None:
            stream.inserting = asyncio.create_task(self._insert_waiting(stream))
        return await answer

    async def insert_jobs(
        self,
        jobs: Iterable[JobLike],
        run_after: float | timedelta | None = None,
        flag: Flag | None = None,
        *,
        dispatch: bool = True,
        connection: AsyncJoinable | None = None,
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
                were not tried.

        """
        checked = checked_jobs(jobs, run_after, flag, dispatch=dispatch)
        if connection is not None:
            return await self._join(connection, checked)
        return await self._call(self._client._insert_checked, checked)

    async def complete_job(
        self, handle: HandleLike, result: bytes | str | None = None, *, worker: str = ""
    ) -> bool:
        """Delete a job that has succeeded, as ``Client.complete_job`` does; return whether it existed."""
        return await self._call(self._client.complete_job, handle, result, worker=worker)

    async def complete_jobs(self, handles: Iterable[HandleLike]) -> int:
        """Delete jobs that have succeeded, in one transaction per database; return how many existed."""
        return await self._call(self._client.complete_jobs, handles)

    async def reschedule_job(self, handle: HandleLike, when: str | int | timedelta | datetime) -> bool:
        """Let a job run again at another time, without counting a failure.

        Args:
            handle: as for ``Client.complete_job``. With an attempt, the call has an effect only while that
                attempt holds the job.
            when: ``"never"`` makes the job dead. ``"+360"`` (seconds) or a timedelta counts from now.
                ``"1313572984"``, an int or a datetime with a time zone is a unix time.

        Returns:
            Whether the job was rescheduled, now or by an earlier call for the same attempt. False: the job
            does not exist, or another attempt holds it.

        Raises:
            UsageError: ``when`` is none of these, or out of range.

        """
        return await self._call(self._client.reschedule_job, handle, when)

    async def failed_job(self, handle: HandleLike, error: BaseException | str | None = None) -> bool:
        """Count a failure and let the job run again after 2^failcount minutes, up to a day.

        At the maximum of failures, by default 25, the job is dead until an operator retries it.

        Args:
            handle: as for ``Client.complete_job``. With an attempt, the call has an effect only while that
                attempt holds the job.
            error: stored as the job's failure.

        Returns:
            Whether the failure is recorded, now or by an earlier call for the same attempt. False: the job
            does not exist, or another attempt holds it.

        """
        return await self._call(self._client.failed_job, handle, error)

    async def retry_job(self, handle: HandleLike) -> bool:
        """Make a waiting or dead job due now and reset its counts of failures and crashes.

        Returns:
            Whether the job was waiting or dead.

        """
        return await self._call(self._client.retry_job, handle)

    async def cancel_job(self, handle: HandleLike, reason: str = "") -> bool:
        """Make a job dead, whatever its state. The call reads the job, then writes it in a new transaction.

        If a ``Worker`` is running the job, ``job.cancelled`` is true within two seconds, and an ``async def``
        is cancelled. If a Controller has called a worker for the job, it ends that call. If the job succeeds
        anyway, it is complete; any other outcome has no effect. From two seconds after this call, a
        ``Worker`` that receives a copy of the job from a Gearman server drops the copy.

        Args:
            handle: as for ``Client.complete_job``. An attempt in it is ignored.
            reason: stored as the job's failure.

        Returns:
            Whether the job existed and was not dead.

        """
        return await self._call(self._client.cancel_job, handle, reason)

    async def delete_jobs(self, handles: Iterable[HandleLike]) -> int:
        """Delete jobs and their records, whatever their state; return how many existed."""
        return await self._call(self._client.delete_jobs, handles)

    async def wake(self) -> None:
        """Let a QueueRunner start a pass now instead of within a second. The call never raises an error."""
        await self._call(self._client.wake)

    async def close(self) -> None:
        """Wait for the calls in progress and close the client's own connections. No call may follow."""
        inserting = [stream.inserting for stream in self._streams.values() if stream.inserting]
        if inserting:
            await asyncio.wait(inserting)  # a cancellation of this wait does not cancel the tasks
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        # A call that still runs in a thread would return its connection to the pool after the pool is closed.
        self._threads.shutdown()
        self._client.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def _insert_waiting(self, stream: _Stream) -> None:
        """Insert in batches: the inserts that arrive during one commit are the next batch."""
        batch: list[_Caller] = []
        try:
            while stream.callers:
                # Cancelled inserts are left out: no caller waits for them.
                batch = [caller for caller in stream.callers if not caller.answer.done()]
                stream.callers = []
                if batch:
                    await self._insert_batch(batch)
        finally:
            stream.inserting = None
            for caller in (*batch, *stream.callers):
                caller.answer.cancel()  # only if this task was cancelled; otherwise all have an answer

    async def _insert_batch(self, batch: list[_Caller]) -> None:
        split = SplitInserts(batch)
        while part := split.next_batch():
            try:
                answers = await self._call(self._client._insert_checked, [caller.jobs[0] for caller in part])
            except Exception as error:
                ends = split.failed(part, error)
            else:
                ends = Ends([(caller, [at]) for caller, at in zip(part, answers, strict=True)], [])
            for caller, (answer,) in ends.stored:
                if not caller.answer.done():
                    caller.answer.set_result(answer)
            for caller, own in ends.failed:
                if not caller.answer.done():
                    caller.answer.set_exception(own)

    async def _join(self, connection: AsyncJoinable, jobs: list[NewJob]) -> list[Inserted]:
        """Insert in the caller's transaction, through ``run_sync`` of an asynchronous connection."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(lambda: loop.run_in_executor(self._threads, self._client.wake))

        def insert(joined: Any) -> list[Inserted]:
            return self._client._insert_checked(jobs, joined, wake=wake)

        run_sync: Any = getattr(connection, "run_sync", None)
        if run_sync is not None:
            answers: list[Inserted] = await run_sync(insert)
            return answers
        return insert(connection)

    @property
    def schedules(self) -> AsyncSchedules:
        """The schedules of the databases."""
        return AsyncSchedules(self._client.schedules, self._call)

    async def _call(self, call: Callable[_P, _R], *arguments: _P.args, **named: _P.kwargs) -> _R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(call, *arguments, **named))
