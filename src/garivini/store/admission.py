"""Admission: claims of a function that has a rule. A claim hands out no more jobs than its rules leave.

The rules need no state of their own: jobs in flight are counted from their rows, under a lock on the
function's row. So whatever ends an attempt, and whichever program writes it, the next claim counts right.
"""

from collections.abc import Callable
from typing import NamedTuple

from garivini.model.job import Job
from garivini.model.pacing import BATCH_BYTES
from garivini.store.claims import Lane, claim
from garivini.store.statements import Statements


class Admitted(NamedTuple):
    """The jobs that a claim may hand out, and whether a rule holds others back."""

    jobs: list[Job]
    held_back: bool


def admit(
    run: Statements,
    lane: Lane,
    *,
    limit: int,
    lease: int | Callable[[str], int],
    max_bytes: int = BATCH_BYTES,
) -> Admitted:
    """Claim due jobs of a lane as ``claim`` does, but only as many as the rules of its function allow.

    All claims of the function are to be made by this call, in any process: they take turns. One that would
    have to wait for another claims nothing.
    """
    rows = run("lock_function", funcname=lane.funcname)
    if not rows:
        return Admitted([], held_back=True)
    ((max_running, paused),) = rows
    if paused:
        return Admitted([], held_back=True)
    allowed = limit
    if max_running is not None:
        allowed = min(limit, max_running - run("in_flight", funcname=lane.funcname, limit=max_running)[0][0])
    jobs = claim(run, lane, limit=allowed, lease=lease, max_bytes=max_bytes) if allowed > 0 else []
    return Admitted(jobs, held_back=allowed < limit and len(jobs) == max(0, allowed))
