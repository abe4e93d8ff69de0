"""Deletes kept jobs and dead jobs whose retention is over, with their records."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from garivini.model.policy import FunctionPolicy
from garivini.store.chunks import CHUNK
from garivini.store.failures import whole_jobs
from garivini.store.locked_rows import skip_locked
from garivini.store.outcomes import forget_records
from garivini.store.statements import Statements

_DAY: Final = 86400


class DeadPage(NamedTuple):
    """Some dead jobs whose retention is over."""

    jobids: list[int]
    #: The id after which the next page begins; None: there is no next page.
    after: int | None


# ---- kept jobs


def outlived_jobs(run: Statements, limit: int) -> list[int]:
    """Return the ids of kept jobs whose retention is over."""
    return sorted(jobid for (jobid,) in run("outlived", limit=min(limit, CHUNK)))


def forget_kept_jobs(run: Statements, jobids: Sequence[int]) -> None:
    """Delete kept jobs with their records."""
    for name in ("forget_failures", "forget_reports", "forget_finished"):
        run(name, jobids=jobids)


# ---- dead jobs


def dead_retentions(policies: Mapping[str, FunctionPolicy]) -> dict[str, int]:
    """Return the days for which dead jobs are kept, of each function that has such a setting."""
    return {name: it.dead_retention for name, it in policies.items() if it.dead_retention is not None}


def outlived_dead_jobs(run: Statements, days: Mapping[str, int], after: int, limit: int) -> DeadPage:
    """Return dead jobs whose retention is over: those of one page of failure records.

    Dead jobs are found by their records, so jobs that have not failed cost nothing.

    Args:
        run: runs the statements.
        days: the retention by function; jobs of other functions are kept.
        after: only jobs with greater ids.
        limit: maximum number of jobs.

    """
    if not days:
        return DeadPage([], None)
    records, next_page = whole_jobs(run("failed", after=after, limit=CHUNK))
    jobids = _outlived(run, sorted({jobid for (jobid,) in records}), days)
    if len(jobids) > limit:
        return DeadPage(jobids[:limit], jobids[limit - 1])
    return DeadPage(jobids, next_page)


def forget_dead_jobs(run: Statements, jobids: Sequence[int], days: Mapping[str, int]) -> int:
    """Delete those of these jobs that are still dead and too old, with their records; return how many.

    Jobs that another transaction has locked are left out.
    """
    skipped = skip_locked(run, jobids, set(), records=True)
    # Checked again, now that the rows are locked: an operator may have retried a job, which may have died
    # again.
    forgotten = _outlived(run, [jobid for jobid in jobids if jobid not in skipped], days)
    for jobid in forgotten:
        run("complete_one", jobid=jobid)
    if forgotten:
        forget_records(run, forgotten)
    return len(forgotten)


def _outlived(run: Statements, jobids: Collection[int], days: Mapping[str, int]) -> list[int]:
    """Return those of these jobs that have been dead for longer than the retention of their function."""
    return sorted(
        jobid
        for jobid, funcname, age in (run("dead", jobids=jobids) if jobids else ())
        if age is not None and funcname in days and age >= days[funcname] * _DAY
    )
