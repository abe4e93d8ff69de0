"""Searches: the jobs that match a query, page by page in the order of ids.

No statement examines more than 1,000 jobs, however many match. So a search of a large table delays nobody,
can be stopped after each page, and reports its progress. It ends at the job that was the newest when
it began.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from garivini.errors import UsageError
from garivini.model.job import Job
from garivini.model.job_query import JobQuery
from garivini.model.limits import MAX_JOBID
from garivini.model.state import State
from garivini.store.chunks import CHUNK
from garivini.store.job_rows import from_row
from garivini.store.statements import Statements
from garivini.store.values import check_values

#: Jobs per page if failure records are read, which are five to ten rows per job: those of its latest attempt.
_PAGE_WITH_FAILURES: Final = 100
#: Maximum jobs of the first result, so that it appears immediately.
_FIRST_JOBS: Final = 64
#: Intended maximum bytes of arguments that are read together, so that a long list needs no more memory.
_JOBS_BYTES: Final = 8 * 1024 * 1024


class Match(NamedTuple):
    """A job that was examined."""

    jobid: int
    #: The effective state of the job; None: the job does not match.
    state: State | None


class Page(NamedTuple):
    """Jobs that were examined by one statement."""

    #: The jobs that match.
    matches: list[Match]
    #: The number of jobs that were examined.
    examined: int
    #: The part of the ids that have been examined, 0 to 1.
    fraction: float


class Found(NamedTuple):
    """Jobs that a search has found since the previous result; none after a page without a match."""

    jobs: list[Job]
    #: Number of jobs that were examined to find these.
    examined: int
    fraction: float


class Searched(Protocol):
    """A database with the calls of a search."""

    def newest(self) -> int:
        """Return the greatest id."""

    def match(self, query: JobQuery, *, after: int, until: int, limit: int) -> list[Match]:
        """Examine the next jobs."""

    def read_jobs(self, jobids: Sequence[int]) -> list[Job]:
        """Return jobs."""


def newest(run: Statements) -> int:
    """Return the greatest id of a job; 0 if there is none."""
    rows = run("newest")
    return int(rows[0][0]) if rows else 0


def match(run: Statements, query: JobQuery, *, after: int, until: int, limit: int) -> list[Match]:
    """Examine the jobs with the next ids.

    Args:
        run: runs the statement.
        query: the conditions.
        after: only ids above this one.
        until: only ids up to this one.
        limit: maximum number of jobs.

    """
    rows = run("match", **query.values(), after=after, until=until, limit=limit)
    return [Match(jobid, None if state is None else State(state)) for jobid, state in rows]


def read_jobs(run: Statements, jobids: Sequence[int]) -> list[Job]:
    """Return the given jobs in the order of their ids, without those that do not exist."""
    return [from_row(row, run.dbid) for row in run("jobs", jobids=jobids)]


def pages(database: Searched, query: JobQuery, *, after: int = 0, first: int = CHUNK) -> Iterator[Page]:
    """Examine all jobs with ids above ``after``; the first page has at most ``first`` of them."""
    until = database.newest()
    size = _PAGE_WITH_FAILURES if query.reads_failures else CHUNK
    limit = min(first, size)
    start = None
    while after < until:
        examined = database.match(query, after=after, until=until, limit=limit)
        if not examined:
            break
        after = examined[-1].jobid
        start = examined[0].jobid if start is None else start
        matches = [found for found in examined if found.state is not None]
        yield Page(matches, len(examined), (after - start + 1) / (until - start + 1))
        limit = size


def find(database: Searched, query: JobQuery, *, after: int = 0, limit: int) -> Iterator[Found]:
    """Read the jobs that match, at most ``limit``. The jobs of one result need about 8 MB.

    Raises:
        UsageError: ``after`` or ``limit`` is not a whole number, or out of range.

    """
    check_values({"after": after, "limit": limit})
    if after > MAX_JOBID:
        raise UsageError(f"a value does not fit the database: after is at most {MAX_JOBID}")
    size = _FIRST_JOBS
    for page in pages(database, query, after=after, first=limit) if limit else ():
        jobids = [found.jobid for found in page.matches]
        examined = page.examined
        while jobids or examined:
            part = jobids[: min(size, limit)]
            jobids = jobids[len(part) :]
            jobs = _as_found(database.read_jobs(part), query) if part else []
            yield Found(jobs, examined, page.fraction)
            examined = 0
            limit -= len(jobs)
            if not limit:
                return
            if jobs:
                mean = sum(len(job.arg) for job in jobs) // len(jobs)
                size = min(CHUNK, _JOBS_BYTES // (mean + 1) + 1)


def _as_found(jobs: Sequence[Job], query: JobQuery) -> list[Job]:
    """Return the jobs without those whose state has changed since they were examined."""
    return [job for job in jobs if query.state_number in (None, job.state)]
