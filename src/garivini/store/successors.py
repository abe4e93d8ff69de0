"""Successors: the newest insert of a unique key while an attempt holds the key's job.

Two rows of one key cannot exist, so a successor waits in a table of its own. It becomes a job in the
transaction that ends the job before it: completes it, or makes it dead. If another program has deleted or
parked that job, a QueueRunner turns the successor into a job.
"""

from collections.abc import Iterable

from garivini.model.job import NewJob
from garivini.model.limits import PRIORITIES
from garivini.model.state import State
from garivini.store.chunks import CHUNK
from garivini.store.statements import Statements


def put(
    run: Statements, jobid: int, job: NewJob, *, due: int, now: int, max_delay: int | None = None
) -> None:
    """Store a job as the successor of another, in place of an earlier successor.

    Args:
        run: runs the statements.
        jobid: the id of the job before it, which the transaction has locked and an attempt holds.
        job: to store.
        due: the unix time at which it is due.
        now: the database's unix time.
        max_delay: the new successor may put an earlier one off, but only until these seconds after the first
            insert; None: the new one has its own time.

    """
    earlier = run("successor", jobid=jobid)
    created = now
    if earlier:
        before, created = earlier[0]
        if max_delay is not None:
            due = max(before, min(due, created + max_delay))
    else:
        run("note_successor", jobid=jobid)
    run(
        "put_successor",
        jobid=jobid,
        funcname=job.funcname,
        uniqkey=job.uniqkey,
        coalesce=job.coalesce,
        partition=job.partition,
        headers=job.headers,
        arg=job.arg,
        flag=job.flag,
        priority=PRIORITIES.index(job.priority),
        due=due,
        created=created,
        expires=job.expires or None,
    )


def promote(run: Statements, jobids: Iterable[int]) -> None:
    """Turn the successors of these jobs into jobs. The transaction has deleted the jobs before them."""
    for jobid in sorted(jobids):
        run("promote", jobid=jobid)


def promote_after_death(run: Statements, jobids: Iterable[int]) -> None:
    """Turn the successors of these jobs into jobs. The transaction has made the jobs before them dead."""
    for jobid in sorted(jobids):
        run("free_key", jobid=jobid)
        run("promote", jobid=jobid)


def successors_left(run: Statements, limit: int = CHUNK) -> tuple[list[int], bool]:
    """Return the ids of jobs that have a successor and that another program has deleted or parked.

    Also returns whether there is any successor, of these or other jobs.
    """
    left = [jobid for (jobid,) in run("successors_left", limit=limit)]
    return left, bool(left or run("any_successor"))


def promote_left(run: Statements, jobid: int) -> bool:
    """Turn the successor of a job into a job, if no row of the job before it is left, or that is dead.

    Returns whether it did. False if another transaction has locked the row of the job or of the successor.
    """
    rows = run("lock_states", jobids=[jobid])
    if not rows and run("known", jobids=[jobid]):
        return False
    if not run("lock_successor", jobid=jobid):
        return False
    if rows and State(rows[0][2]) is not State.DEAD:
        return False
    if rows:
        run("free_key", jobid=jobid)
    run("promote", jobid=jobid)
    return True
