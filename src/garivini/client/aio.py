"""The client for asyncio: the calls of ``Client``, awaitable."""

import asyncio
import ssl
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, ParamSpec, TypeVar

from garivini.client.client import Client
from garivini.databases import DatabasesLike
from garivini.model.handles import HandleLike
from garivini.model.inserted import Inserted
from garivini.model.job import Job, NewJob
from garivini.model.new_jobs import JobLike, checked_job, checked_jobs
from garivini.model.pacing import WATERMARK
from garivini.store.database import FailedAttempt
from garivini.store.insert_groups import Ends, InsertGroups
from garivini.store.records import KeptJob, Reported

_P = ParamSpec("_P")
_R = TypeVar("_R")


class _Caller(NamedTuple):
    """A single insert that waits for its answer."""

    jobs: list[NewJob]
    answer: asyncio.Future[Inserted]


@dataclass(slots=True)
class _Stream:
    """Single inserts that wait to be stored in the same place."""

    callers: list[_Caller] = field(default_factory=list)
    #: The task that stores them, while there are any.
    inserting: asyncio.Task[None] | None = None


class AsyncClient:
    """A ``Client`` whose calls are awaited. Their meaning, arguments and errors are those of ``Client``.

    Database calls run in threads: one per database, and one for jobs without a unique key. Single inserts
    that arrive while another is being committed are committed together, so many concurrent ones cost few
    commits; if that fails they are retried in smaller groups, and each caller gets the answer or the error of
    its own job. A cancelled call may have been executed. Use an instance in one event loop only.

    Args:
        dbs: as for ``Client``.
        job_servers: as for ``Client``.
        watermark: as for ``Client``.
        tls: as for ``Client``.

    """

    def __init__(
        self,
        dbs: DatabasesLike | None = None,
        job_servers: str | Iterable[str] | None = None,
        *,
        watermark: int = WATERMARK,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._client = Client(dbs, job_servers, watermark=watermark, tls=tls)
        # Each key has a home. An unreachable home, or one with a locked key, delays no other stream.
        homes = [database.dbid for database in self._client.shards]
        self._streams = {home: _Stream() for home in (None, *homes)}
        self._threads = ThreadPoolExecutor(len(self._streams), thread_name_prefix="garivini-client")

    async def insert_job(
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
        """See ``Client.insert_job``; ``connection`` may be an AsyncConnection or AsyncSession too."""
        job = checked_job(
            *(funcname, arg, run_after, unique, coalesce, flag),
            uniqkey=uniqkey,
            priority=priority,
            dispatch=dispatch,
        )
        if connection is not None:
            (inserted,) = await self._join(connection, [job])
            return inserted
        home = None if job.uniqkey is None else self._client.shards.home(funcname, job.uniqkey).dbid
        stream = self._streams[home]
        answer: asyncio.Future[Inserted] = asyncio.get_running_loop().create_future()
        stream.callers.append(_Caller([job], answer))
        if stream.inserting is None:
            stream.inserting = asyncio.create_task(self._insert_waiting(stream))
        return await answer

    async def insert_jobs(
        self,
        jobs: Iterable[JobLike],
        run_after: float | timedelta | None = None,
        flag: str | None = None,
        *,
        dispatch: bool = True,
        connection: Any = None,
    ) -> list[Inserted]:
        """Insert many jobs. See ``Client.insert_jobs``."""
        checked = checked_jobs(jobs, run_after, flag, dispatch=dispatch)
        if connection is not None:
            return await self._join(connection, checked)
        return await self._call(self._client.insert_checked, checked)

    async def complete_job(self, handle: HandleLike) -> bool:
        """See ``Client.complete_job``."""
        return await self._call(self._client.complete_job, handle)

    async def complete_jobs(self, handles: Iterable[HandleLike]) -> int:
        """See ``Client.complete_jobs``."""
        return await self._call(self._client.complete_jobs, handles)

    async def reschedule_job(self, handle: HandleLike, when: str | int | timedelta | datetime) -> bool:
        """See ``Client.reschedule_job``."""
        return await self._call(self._client.reschedule_job, handle, when)

    async def failed_job(self, handle: HandleLike, error: BaseException | str | None = None) -> bool:
        """See ``Client.failed_job``."""
        return await self._call(self._client.failed_job, handle, error)

    async def list_jobs(
        self, funcname: str | None = None, state: str | None = None, *, after: int = 0, limit: int = 100
    ) -> list[Job]:
        """See ``Client.list_jobs``."""
        return await self._call(self._client.list_jobs, funcname, state, after=after, limit=limit)

    async def failed_jobs(
        self, funcname: str | None = None, *, after: int = 0, limit: int = 100
    ) -> list[Job]:
        """See ``Client.failed_jobs``."""
        return await self._call(self._client.failed_jobs, funcname, after=after, limit=limit)

    async def get_job(self, handle: HandleLike) -> Job | None:
        """See ``Client.get_job``."""
        return await self._call(self._client.get_job, handle)

    async def failures(self, handle: HandleLike) -> list[FailedAttempt]:
        """See ``Client.failures``."""
        return await self._call(self._client.failures, handle)

    async def result(self, handle: HandleLike) -> KeptJob | None:
        """See ``Client.result``."""
        return await self._call(self._client.result, handle)

    async def reports(self, handle: HandleLike) -> list[Reported]:
        """See ``Client.reports``."""
        return await self._call(self._client.reports, handle)

    async def retry_job(self, handle: HandleLike) -> bool:
        """See ``Client.retry_job``."""
        return await self._call(self._client.retry_job, handle)

    async def cancel_job(self, handle: HandleLike, reason: str = "") -> bool:
        """See ``Client.cancel_job``."""
        return await self._call(self._client.cancel_job, handle, reason)

    async def delete_jobs(self, handles: Iterable[HandleLike]) -> int:
        """See ``Client.delete_jobs``."""
        return await self._call(self._client.delete_jobs, handles)

    async def wake(self) -> None:
        """See ``Client.wake``."""
        await self._call(self._client.wake)

    async def close(self) -> None:
        """Wait for what is under way and close the connections that are ours."""
        inserting = [stream.inserting for stream in self._streams.values() if stream.inserting]
        if inserting:
            await asyncio.wait(inserting)  # which, when it is cancelled, does not cancel them
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        # A call that is still in a thread would put its connection back after the others are closed.
        self._threads.shutdown()
        self._client.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def _insert_waiting(self, stream: _Stream) -> None:
        """Insert in groups: what has arrived while one group was committed makes the next."""
        group: list[_Caller] = []
        try:
            while stream.callers:
                # No caller waits for cancelled inserts.
                group = [caller for caller in stream.callers if not caller.answer.done()]
                stream.callers = []
                if group:
                    await self._insert_group(group)
        finally:
            stream.inserting = None
            for caller in (*group, *stream.callers):
                caller.answer.cancel()  # only if this task was cancelled: otherwise all have been answered

    async def _insert_group(self, group: list[_Caller]) -> None:
        apart = InsertGroups(group)
        while part := apart.next_group():
            try:
                answers = await self._call(self._client.insert_checked, [caller.jobs[0] for caller in part])
            except Exception as error:
                ends = apart.failed(part, error)
            else:
                ends = Ends([(caller, [at]) for caller, at in zip(part, answers, strict=True)], [])
            for caller, (answer,) in ends.stored:
                if not caller.answer.done():
                    caller.answer.set_result(answer)
            for caller, own in ends.failed:
                if not caller.answer.done():
                    caller.answer.set_exception(own)

    async def _join(self, connection: Any, jobs: list[NewJob]) -> list[Inserted]:
        """Insert in the caller's transaction, through ``run_sync`` where the connection is an async one."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(lambda: loop.run_in_executor(self._threads, self._client.wake))

        def insert(joined: Any) -> list[Inserted]:
            return self._client.insert_checked(jobs, joined, wake=wake)

        if hasattr(connection, "run_sync"):
            answers: list[Inserted] = await connection.run_sync(insert)
            return answers
        return insert(connection)

    async def _call(self, call: Callable[_P, _R], *arguments: _P.args, **named: _P.kwargs) -> _R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(call, *arguments, **named))
