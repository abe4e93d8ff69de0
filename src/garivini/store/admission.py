"""Admission: claims of a limited function. A claim hands out no more jobs than its limits leave.

The limit of the jobs in flight needs no state of its own: they are counted from their rows, under a lock on
the function's row. So the count is right whatever ends an attempt, and whichever program writes that. The
state of a rate is a time in that row, of the database's clock.
"""

from collections.abc import Callable
from typing import NamedTuple

from garivini.model.function_settings import valid_settings
from garivini.model.job import Job
from garivini.model.pacing import BATCH_BYTES
from garivini.model.policy import FunctionPolicy
from garivini.store.claims import Lane, claim
from garivini.store.statements import Statements


class Admitted(NamedTuple):
    """The jobs that a claim may hand out, and whether a limit holds others back."""

    jobs: list[Job]
    #: Seconds until a claim may get more jobs, 0 if the time is not known; None: no limit holds a job back.
    held_back: float | None


def admit(
    run: Statements,
    lane: Lane,
    *,
    limit: int,
    lease: int | Callable[[str], int],
    max_bytes: int = BATCH_BYTES,
) -> Admitted:
    """Claim due jobs of a lane as ``claim`` does, but only as many as the limits of its function allow.

    All claims of the function, in any process, must be made by this call: they take turns. A claim that would
    have to wait for another one claims nothing. The rate is used in the claim's transaction.
    """
    rows = run("lock_function", funcname=lane.funcname)
    if not rows:
        return Admitted([], held_back=0.0)
    max_running, paused, given_rate, burst, used_until, now = rows[0]
    if paused:
        return Admitted([], held_back=0.0)
    given = {"max_running": max_running, "rate": given_rate, "burst": burst}
    policy = FunctionPolicy(**valid_settings(given))
    allowed, rate, used_until = limit, policy.start_rate, used_until or 0.0
    if policy.max_running is not None:
        held = run("in_flight", funcname=lane.funcname, limit=policy.max_running)[0][0]
        allowed = min(allowed, policy.max_running - held)
    if rate is not None:
        allowed = min(allowed, rate.allowed(used_until, now))
    jobs = claim(run, lane, limit=allowed, lease=lease, max_bytes=max_bytes) if allowed > 0 else []
    wait = 0.0
    if rate is not None:
        used = rate.use(used_until, now, len(jobs))
        if used != used_until:
            run("use_rate", funcname=lane.funcname, used_until=used)
        wait = rate.until_next(used, now)
    return Admitted(jobs, held_back=None if allowed >= limit or len(jobs) < allowed else wait)
