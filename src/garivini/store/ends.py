"""How jobs have ended, for those who wait for them."""

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple, TypeAlias

from garivini.model.records import FailedAttempt, KeptJob
from garivini.model.state import State
from garivini.store.chunks import chunks
from garivini.store.failures import failures
from garivini.store.records import kept_job
from garivini.store.statements import Statements

#: ``succeeded``: it has succeeded or was deleted. ``dead``, ``cancelled``: it does not run again by itself.
#: ``moved``: a drain has moved it to another database.
Ended: TypeAlias = Literal["succeeded", "dead", "cancelled", "moved"]


class End(NamedTuple):
    """How a job has ended."""

    kind: Ended
    #: Of a job that has succeeded and is kept.
    kept: KeptJob | None = None
    #: Of a dead or cancelled job, its last failure, if that is recorded.
    failure: FailedAttempt | None = None


def ended(run: Statements, jobids: Collection[int]) -> dict[int, End]:
    """Return how those of these jobs have ended that have. If none has, it costs one statement per 1,000."""
    states: dict[int, State] = {}
    for part in chunks(sorted(jobids)):
        states.update((jobid, State(state)) for jobid, state in run("states", jobids=part))
    return {
        jobid: _gone(run, jobid) if jobid not in states else _dead(failures(run, jobid))
        for jobid in jobids
        if jobid not in states or states[jobid] is State.DEAD
    }


def _gone(run: Statements, jobid: int) -> End:
    """Return how a job has ended whose row is deleted: in the transaction that stored the kept job."""
    kept = kept_job(run, jobid)
    moved = kept is None and "moved" in [str(it.kind) for it in failures(run, jobid)]
    return End("moved") if moved else End("succeeded", kept)


def _dead(found: Sequence[FailedAttempt]) -> End:
    last = found[-1] if found else None
    return End("cancelled" if last is not None and last.kind == "cancelled" else "dead", failure=last)
