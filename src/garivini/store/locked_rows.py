"""Rows that another transaction has locked: a write of many rows skips them instead of waiting."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from garivini.model.job import Handle
from garivini.store.chunks import chunks
from garivini.store.statements import Statements


def skip_locked(
    run: Statements, jobids: Iterable[int], locked: set[int] | None, *, records: bool = False
) -> Collection[int]:
    """Lock the rows of these jobs that no other transaction has locked; return the ids of the others.

    From then on the transaction waits for no lock: if anything else is locked, it raises a ``ConflictError``.

    Args:
        run: runs the statements.
        jobids: of the rows, in any order.
        locked: gets the ids that are returned, and no others. None: lock nothing, skip no row.
        records: whether to lock the records of the jobs too, and skip a job if one of them is locked.

    """
    if locked is None:
        return ()
    locked.clear()  # an earlier try may have added ids
    for part in chunks(sorted(set(jobids))):
        free = {jobid for (jobid,) in run("lockable", jobids=part)}
        if missing := [jobid for jobid in part if jobid not in free]:
            locked.update(jobid for (jobid,) in run("known", jobids=missing))
        if records:
            locked.update(_lock_records(run, part))
    # Only now: MariaDB 10.11 fails if it skips locked rows while it may not wait for a lock.
    run.wait_for_no_lock()
    return locked


def _lock_records(run: Statements, jobids: Sequence[int]) -> Collection[int]:
    """Lock the records of jobs that no other transaction has locked; return the ids of the other jobs.

    No record is added meanwhile, because the rows of the jobs are locked.
    """
    every = Counter(jobid for (jobid,) in run("records", jobids=jobids))
    if not every:
        return ()
    free = Counter(jobid for (jobid,) in run("lockable_records", jobids=sorted(every)))
    return (every - free).keys()


def unlocked(run: Statements, handles: Collection[Handle], locked: set[int] | None) -> Collection[Handle]:
    """Lock rows as ``skip_locked`` does; return the handles of those that are not skipped."""
    if locked is None:
        return handles
    skipped = skip_locked(run, (handle.jobid for handle in handles), locked)
    return [handle for handle in handles if handle.jobid not in skipped] if skipped else handles
