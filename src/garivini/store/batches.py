"""Batches: counts of members, changed in the transactions that add and end them.

A member is a row of ``batch_member`` until its job ends. The transaction that ends the job deletes that row,
so each end is counted once. If another program has ended a job, a QueueRunner finds its member and counts it.
A transaction that ends jobs locks their rows first, then their members, and then batches in the order of
their ids.
"""

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any, Final

from garivini.errors import RefusedError, UsageError
from garivini.model.batch import BatchStatus, decode_callback
from garivini.model.inserted import Inserted
from garivini.model.job import NewJob
from garivini.model.state import State
from garivini.store.chunks import CHUNK, chunks
from garivini.store.inserts import insert
from garivini.store.outbox import insert_here
from garivini.store.statements import Statements

#: Maximum members that one statement of a search reads.
PAGE: Final = 1000


def create(run: Statements, batchid: str, name: str, on_complete: str | None, on_success: str | None) -> None:
    """Store a batch without members."""
    run("put_batch", batchid=batchid, name=name, on_complete=on_complete, on_success=on_success)


def add(run: Statements, batchid: str, jobs: Sequence[NewJob]) -> list[Inserted]:
    """Insert jobs as members of a batch; return one answer per job, in order.

    A job whose unique key exists is not inserted, and the existing job does not become a member.

    Raises:
        RefusedError: the batch has ended, or does not exist.

    """
    answers = insert(run, jobs, [len(job.arg) for job in jobs])
    new = [at.jobid for at in answers if at.new]
    for part in chunks(new):
        run("put_members", rows=[{"jobid": jobid, "batchid": batchid} for jobid in part])
    # The row of the batch is locked last, so that others wait for it as briefly as possible.
    if not run("count_in", batchid=batchid, count=len(new)) and not _is_open(run, batchid):
        raise RefusedError(f"{run.where} has no batch {batchid} that has not ended")
    return answers


def _is_open(run: Statements, batchid: str) -> bool:
    """Whether a batch exists and has not ended. A count of changed rows may leave out unchanged ones."""
    rows = run("lock_batch", batchid=batchid)
    return bool(rows) and not rows[0][7]


def seal(run: Statements, batchid: str) -> BatchStatus | None:
    """Let a batch end with its last member, or now if none is pending; return it, or None."""
    rows = run("lock_batch", batchid=batchid)
    if not rows:
        return None
    if not rows[0][7]:
        run("seal", batchid=batchid)
        _end_if_over(run, batchid)
    return read(run, batchid)


def leave(run: Statements, ended: Collection[int], *, dead: Collection[int] = ()) -> int:
    """Count the ends of members among jobs; return how many there are.

    The last end of a sealed batch ends it, and inserts its jobs. This comes last in a transaction, because
    others wait for the rows of batches that it locks.

    Args:
        run: runs the statements.
        ended: the ids of jobs that the transaction has deleted, or that are gone.
        dead: the ids of jobs that are dead.

    """
    counts: dict[str, list[int]] = {}
    for part in chunks(sorted({*ended, *dead})):
        found = run("members_of", jobids=part)
        if not found:
            continue
        for jobid, batchid in found:
            count = counts.setdefault(batchid, [0, 0])
            count[0] += 1
            count[1] += jobid in dead
        run("leave_batches", jobids=sorted(jobid for jobid, _ in found))
    for batchid, (members_, failed) in sorted(counts.items()):
        run("count_out", batchid=batchid, count=members_, failed=failed)
    for batchid in sorted(counts):
        _end_if_over(run, batchid)
    return sum(count[0] for count in counts.values())


def _end_if_over(run: Statements, batchid: str) -> None:
    rows = run("lock_batch", batchid=batchid)
    if not rows:
        return
    _, _, _, pending, failed, sealed, _, completed_at, on_complete, on_success = rows[0]
    if not sealed or pending > 0 or completed_at:
        return
    run("end_batch", batchid=batchid)
    batch = f"{run.dbid}:{batchid}"
    stored = [on_complete, on_success if not failed else None]
    jobs = []
    for text in stored:
        if text is not None:
            with suppress(UsageError):  # another program has written it, and the end of a job must not fail
                jobs.append(decode_callback(text, batch))
    if jobs:
        insert_here(run, jobs)


# ---- reads


def read(run: Statements, batchid: str) -> BatchStatus | None:
    """Return a batch, or None if there is none."""
    rows = run("batch", batchid=batchid)
    return _status(run.dbid, rows[0]) if rows else None


def page(run: Statements, after: str = "", limit: int = 100) -> list[BatchStatus]:
    """Return the next batches in the order in which they were created."""
    return [_status(run.dbid, row) for row in run("batches", batchid=after, limit=limit)]


def _status(dbid: int, row: Sequence[Any]) -> BatchStatus:
    batchid, name, members, pending, failed, sealed, created, completed_at, *_ = row
    return BatchStatus(
        f"{dbid}:{batchid}", name, members, pending, failed, bool(sealed), created, completed_at
    )


def members(run: Statements, batchid: str, after: int = 0, limit: int = PAGE) -> list[int]:
    """Return the ids of the next members that have not ended."""
    return [jobid for (jobid,) in run("member_page", batchid=batchid, jobid=after, limit=limit)]


# ---- upkeep


def open_batches(run: Statements, after: str = "", limit: int = 100) -> list[str]:
    """Return the next batches that have not ended."""
    return [batchid for (batchid,) in run("open_batches", batchid=after, limit=limit)]


def ended_members(run: Statements, batchid: str, after: int) -> tuple[list[int], list[int], int | None]:
    """Examine the next 1,000 members of a batch; return those whose jobs have ended without being counted.

    Returns:
        The members whose jobs are gone, those whose jobs are dead, and the id after which the next page
        begins; None: there is none.

    """
    jobids = members(run, batchid, after)
    states = dict(run("states", jobids=jobids)) if jobids else {}
    gone = [jobid for jobid in jobids if jobid not in states]
    dead = [jobid for jobid, state in states.items() if State(state) is State.DEAD]
    return gone, sorted(dead), jobids[-1] if len(jobids) == PAGE else None


def count_ended(run: Statements, gone: Sequence[int], dead: Sequence[int]) -> int:
    """Count the ends of members that another program has ended, unless they were counted meanwhile."""
    # The id of a job that is gone is never given again. A dead job may have been retried since.
    locked = run("lock_states", jobids=sorted(dead)) if dead else ()
    still = [row[0] for row in locked if State(row[2]) is State.DEAD]
    return leave(run, gone, dead=still)


def forget(run: Statements, age: int, limit: int = CHUNK) -> int:
    """Delete batches that ended at least ``age`` seconds ago; return how many."""
    return int(run("forget_batches", age=age, limit=limit))
