"""Jobs that expire: they are discarded if they have not been handed out some time after they are due."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from garivini.model.job import Handle
from garivini.model.limits import PRIORITIES
from garivini.model.outcome import Setback, Settled
from garivini.model.policy import FunctionPolicy
from garivini.store.outcomes import settle
from garivini.store.statements import Statements

#: The error in the failure record of an expired job.
EXPIRED: Final = "Expired"


def split_late(rows: Sequence[Any], expires: int | None) -> tuple[Sequence[Any], list[tuple[int, int]]]:
    """Return the rows of a claim that may be handed out; of the others, ids and the seconds since due.

    Args:
        rows: of the statement ``due``.
        expires: the setting of their function.

    """
    if expires is None and {row[10] for row in rows} == {None}:
        return rows, []
    kept, late = [], []
    for row in rows:
        seconds = expires if row[10] is None else row[10]
        if seconds is not None and row[7] == 0 and row[8] - row[1] > seconds:
            late.append((row[0], row[8] - row[1]))
        else:
            kept.append(row)
    return kept, late


def discard(run: Statements, late: Sequence[tuple[int, int]]) -> list[tuple[Setback, Settled]]:
    """Discard jobs that the transaction has locked. ``late``: ids, and the seconds since they were due."""
    setbacks = [
        Setback(
            handle=Handle(jobid, run.dbid),
            kind="discarded",
            error=EXPIRED,
            message=f"it was not handed out within its time: it had been due for {seconds} s",
        )
        for jobid, seconds in late
    ]
    return list(zip(setbacks, settle(run, setbacks), strict=True))


def discard_late(
    run: Statements, policies: Mapping[str, FunctionPolicy], limit: int
) -> list[tuple[Setback, Settled]]:
    """Discard waiting jobs of functions with the setting ``expires``: of each lane the first ``limit``.

    Jobs that another transaction has locked are left out.
    """
    settled = []
    for funcname, policy in sorted(policies.items()):
        for priority in range(len(PRIORITIES)) if policy.expires is not None else ():
            rows = run("late", funcname=funcname, priority=priority, expires=policy.expires, limit=limit)
            late = [(jobid, seconds) for jobid, attempt, seconds in rows if attempt == 0]
            settled += discard(run, late) if late else []
    return settled
