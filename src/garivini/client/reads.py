"""The calls of both clients that read jobs."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from garivini.model.handles import HandleLike, handle_of
from garivini.model.job import Job
from garivini.model.records import FailedAttempt, KeptJob, Reported
from garivini.model.state import parse_state
from garivini.store.shards import Shards

_R = TypeVar("_R")


class ReadCalls:
    """The calls of ``Client`` that read jobs."""

    _shards: Shards

    def list_jobs(
        self,
        funcname: str | None = None,
        state: str | None = None,
        *,
        after: int = 0,
        limit: int = 100,
    ) -> list[Job]:
        """Return jobs in the order of their ids, from one database after the other.

        Args:
            funcname: only jobs of this function.
            state: only jobs in this state: ``waiting``, ``leased``, ``running``, ``suspect`` or ``dead``.
            after: only ids above this one.
            limit: maximum jobs per database.

        Raises:
            UsageError: the state is unknown.

        """
        chosen = None if state is None else parse_state(state)
        return [
            job
            for database in self._shards
            for job in database.jobs(funcname=funcname, state=chosen, after=after, limit=limit)
        ]

    def failed_jobs(self, funcname: str | None = None, *, after: int = 0, limit: int = 100) -> list[Job]:
        """Return jobs that have failed, whose process has died, or that are dead, as ``list_jobs`` does."""
        return [
            job
            for database in self._shards
            for job in database.jobs(funcname=funcname, failed=True, after=after, limit=limit)
        ]

    def get_job(self, handle: HandleLike) -> Job | None:
        """Return a job in its current state, or None if it does not exist."""
        jobid, dbid, _ = handle_of(handle)
        return self._shards[dbid].get(jobid)

    def failures(self, handle: HandleLike) -> list[FailedAttempt]:
        """Return the failures of a job, oldest first: one per attempt that did not succeed.

        The first 10 and the newest 40 are kept.
        """
        jobid, dbid, _ = handle_of(handle)
        return self._shards[dbid].failures(jobid)

    def result(self, handle: HandleLike) -> KeptJob | None:
        """Return a kept job with its result, or None.

        A job that has succeeded is kept for the retention of its function if a ``Worker`` or a Controller ran
        it, or if ``complete_job`` was given a result. None: the job does not exist, has not succeeded, was
        not kept, or is no longer kept.
        """
        jobid, dbid, _ = handle_of(handle)
        return self._shards[dbid].finished(jobid)

    def reports(self, handle: HandleLike) -> list[Reported]:
        """Return what a worker reported while it ran a job, oldest attempt first.

        Of each attempt, the last progress comes first, then the lines. A Controller stores the reports of
        jobs of flag ``controller``. The reports of a kept job are returned too.
        """
        jobid, dbid, _ = handle_of(handle)
        return self._shards[dbid].reports(jobid)


class AsyncReadCalls:
    """The calls of ``AsyncClient`` that read jobs."""

    _client: ReadCalls

    def _call(self, call: Callable[..., _R], *arguments: object, **named: object) -> Awaitable[_R]:
        raise NotImplementedError

    async def list_jobs(
        self, funcname: str | None = None, state: str | None = None, *, after: int = 0, limit: int = 100
    ) -> list[Job]:
        """Return jobs in the order of their ids, from one database after the other.

        Args:
            funcname: only jobs of this function.
            state: only jobs in this state: ``waiting``, ``leased``, ``running``, ``suspect`` or ``dead``.
            after: only ids above this one.
            limit: maximum jobs per database.

        Raises:
            UsageError: the state is unknown.

        """
        return await self._call(self._client.list_jobs, funcname, state, after=after, limit=limit)

    async def failed_jobs(
        self, funcname: str | None = None, *, after: int = 0, limit: int = 100
    ) -> list[Job]:
        """Return jobs that have failed, whose process has died, or that are dead, as ``list_jobs`` does."""
        return await self._call(self._client.failed_jobs, funcname, after=after, limit=limit)

    async def get_job(self, handle: HandleLike) -> Job | None:
        """Return a job in its current state, or None if it does not exist."""
        return await self._call(self._client.get_job, handle)

    async def failures(self, handle: HandleLike) -> list[FailedAttempt]:
        """Return the failures of a job, oldest first: one per attempt that did not succeed.

        The first 10 and the newest 40 are kept.
        """
        return await self._call(self._client.failures, handle)

    async def result(self, handle: HandleLike) -> KeptJob | None:
        """Return a kept job with its result, or None.

        A job that has succeeded is kept for the retention of its function if a ``Worker`` or a Controller ran
        it, or if ``complete_job`` was given a result. None: the job does not exist, has not succeeded, was
        not kept, or is no longer kept.
        """
        return await self._call(self._client.result, handle)

    async def reports(self, handle: HandleLike) -> list[Reported]:
        """Return what a worker reported while it ran a job, oldest attempt first.

        Of each attempt, the last progress comes first, then the lines. A Controller stores the reports of
        jobs of flag ``controller``. The reports of a kept job are returned too.
        """
        return await self._call(self._client.reports, handle)
