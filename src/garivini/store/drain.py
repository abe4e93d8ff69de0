"""Moves the jobs of one database to the others, so that it can be removed.

No transaction spans two databases, so a move has four steps, and after each one row can run:

1. The source leases the job, as a dispatch would, so that nobody else claims it.
2. The target gets a parked row, with a note of its origin.
3. The source deletes its row, if that lease still holds it, and notes that the job has left.
4. The target sets its row to waiting, and deletes the note.

After a crash the notes show the progress of a move. If the source has noted that the job has left, the
target's row is set to waiting. If not, the target's row is deleted, and the lease in the source expires like
any other.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from garivini.errors import RefusedError
from garivini.model.job import Handle, Job
from garivini.model.limits import NEVER, PRIORITIES
from garivini.model.state import State
from garivini.store.database import Database

#: Seconds of the lease of a job that is being moved.
_HELD: Final = 60
#: Maximum number of jobs that are moved together.
_BATCH: Final = 200
_MOVED: Final = "moved"


class _Origin(msgspec.Struct, frozen=True):
    """The origin of a moved row, as the target's note has it."""

    dbid: int
    jobid: int
    attempt: int
    #: The state that the moved row gets.
    state: State
    run_after: int

    @property
    def attempts(self) -> int:
        """The number of attempts without the lease of the move. The moved row keeps this number."""
        return self.attempt - (self.state is not State.DEAD)


def drain(source: Database, target_of: Callable[[Job], Database]) -> Iterator[int]:
    """Move waiting and dead jobs; yield the number of moved jobs after each batch.

    A job's attempts and its failure records move with it. The reports of its former attempts do not: they may
    be many megabytes, and nothing depends on them. Kept jobs stay.

    From the first step on the source accepts no new jobs. Leased and running jobs are not moved: call this
    again until the source is empty. Two processes must not drain one database at the same time.

    Args:
        source: the database to empty.
        target_of: returns the database to which a job moves.

    """
    if source.open_batches(limit=1):
        raise RefusedError(
            f"{source.where} has a batch that has not ended, and its members cannot be moved: wait for its "
            "end, or cancel it; garivini batches list shows it"
        )
    with source.transaction() as run:
        run("refuse_inserts")
    after = 0
    while jobs := source.jobs(state=State.WAITING, after=after, limit=_BATCH):
        after = jobs[-1].jobid
        yield _move(source, _hold(source, jobs), target_of)
    after = 0
    while jobs := source.jobs(state=State.DEAD, after=after, limit=_BATCH):
        after = jobs[-1].jobid
        yield _move(source, jobs, target_of)


def resume(source: Database, targets: Sequence[Database]) -> int:
    """Finish the moves that an earlier drain of this source did not finish; return how many succeeded."""
    finished = 0
    for target in targets:
        with target.reading() as run:
            notes = [(jobid, msgspec.json.decode(text, type=_Origin)) for jobid, text in run("moves")]
        mine = [(jobid, origin) for jobid, origin in notes if origin.dbid == source.dbid]
        with source.reading() as run:
            left = {
                origin
                for _, origin in mine
                if any(
                    kind == _MOVED for (kind,) in run("recorded", jobid=origin.jobid, attempt=origin.attempt)
                )
            }
        _settle(target, mine, left)
        finished += len(left)
    return finished


def stop(source: Database) -> None:
    """Let a database accept jobs again."""
    with source.transaction() as run:
        run("allow_inserts")


def _hold(source: Database, jobs: Sequence[Job]) -> list[Job]:
    """Lease the waiting jobs among these that are still as they were read."""
    held = []
    with source.transaction() as run:
        for job in jobs:
            rows = run("hold", jobid=job.jobid, attempt=job.attempt, run_after=job.run_after, seconds=_HELD)
            if rows:
                held.append(replace(job, attempt=(job.attempt or 0) + 1))
    return held


def _move(source: Database, jobs: Sequence[Job], target_of: Callable[[Job], Database]) -> int:
    shares: dict[int, list[Job]] = {}
    targets: dict[int, Database] = {}
    for job in jobs:
        target = target_of(job)
        targets[target.dbid] = target
        shares.setdefault(target.dbid, []).append(job)
    return sum(_move_to(source, targets[dbid], share) for dbid, share in shares.items())


def _move_to(source: Database, target: Database, jobs: Sequence[Job]) -> int:
    try:
        copies = _park(source, target, jobs)
    except RefusedError:
        if len(jobs) == 1:
            (job,) = jobs
            if job.uniqkey is None or target.live(job.funcname, job.uniqkey, exact=False) is None:
                raise
            # The target has a job with the same key, so this job stays in the source.
            return 0
        return sum(_move_to(source, target, [job]) for job in jobs)
    left = _leave(source, [origin for _, origin in copies])
    _settle(target, copies, left)
    return len(left)


def _park(source: Database, target: Database, jobs: Sequence[Job]) -> list[tuple[int, _Origin]]:
    """Insert parked rows into the target, with their records and notes of their origin."""
    records = {job.jobid: source.record(job.jobid) for job in jobs}
    with source.reading() as run:
        expiries = dict(run("expiries", jobids=[job.jobid for job in jobs]))
    copies = []
    with target.transaction() as run:
        for job in jobs:
            state = State.DEAD if job.state is State.DEAD else State.WAITING
            origin = _Origin(source.dbid, job.jobid, job.attempt or 0, state, job.run_after)
            ((jobid,),) = run(
                "park",
                funcname=job.funcname,
                uniqkey=job.uniqkey,
                coalesce=job.coalesce,
                arg=job.arg,
                flag=job.flag,
                priority=PRIORITIES.index(job.priority),
                failcount=job.failcount,
                crashes=job.crashes,
                created=job.created,
                attempt=origin.attempts,
                runs=job.runs,
                partition=job.partition,
                headers=job.headers_text,
            )
            note = msgspec.json.encode(origin).decode()
            _note(run, Handle(jobid, target.dbid, 0), note)
            if job.jobid in expiries:
                run("set_expires", jobids=[jobid], expires=expiries[job.jobid])
            for failed in records[job.jobid]:
                run("copy_failure", jobid=jobid, **failed._asdict())
            copies.append((jobid, origin))
    return copies


def _leave(source: Database, origins: Sequence[_Origin]) -> set[_Origin]:
    """Delete the rows that are still leased for the move, and note that they have left."""
    left = set()
    with source.transaction() as run:
        for origin in origins:
            held = State.DEAD if origin.state is State.DEAD else State.LEASED
            if run("leave", jobid=origin.jobid, attempt=origin.attempt, state=held):
                run("forget_failures", jobids=[origin.jobid])
                run("forget_reports", jobids=[origin.jobid])
                _note(run, Handle(origin.jobid, source.dbid, origin.attempt), "")
                left.add(origin)
    return left


def _settle(target: Database, copies: Sequence[tuple[int, _Origin]], left: set[_Origin]) -> None:
    """Set moved rows whose jobs have left the source to waiting; delete the other moved rows."""
    with target.transaction() as run:
        for jobid, origin in copies:
            if origin in left:
                run("forget_move", jobid=jobid)
                if origin.state is not State.DEAD:
                    run("let_go", jobid=jobid, run_after=min(origin.run_after, NEVER - 1))
            elif run("leave", jobid=jobid, attempt=origin.attempts, state=State.DEAD):
                run("forget_failures", jobids=[jobid])


def _note(run: Callable[..., object], handle: Handle, text: str) -> None:
    run(
        "record_failure",
        jobid=handle.jobid,
        attempt=handle.attempt,
        kind=_MOVED,
        error="",
        message=text,
        trace="",
        worker="",
    )
