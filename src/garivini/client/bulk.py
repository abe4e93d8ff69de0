"""The calls of a client for all jobs that match a query."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from garivini.errors import UsageError
from garivini.model.handles import HandleLike, handle_of
from garivini.model.job import Job
from garivini.model.job_query import BulkProgress, JobChange, JobQuery
from garivini.model.limits import Priority
from garivini.model.when import parse_when
from garivini.store.matching import change_all, search
from garivini.store.shards import Shards


class BulkCalls:
    """Searches and changes jobs. ``Client`` inherits these calls.

    No statement examines more than 1,000 jobs, however many match. A change commits after at most 1,000 jobs.
    If an error or an exception of ``progress`` ends a call, the changes that were committed before remain.
    The last call of ``progress`` was given their number.

    Each call raises ``UsageError`` if an argument is wrong, and the errors of ``Client``.
    """

    _shards: Shards

    def wake(self) -> None:
        """Let a QueueRunner start a pass immediately."""
        raise NotImplementedError

    def search_jobs(
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
        found: list[Job] = []
        for jobs, done in searching(self._shards, query, after, limit):
            found += jobs
            if progress is not None:
                progress(done)
        return found

    def count_jobs(self, query: JobQuery, *, progress: Callable[[BulkProgress], object] | None = None) -> int:
        """Return the number of jobs that match; ``progress`` is called after each page."""
        return self._change_all(query, JobChange(action="retry"), dry_run=True, progress=progress).matched

    def retry_all(
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
        return self._change_all(query, JobChange(action="retry"), dry_run=dry_run, progress=progress)

    def cancel_all(
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
        return self._change_all(query, change, dry_run=dry_run, progress=progress)

    def discard_all(
        self,
        query: JobQuery,
        reason: str = "",
        *,
        dry_run: bool = False,
        progress: Callable[[BulkProgress], object] | None = None,
    ) -> BulkProgress:
        """Make waiting jobs dead, with a failure record ``discarded``. Arguments: as for ``cancel_all``."""
        change = JobChange(action="discard", reason=reason)
        return self._change_all(query, change, dry_run=dry_run, progress=progress)

    def delete_all(
        self,
        query: JobQuery,
        *,
        dry_run: bool = False,
        progress: Callable[[BulkProgress], object] | None = None,
    ) -> BulkProgress:
        """Delete waiting and dead jobs and their records, for good. Arguments: as for ``retry_all``."""
        return self._change_all(query, JobChange(action="delete"), dry_run=dry_run, progress=progress)

    def reschedule_all(
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
        return self._change_all(query, change, dry_run=dry_run, progress=progress)

    def prioritize_all(
        self,
        query: JobQuery,
        priority: Priority,
        *,
        dry_run: bool = False,
        progress: Callable[[BulkProgress], object] | None = None,
    ) -> BulkProgress:
        """Change the priority of waiting jobs: ``high``, ``normal`` or ``low``. See ``retry_all``."""
        change = JobChange(action="prioritize", priority=priority)
        return self._change_all(query, change, dry_run=dry_run, progress=progress)

    def discard_job(self, handle: HandleLike, reason: str = "") -> bool:
        """Make a waiting job dead, with a failure record ``discarded``; return whether it was waiting."""
        return self._change(handle, JobChange(action="discard", reason=reason))

    def prioritize_job(self, handle: HandleLike, priority: Priority) -> bool:
        """Change the priority of a waiting job; return whether it was waiting."""
        return self._change(handle, JobChange(action="prioritize", priority=priority))

    def _change(self, handle: HandleLike, change: JobChange) -> bool:
        jobid, dbid, _ = handle_of(handle)
        return self._shards[dbid].change([jobid], change, states=change.states) == 1

    def _change_all(
        self,
        query: JobQuery,
        change: JobChange,
        *,
        dry_run: bool,
        progress: Callable[[BulkProgress], object] | None,
    ) -> BulkProgress:
        total = BulkProgress()
        try:
            for total in changing(self._shards, query, change, dry_run=dry_run):
                if progress is not None:
                    progress(total)
        finally:
            if wakes(change, total, dry_run=dry_run):
                self.wake()
        return total._replace(fraction=1.0)


def searching(
    shards: Shards, query: JobQuery, after: HandleLike | None, limit: int
) -> Iterator[tuple[list[Job], BulkProgress]]:
    """Check the arguments of ``search_jobs``; return the steps of the search."""
    _check(query)
    return search(shards, query, after=None if after is None else handle_of(after), limit=limit)


def changing(shards: Shards, query: JobQuery, change: JobChange, *, dry_run: bool) -> Iterator[BulkProgress]:
    """Check the arguments of a change of many jobs; return the steps of the change."""
    _check(query)
    return change_all(shards, query, change, dry_run=dry_run)


def wakes(change: JobChange, total: BulkProgress, *, dry_run: bool) -> bool:
    """Whether jobs may have become due, so that a QueueRunner should start a pass."""
    return total.changed > 0 and not dry_run and change.action in ("retry", "reschedule")


def _check(query: object) -> None:
    if not isinstance(query, JobQuery):
        raise UsageError(f"a query is a JobQuery, such as JobQuery(funcname='report'), not {query!r:.100}")
