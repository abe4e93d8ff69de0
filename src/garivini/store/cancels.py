"""Marks functions of which a held job was cancelled, so that workers notice it."""

from collections.abc import Collection

from garivini.model.job import Handle
from garivini.model.lease import OTHERS_LEASE
from garivini.store.chunks import by_attempt
from garivini.store.statements import Statements


def mark(run: Statements, jobid: int) -> None:
    """Mark the function of a job that is being cancelled, until the leases of all copies have ended."""
    run("mark_function", jobid=jobid, lease=OTHERS_LEASE)


def marks(run: Statements) -> dict[str, int]:
    """Return the marked functions, each with a number that rises with every cancelled job."""
    return dict(run("marks"))


def cancelled(run: Statements, handles: Collection[Handle]) -> set[Handle]:
    """Return those of these attempts whose job is dead and has had no later attempt."""
    found: set[Handle] = set()
    for attempt, jobids in by_attempt(handles):
        rows = run("cancelled", jobids=jobids, attempt=attempt)
        found.update(Handle(jobid, run.dbid, attempt) for (jobid,) in rows)
    return found
