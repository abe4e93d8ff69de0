"""The client for asyncio: the calls of ``Client``, awaitable."""

import asyncio
import ssl
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from typing import Any, ParamSpec, TypeVar

from garivini.client import Client, JobLike, checked_job, checked_jobs
from garivini.config import DatabasesLike
from garivini.job import HandleLike, Inserted, Job, NewJob
from garivini.store.database import FailedAttempt
from garivini.store.records import Finished, Reported

_P = ParamSpec("_P")
_R = TypeVar("_R")


class AsyncClient:
    """A ``Client`` whose calls are awaited. Their meaning, arguments and errors are those of ``Client``.

    Database calls run in threads, one a database. Single inserts that arrive while another is being
    committed are committed together, so many concurrent ones cost few commits. A call that is cancelled may
    have been carried out. To be used in one event loop.

    Args:
        dbs: as for ``Client``.
        job_servers: as for ``Client``.
        tls: as for ``Client``.

    """

    def __init__(
        self,
        dbs: DatabasesLike,
        job_servers: str | Iterable[str] | None = None,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._client = Client(dbs, job_servers, tls=tls)
        databases = len(list(self._client.shards))
        self._threads = ThreadPoolExecutor(databases, thread_name_prefix="garivini-client")
        self._waiting: list[tuple[NewJob, asyncio.Future[Inserted]]] = []
        self._inserting: asyncio.Task[None] | None = None

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
        connection: Any = None,
    ) -> Inserted:
        """See ``Client.insert_job``; ``connection`` may be an AsyncConnection or AsyncSession too."""
        job = checked_job(
            funcname, arg, run_after, unique, coalesce, flag, uniqkey=uniqkey, priority=priority
        )
        if connection is not None:
            (inserted,) = await self._join(connection, [job])
            return inserted
        future: asyncio.Future[Inserted] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, future))
        if self._inserting is None:
            self._inserting = asyncio.create_task(self._insert_waiting())
        return await future

    async def insert_jobs(
        self,
        jobs: Iterable[JobLike],
        run_after: float | timedelta | None = None,
        flag: str | None = None,
        *,
        connection: Any = None,
    ) -> list[Inserted]:
        """Insert many jobs. See ``Client.insert_jobs``."""
        checked = checked_jobs(jobs, run_after, flag)
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

    async def result(self, handle: HandleLike) -> Finished | None:
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
        if self._inserting is not None:
            await self._inserting
        await self._call(self._client.close)
        self._threads.shutdown()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def _insert_waiting(self) -> None:
        """Insert in groups: what has arrived while one group was committed makes the next."""
        try:
            while self._waiting:
                group, self._waiting = self._waiting, []
                try:
                    answers = await self._call(self._client.insert_checked, [job for job, _ in group])
                except Exception as error:
                    for _, future in group:
                        if not future.done():
                            future.set_exception(error)
                else:
                    for (_, future), answer in zip(group, answers, strict=True):
                        if not future.done():
                            future.set_result(answer)
        finally:
            self._inserting = None

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
