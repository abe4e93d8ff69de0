"""The calls of ``BulkCalls`` for asyncio, to be awaited."""

from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from typing import TypeVar

from garivini.client.bulk import changing, searching, wakes
from garivini.client.client import Client
from garivini.model.handles import HandleLike
from garivini.model.job import Job
from garivini.model.job_query import BulkProgress, JobChange, JobQuery
from garivini.model.limits import Priority
from garivini.model.when import parse_when

_R = TypeVar("_R")


class AsyncBulkCalls:
    """Searches and changes jobs in an event loop. ``AsyncClient`` inherits these calls.

    A thread handles one page per call, so other calls of the client can run between two pages, and a
    cancelled call ends after the page in progress. ``progress`` is called in the event loop.
    """

    _client: Client

    def _call(self, call: Callable[..., _R], *arguments: object, **named: object) -> Awaitable[_R]:
        """Call a function in a thread."""
        raise NotImplementedError

    async def search_jobs(
        self,
        query: JobQuery,
        *,
        after: HandleLike | None = None,
        limit: int = 100,
        progress: Callable[[BulkProgress], object] | None = None,
    ) -> list[Job]:
        """Return the jobs that match, in the order of their ids, from one database after the other.

        Args:
            query: the conditions.
            after: only jobs after this one, such as the last one of the previous call.
            limit: maximum jobs in total.
            progress: called after each page with the progress of the search.

        """
        steps = searching(self._client.shards, query, after, limit)
        found: list[Job] = []
        while step := await self._call(_next, steps):
            found += step[0]
            if progress is not None:
                progress(step[1])
        return found

    async def count_jobs(
        self, query: JobQuery, *, progress: Callable[[BulkProgress], object] | None = None
    ) -> int:
        """Return the number of jobs that match; ``progress`` is called after each page."""
        total = await self._change_all(query, JobChange(action="retry"), dry_run=True, progress=progress)
        return total.matched

    async def retry_all(
        self,
        query: JobQuery,
        *,
        dry_run: bool = False,
        progress: Callable[[BulkProgress], object] | None = None,
    ) -> BulkProgress:
        """Make waiting and dead jobs due now, and reset their counts of failures and crashes.

        Args:
            query: the conditions.
            dry_run: count the jobs that would be changed, and change none.
            progress: called after each commit with the numbers so far.

        Returns:
            The numbers of jobs. A job that an attempt holds, or that another transaction has locked, is
            skipped.

        """
        return await self._change_all(query, JobChange(action="retry"), dry_run=dry_run, progress=progress)

    async def cancel_all(
        self,
        query: JobQuery,
        reason: str = "",
        *,
        dry_run: bool = False,
        progress: Callable[[BulkProgress], object] | None = None,
    ) -> BulkProgress:
        """Make waiting jobs dead, with a failure record ``cancelled``. See ``retry_all``.

        Args:
            query: the conditions.
            reason: the message of the failure record.
            dry_run: as for ``retry_all``.
            progress: as for ``retry_all``.

        """
        change = JobChange(action="cancel", reason=reason)
        return await self._change_all(query, change, dry_run=dry_run, progress=progress)

    async def discard_all(
        self,
        query: JobQuery,
        reason: str = "",
        *,
        dry_run: bool = False,
        progress: Callable[[BulkProgress], object] | None = None,
    ) -> BulkProgress:
        """Make waiting jobs dead, with a failure record ``discarded``. Arguments: as for ``cancel_all``."""
        change = JobChange(action="discard", reason=reason)
        return await self._change_all(query, change, dry_run=dry_run, progress=progress)

    async def delete_all(
        self,
        query: JobQuery,
        *,
        dry_run: bool = False,
        progress: Callable[[BulkProgress], object] | None = None,
    ) -> BulkProgress:
        """Delete waiting and dead jobs and their records, for good. Arguments: as for ``retry_all``."""
        return await self._change_all(query, JobChange(action="delete"), dry_run=dry_run, progress=progress)

    async def reschedule_all(
        self,
        query: JobQuery,
        when: str | int | timedelta | datetime,
        *,
        dry_run: bool = False,
        progress: Callable[[BulkProgress], object] | None = None,
    ) -> BulkProgress:
        """Let waiting and dead jobs run at another time. See ``retry_all``.

        Args:
            query: the conditions.
            when: as for ``reschedule_job``.
            dry_run: as for ``retry_all``.
            progress: as for ``retry_all``.

        """
        change = JobChange(action="reschedule", when=parse_when(when))
        return await self._change_all(query, change, dry_run=dry_run, progress=progress)

    async def prioritize_all(
        self,
        query: JobQuery,
        priority: Priority,
        *,
        dry_run: bool = False,
        progress: Callable[[BulkProgress], object] | None = None,
    ) -> BulkProgress:
        """Change the priority of waiting jobs: ``high``, ``normal`` or ``low``. See ``retry_all``."""
        change = JobChange(action="prioritize", priority=priority)
        return await self._change_all(query, change, dry_run=dry_run, progress=progress)

    async def discard_job(self, handle: HandleLike, reason: str = "") -> bool:
        """Make a waiting job dead, with a failure record ``discarded``; return whether it was waiting."""
        return await self._call(self._client.discard_job, handle, reason)

    async def prioritize_job(self, handle: HandleLike, priority: Priority) -> bool:
        """Change the priority of a waiting job; return whether it was waiting."""
        return await self._call(self._client.prioritize_job, handle, priority)

    async def _change_all(
        self,
        query: JobQuery,
        change: JobChange,
        *,
        dry_run: bool,
        progress: Callable[[BulkProgress], object] | None,
    ) -> BulkProgress:
        steps = changing(self._client.shards, query, change, dry_run=dry_run)
        total = BulkProgress()
        try:
            while step := await self._call(_next, steps):
                total = step
                if progress is not None:
                    progress(total)
        finally:
            if wakes(change, total, dry_run=dry_run):
                await self._call(self._client.wake)
        return total._replace(fraction=1.0)


def _next(steps: Iterator[_R]) -> _R | None:
    return next(steps, None)
