"""The calls of a function about its own job, as ``Job`` uses them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from garivini.model.job import Job
    from garivini.model.new_jobs import JobLike


class JobCalls(Protocol):
    """The calls of a function about its own job. A job that is sent to another process loses them."""

    #: Whether the worker's process accepts no more jobs, and ends.
    stopping: bool
    #: Calls a function in a thread, to be awaited.
    in_thread: Callable[[Callable[[], int]], Awaitable[int]]

    def count_run(self, job: Job) -> int:
        """Count a start of this job; return its number."""

    def insert_job(self, job: Job, *values: Any, **named: Any) -> None:
        """Check a follow-up of this job, and keep it until the job's success is committed."""

    def insert_jobs(
        self, job: Job, jobs: Iterable[JobLike], run_after: float | timedelta | None, flag: str | None
    ) -> None:
        """Check follow-ups of this job, and keep them until the job's success is committed."""

    def complete(self, job: Job, connection: Any, result: Any) -> None:
        """End this job in a transaction of its function."""

    def progress(self, job: Job, done: int, total: int) -> None:
        """Report the progress of this job."""

    def log(self, job: Job, text: str | bytes) -> None:
        """Add a line to the log of this job."""
