"""Admission: claims of a limited function, which hand out no more jobs than the function's limits allow.

The limit of the jobs in flight needs no state of its own: they are counted from their rows, under a lock on
the function's row. So whatever ends an attempt, and whichever program writes it, the next claim counts right.
The state of a rate is a time in the function's row, by the database's clock.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from garivini.model.function_settings import valid_settings
from garivini.model.job import Job
from garivini.model.outcome import Setback, Settled
from garivini.model.pacing import BATCH_BYTES
from garivini.model.policy import MAX_RUNNING, FunctionPolicy
from garivini.model.rate import Rate
from garivini.model.turns import START, Place
from garivini.store.bundles import BundleClaim
from garivini.store.chunks import CHUNK
from garivini.store.claims import Lane, claim
from garivini.store.claims import head as next_job
from garivini.store.statements import Statements
from garivini.store.turn_claims import TurnClaim


class Admitted(NamedTuple):
    """The jobs that a claim may hand out, and whether a limit holds others back."""

    jobs: list[Job]
    #: Seconds until a claim may get more jobs, 0 if the time is not known; None: no limit holds a job back.
    held_back: float | None
    #: Where the next admission of the lane begins, once this one is committed.
    place: Place = START


def admit(
    run: Statements,
    lane: Lane,
    *,
    limit: int,
    lease: int | Callable[[str], int],
    max_bytes: int = BATCH_BYTES,
    place: Place = START,
    expires: int | None = None,
    discarded: list[tuple[Setback, Settled]] | None = None,
) -> Admitted:
    """Claim due jobs of a lane as ``claim`` does, but only as many as the limits of its function allow.

    All claims of the function, in any process, must be made by this call, so that they take turns. A claim
    that would have to wait for another claim claims nothing. Its transaction also stores how far the rate is
    used.

    If a rule is about partitions, the partitions take turns: see ``store.turn_claims``. ``place`` is the one
    in the result of the lane's last admission.

    If the function has ``coalesce_max``, the jobs are the first of each call, and ``limit`` and the limits of
    the function are about calls: see ``store.bundles``.
    """
    ended: list[tuple[Setback, Settled]] = []
    if discarded is not None:
        discarded.clear()
    rows = run("lock_function", funcname=lane.funcname)
    if not rows or rows[0][1]:  # locked by another claim, or paused
        return Admitted([], held_back=0.0, place=place)
    used_until, now = rows[0][4] or 0.0, rows[0][5]
    policy = _policy(rows[0])
    allowed, rate = limit, policy.start_rate
    if policy.max_running is not None:
        held = _in_flight(run, lane.funcname, policy, policy.max_running)
        allowed = min(allowed, policy.max_running - held)
    if rate is not None:
        allowed = min(allowed, rate.allowed(used_until, now))
    jobs: list[Job] = []
    wait, left_out = 0.0, None
    if allowed > 0 and policy.has_turns:
        turn_claim = TurnClaim(run, lane, policy, place, now)
        size = min(allowed, CHUNK)
        jobs = turn_claim.claim(limit=size, lease=lease, max_bytes=max_bytes, expires=expires)
        left_out, place = turn_claim.held_back, turn_claim.place
        ended = turn_claim.discarded
    elif allowed > 0 and policy.coalesce_max is not None:
        bundle_claim = BundleClaim(run, lane, policy, now)
        jobs = bundle_claim.claim(limit=allowed, lease=lease, max_bytes=max_bytes, expires=expires)
        left_out, ended = bundle_claim.held_back, bundle_claim.discarded
    elif allowed > 0:
        due = partial(claim, run, lane, limit=allowed, lease=lease, max_bytes=max_bytes)
        jobs = due(expires=expires, discarded=ended)
    if rate is not None:
        wait = _use_rate(run, lane, rate, used_until, now, len(jobs))
    if discarded is not None:
        discarded += ended
    if len(jobs) < max(0, allowed):
        return Admitted(jobs, left_out, place)
    return Admitted(jobs, None if allowed >= limit else wait, place)


def _in_flight(run: Statements, funcname: str, policy: FunctionPolicy, limit: int) -> int:
    """Count the jobs of a function that an attempt holds, up to the limit; those of a bundle count once."""
    if policy.coalesce_max is None:
        return int(run("in_flight", funcname=funcname, limit=limit)[0][0])
    calls, jobs = run("in_flight_calls", funcname=funcname, limit=MAX_RUNNING)[0]
    return limit if jobs >= MAX_RUNNING else int(calls)


def _use_rate(run: Statements, lane: Lane, rate: Rate, used_until: float, now: float, starts: int) -> float:
    """Store that this number of jobs start; return the seconds until another one may."""
    used = rate.use(used_until, now, starts)
    if used != used_until:
        run("use_rate", funcname=lane.funcname, used_until=used)
    return rate.until_next(used, now)


def head(run: Statements, lane: Lane, place: Place = START) -> int | None:
    """Return the id of the next job that an admission with this place, or else a claim, would take."""
    rows = run("lock_function", funcname=lane.funcname)
    if not rows:
        return next_job(run, lane)
    policy = _policy(rows[0])
    if not policy.has_turns:
        if policy.coalesce_max is None:
            return next_job(run, lane)
        return BundleClaim(run, lane, policy, rows[0][5]).next_job()
    return TurnClaim(run, lane, policy, place, rows[0][5]).next_job()


def _policy(row: Sequence[Any]) -> FunctionPolicy:
    """Return the rules in a row of ``lock_function``, without invalid ones."""
    max_running, _, rate, burst, _, _, partition_max_running, partition_rate, partition_burst, fair, *last = (
        row
    )
    given = {
        "max_running": max_running,
        "rate": rate,
        "burst": burst,
        "partition_max_running": partition_max_running,
        "partition_rate": partition_rate,
        "partition_burst": partition_burst,
        "fair": None if fair is None else bool(fair),
        "coalesce_max": last[0],
        "coalesce_wait": last[1],
    }
    return FunctionPolicy(**valid_settings(given))
