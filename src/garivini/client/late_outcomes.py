"""Writes outcomes of jobs that the caller may have received from another incarnation of the database."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from garivini import events
from garivini.model.handles import handle_of
from garivini.model.job import Handle, Job
from garivini.model.outcome import Setback, Settled, Success
from garivini.outcome_events import emit_settled
from garivini.store.database import Database
from garivini.store.incarnations import ReplacedError

_R = TypeVar("_R")


def write_outcomes(
    database: Database,
    named: Sequence[Job | Handle],
    write: Callable[[Database, list[Handle]], _R],
    *,
    tries: int = 3,
) -> _R:
    """Write the outcomes of jobs whose rows still belong to them; drop the others, and emit an event.

    Only jobs of another incarnation need additional statements.

    Args:
        database: has the jobs.
        named: each job as a Job if its incarnation is known, otherwise as a handle. A row is compared only
            with a Job.
        write: writes the outcomes of these handles to this database, in one transaction. It is called again
            if the database was replaced meanwhile.
        tries: maximum number of calls.

    Returns:
        The result of ``write``.

    """
    current = database.incarnation
    jobs = [job for job in named if isinstance(job, Job)]
    if current is None or not jobs:
        return write(database, [handle_of(each) for each in named])
    own = database.expecting(current)
    foreign = [job for job in jobs if job.incarnation != current]
    try:
        same = own.recognised(foreign) if foreign else []
        left_out = {id(job) for job in foreign}.difference(map(id, same))
        result = write(own, [handle_of(each) for each in named if id(each) not in left_out])
    except ReplacedError:  # from here on ``database`` knows the new incarnation
        if tries == 1:
            raise
        return write_outcomes(database, named, write, tries=tries - 1)
    if left_out:
        events.emit("outcomes.unrecognised", dbid=database.dbid, outcomes=len(left_out))
    return result


def write_setback(database: Database, named: Job | Handle, setback: Setback) -> bool:
    """Write a job's setback and emit its event; return whether it is written, now or by an earlier call."""

    def settle(database: Database, recognised: list[Handle]) -> list[Settled]:
        return database.settle([setback]) if recognised else []

    found = write_outcomes(database, [named], settle)
    if not found:
        return False
    emit_settled(setback, found[0])
    return found[0].result in ("applied", "repeated")


def complete(database: Database, handles: list[Handle]) -> int:
    """Delete jobs that have succeeded; return how many existed."""
    return len(database.complete([handle.jobid for handle in handles]))


def finish(done: Success, database: Database, handles: list[Handle]) -> bool:
    """Delete a job that has succeeded, or keep it for its function's retention; return whether it existed."""
    return bool(handles) and database.finish_as_set(done)
