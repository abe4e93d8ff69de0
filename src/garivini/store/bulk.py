"""Changes that an operator makes to many jobs together. Jobs that an attempt holds are not changed."""

from collections.abc import Collection, Sequence
from typing import assert_never

from garivini.model.job_query import JobChange
from garivini.model.limits import NEVER, PRIORITIES
from garivini.model.state import State
from garivini.model.when import At, Never, Offset, When
from garivini.store.batches import leave
from garivini.store.failures import record_ends
from garivini.store.outcomes import forget_records
from garivini.store.statements import Statements
from garivini.store.successors import promote_after_death


def change(run: Statements, jobids: Sequence[int], change: JobChange, *, states: Collection[State]) -> int:
    """Change those of the given jobs that are in one of the given states; return how many.

    A job that another transaction has locked is left as it is.

    Args:
        run: runs the statements.
        jobids: at most 1,000.
        change: the change of each job.
        states: the effective states in which a job is changed.

    """
    rows = run("lock_states", jobids=jobids)
    attempts = {jobid: attempt for jobid, attempt, state, _ in sorted(rows) if State(state) in states}
    followed = [jobid for jobid, _, _, is_followed in rows if is_followed and jobid in attempts]
    chosen = list(attempts)
    if not chosen:
        return 0
    match change.action:
        case "retry":
            run("retry", jobids=chosen)
        case "cancel":
            record_ends(run, attempts, "cancelled", change.reason)
            run("put_all_at", jobids=chosen, run_after=NEVER)
        case "discard":
            record_ends(run, attempts, "discarded", change.reason)
            run("put_all_at", jobids=chosen, run_after=NEVER)
        case "delete":
            # One by one, because a list of ids may be searched by a scan, which waits for rows that others
            # have locked.
            for jobid in chosen:
                run("complete_one", jobid=jobid)
            if members := forget_records(run, chosen):
                leave(run, members)
        case "reschedule":
            assert change.when is not None
            _reschedule(run, chosen, change.when)
        case "prioritize":
            run("set_priority", jobids=chosen, priority=PRIORITIES.index(change.priority))
        case _:
            assert_never(change.action)
    if change.action in ("cancel", "discard") or change.when == Never():
        if followed:
            promote_after_death(run, followed)
        leave(run, (), dead=chosen)
    return len(chosen)


def _reschedule(run: Statements, jobids: Sequence[int], when: When) -> None:
    match when:
        case Offset(seconds):
            run("put_all_back", jobids=jobids, delay=seconds)
        case At(time):
            run("put_all_at", jobids=jobids, run_after=time)
        case Never():
            run("put_all_at", jobids=jobids, run_after=NEVER)
