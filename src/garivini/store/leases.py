"""Leases after the claim: renewed, released, given back, expired, reclaimed.

A call with ``locked`` skips the rows that another transaction has locked: see ``locked_rows.skip_locked``.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from garivini.model.job import Handle, Job
from garivini.model.limits import PRIORITIES
from garivini.model.state import State
from garivini.store.chunks import by_attempt, chunks
from garivini.store.claims import Lane
from garivini.store.job_rows import call_of, from_row
from garivini.store.locked_rows import skip_locked, unlocked
from garivini.store.statements import Statements


class Lapsed(NamedTuple):
    """An expired lease: the facts on which its handling is decided. The write must find them unchanged."""

    jobid: int
    attempt: int
    flag: str
    crashes: int
    #: The unix time of the claim, or of a server's last report that the job is queued; and the seconds since
    #: then.
    since: int
    age: int
    state: State
    #: Whether another program has put the row off since it was leased. If so, it is due now, and nobody
    #: holds the job.
    put_off: bool = False
    #: The function of the row: in a table of the original it may differ in case from the lane's.
    funcname: str = ""
    #: The id and the attempt of the first job of its bundle; None: it was handed out alone.
    bundle: tuple[int, int] | None = None

    @property
    def call(self) -> tuple[int, int]:
        """The id and the attempt by which Gearman servers know the call that carries the job."""
        return self.bundle or (self.jobid, self.attempt)


def renew(
    run: Statements, handles: Collection[Handle], *, lease: int, locked: set[int] | None = None
) -> set[Handle]:
    """Renew the leases of these attempts, for ``lease`` seconds; return those that still hold their jobs."""
    kept: set[Handle] = set()
    for attempt, jobids in by_attempt(unlocked(run, handles, locked)):
        run("renew", jobids=jobids, attempt=attempt, lease=lease)
        rows = run("mine", jobids=jobids, attempt=attempt)
        kept.update(Handle(jobid, run.dbid, attempt) for (jobid,) in rows)
    return kept


def release(run: Statements, jobs: Collection[Job], *, locked: set[int] | None = None) -> None:
    """Set claimed jobs that were not submitted back to waiting, with the due time that they had before."""
    skipped = skip_locked(run, (job.jobid for job in jobs), locked)
    for job in sorted(jobs, key=lambda job: job.jobid):
        if job.jobid not in skipped:
            run("release", jobid=job.jobid, attempt=job.attempt, run_after=job.run_after)


def give_back(run: Statements, handles: Collection[Handle], *, locked: set[int] | None = None) -> None:
    """Set jobs that a worker holds and has not started back to waiting, due now."""
    for attempt, jobids in by_attempt(unlocked(run, handles, locked)):
        run("give_back", jobids=jobids, attempt=attempt)


def mark_leased(run: Statements, handles: Collection[Handle], *, locked: set[int] | None = None) -> None:
    """Set running jobs back to leased, because their holder will not start them.

    The leases of these jobs do not change, because the server may have given the copies to another worker.
    """
    for attempt, jobids in by_attempt(unlocked(run, handles, locked)):
        run("mark_leased", jobids=jobids, attempt=attempt)


def end_early(
    run: Statements, handles: Collection[Handle], *, lease: int, locked: set[int] | None = None
) -> None:
    """End the leases, of up to ``lease`` seconds, of attempts that may not have reached a server."""
    for attempt, jobids in by_attempt(unlocked(run, handles, locked)):
        run("end_early", jobids=jobids, attempt=attempt, lease=lease)


def expired(run: Statements, lane: Lane, *, limit: int) -> list[Lapsed]:
    """Return at most ``limit`` leases of a lane that have expired."""
    rows = run(
        "expired",
        funcname=lane.funcname,
        state=lane.state,
        priority=PRIORITIES.index(lane.priority),
        limit=limit,
    )
    return [
        Lapsed._make((*row[:6], lane.state, bool(row[6]), row[7], call_of(row[8], row[1]))) for row in rows
    ]


def requeue(run: Statements, jobids: Collection[int], *, locked: set[int] | None = None) -> None:
    """Set jobs to waiting that another program put off while they were leased, and that are due now."""
    skipped = skip_locked(run, jobids, locked)
    if free := sorted(set(jobids) - set(skipped)):
        run("requeue", jobids=free)


def extend(
    run: Statements, steps: Sequence[tuple[Lapsed, State, int, bool]], *, locked: set[int] | None = None
) -> None:
    """Extend leases that have expired. If a row has changed since it was read, it stays as it is.

    Args:
        run: runs the statements.
        steps: for each lease its new state, its seconds, and whether a server reports the job as queued.
        locked: gets the ids of rows that another transaction has locked.

    """
    skipped = skip_locked(run, (step[0].jobid for step in steps), locked)
    for lapsed, state, seconds, queued in steps:
        if lapsed.jobid not in skipped:
            run(
                "extend",
                jobid=lapsed.jobid,
                attempt=lapsed.attempt,
                state=lapsed.state,
                new_state=state,
                seconds=seconds,
                queued=queued,
            )


def reclaim(
    run: Statements,
    steps: Sequence[tuple[Lapsed, bool]],
    *,
    lease: int,
    locked: set[int] | None = None,
) -> list[Job]:
    """Claim jobs again whose lease has expired for good.

    Args:
        run: runs the statements.
        steps: each lease, and whether its holder is known to have crashed.
        lease: seconds of the new leases.
        locked: gets the ids of rows that another transaction has locked.

    Returns:
        The jobs, with the time of the previous claim as ``run_after``: a release makes them due at once. If a
        row has changed since it was read, it stays as it is, and its job is not returned.

    """
    jobs = []
    skipped = skip_locked(run, (step[0].jobid for step in steps), locked)
    for lapsed, crashed in steps:
        if lapsed.jobid not in skipped:
            rows = run(
                "reclaim",
                jobid=lapsed.jobid,
                attempt=lapsed.attempt,
                state=lapsed.state,
                lease=lease,
                crashed=crashed,
            )
            jobs += [
                from_row(row, run.dbid, lease=lease, due=lapsed.since, incarnation=run.incarnation)
                for row in rows
            ]
    return jobs


def adopt(
    run: Statements, jobids: Collection[int], *, lease: int, locked: set[int] | None = None
) -> list[Job]:
    """Give an attempt to each copy that came without one, from a QueueRunner of the original.

    Returns the jobs without their arguments, which the copies have. Jobs that are already running, dead or
    deleted are omitted.
    """
    jobs: list[Job] = []
    skipped = skip_locked(run, jobids, locked)
    for part in chunks(sorted(set(jobids).difference(skipped))):
        free = sorted(jobid for (jobid,) in run("adoptable", jobids=part))
        rows = run("adopt", jobids=free, lease=lease) if free else ()
        jobs += [from_row(row, run.dbid, lease=lease, incarnation=run.incarnation) for row in rows]
    return jobs
