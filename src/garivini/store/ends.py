"""Reads how jobs have ended, for callers that wait for that."""

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple, TypeAlias

from garivini.model.records import FailedAttempt, KeptJob
from garivini.model.state import State
from garivini.store.chunks import chunks
from garivini.store.failures import failures
from garivini.store.records import kept_job
from garivini.store.statements import Statements

#: ``succeeded``: the job succeeded or was deleted. ``dead``, ``cancelled``: it does not run again by itself.
#: ``moved``: a drain has moved it to another database.
Ended: TypeAlias = Literal["succeeded", "dead", "cancelled", "moved"]


class End(NamedTuple):
    """How a job has ended."""

    kind: Ended
    #: The kept job, if the job has succeeded and is kept.
    kept: KeptJob | None = None
    #: Of a dead or cancelled job, its last failure, if that is recorded.
    failure: FailedAttempt | None = None


def ended(run: Statements, jobids: Collection[int]) -> dict[int, End]:
    """Return the ends of the jobs that have ended. If none has, this costs one statement per 1,000 jobs."""
    states: dict[int, State] = {}
    for part in chunks(sorted(jobids)):
        states.update((jobid, State(state)) for jobid, state in run("states", jobids=part))
    return {
        jobid: _gone(run, jobid) if jobid not in states else _dead(failures(run, jobid))
        for jobid in jobids
        if jobid not in states or states[jobid] is State.DEAD
    }


def _gone(run: Statements, jobid: int) -> End:
    """Return how a job without a row ended. The transaction that deleted the row also stored a kept job."""
    kept = kept_job(run, jobid)
    moved = kept is None and "moved" in [str(it.kind) for it in failures(run, jobid)]
    return End("moved") if moved else End("succeeded", kept)


def _dead(found: Sequence[FailedAttempt]) -> End:
    last = found[-1] if found else None
    return End("cancelled" if last is not None and last.kind == "cancelled" else "dead", failure=last)
