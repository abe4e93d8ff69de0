"""Searches and changes of all jobs that match a query, in one database after the other."""

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from garivini.errors import RefusedError
from garivini.model.job import Handle, Job
from garivini.model.job_query import BulkProgress, JobChange, JobQuery
from garivini.model.state import State
from garivini.store.chunks import CHUNK
from garivini.store.database import Database
from garivini.store.search import find, pages
from garivini.store.shards import Shards

#: Jobs that are deleted in one transaction, because each may have many records.
_DELETED: Final = 100


def search(
    shards: Shards, query: JobQuery, *, after: Handle | None = None, limit: int
) -> Iterator[tuple[list[Job], BulkProgress]]:
    """Read the jobs that match, in the order of databases and ids; yield them with the search's progress.

    Args:
        shards: the databases.
        query: the conditions.
        after: only jobs after this one.
        limit: maximum number of jobs.

    """
    databases = list(shards)
    start = 0 if after is None else databases.index(shards[after.dbid])
    examined = matched = 0
    for place, database in enumerate(databases[start:], start):
        first = after.jobid if after is not None and place == start else 0
        for found in find(database, query, after=first, limit=limit - matched):
            examined += found.examined
            matched += len(found.jobs)
            fraction = (place + found.fraction) / len(databases)
            yield found.jobs, BulkProgress(examined, matched, fraction=fraction)


def change_all(
    shards: Shards, query: JobQuery, change: JobChange, *, dry_run: bool
) -> Iterator[BulkProgress]:
    """Change all jobs that match, page by page; yield the progress after each commit.

    A job that is held, or has changed since it was examined, is skipped. So is a job that the database
    refuses to change, unless it refuses every job of a transaction or of the whole call.

    Args:
        shards: the databases.
        query: the conditions.
        change: the change of each job.
        dry_run: count the jobs that would be changed, and change none.

    Raises:
        RefusedError: the database refuses such changes.

    """
    databases = list(shards)
    states = [state for state in change.states if query.state_number in (None, state)]
    size = _DELETED if change.action == "delete" else CHUNK
    total = BulkProgress()
    refused: RefusedError | None = None
    for place, database in enumerate(databases):
        for page in pages(database, query):
            jobids = [found.jobid for found in page.matches if found.state in states]
            total = BulkProgress(
                total.examined + page.examined,
                total.matched + len(page.matches),
                total.changed,
                total.skipped + len(page.matches) - len(jobids),
                (place + page.fraction) / len(databases),
            )
            for start in range(0, len(jobids), size) or (0,):
                part = jobids[start : start + size]
                changed = len(part)
                if part and not dry_run:
                    changed, error = _change(database, part, change, states)
                    refused = error or refused
                    if error is not None and not changed and len(part) > 1:
                        raise error
                skipped = total.skipped + len(part) - changed
                total = total._replace(changed=total.changed + changed, skipped=skipped)
                yield total
    if refused is not None and not total.changed:
        raise refused


def _change(
    database: Database, jobids: Sequence[int], change: JobChange, states: Collection[State]
) -> tuple[int, RefusedError | None]:
    """Change jobs in one transaction, or in several if the database refuses one of them.

    Returns:
        The number of changed jobs, and the error of a job that the database refused to change.

    """
    try:
        return database.change(jobids, change, states=states), None
    except RefusedError as error:
        if len(jobids) == 1:
            return 0, error
    half = len(jobids) // 2
    first, error_of_first = _change(database, jobids[:half], change, states)
    second, error_of_second = _change(database, jobids[half:], change, states)
    return first + second, error_of_first or error_of_second
