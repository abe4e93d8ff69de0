"""Leases: how long they are, and the decision about one that ran out.

The whole protocol is in ``docs/explanation/leases.md``.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from garivini.errors import UsageError
from garivini.model.limits import MAX_LEASE
from garivini.model.state import State

#: Seconds of a lease, unless told otherwise, and the shortest.
LEASE: Final = 60
MIN_LEASE: Final = 3
#: Assumed maximum seconds of other processes' leases; the original's leases are this long.
OTHERS_LEASE: Final = 1000
#: Seconds within which a claim is submitted or given back, and a third of the lease at most. Nobody may take
#: an attempt that no server knows for lost before twice this time: its submit could be on the way.
SUBMIT_WITHIN: Final = 3.0

#: Seconds for which a job may run under a worker that does not renew.
DEADLINE: Final = 3600
#: Seconds until an undecided lease is asked about again.
ASK_AGAIN: Final = 2


class Found(Enum):
    """What the Gearman servers say of an attempt, asked by its unique."""

    QUEUED = "queued"
    #: Queued where the function has had no worker for five leases, while another server has one.
    STRANDED = "stranded"
    RUNNING = "running"
    #: Every server answered that it does not have it, or has been silent for a lease.
    UNKNOWN = "unknown"
    #: A server that may have it did not answer.
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Extend:
    """The attempt keeps the job: in ``state``, for so many seconds from now."""

    state: State
    seconds: int
    #: A server has it queued: the time without a start counts anew.
    queued: bool = False


@dataclass(frozen=True, slots=True)
class Reclaim:
    """The attempt is over: claim the job again under the next one and submit it."""

    #: Its holder had renewed, so it died with the job.
    crashed: bool = False


Step: TypeAlias = Extend | Reclaim


def decide(
    state: State,
    found: Found,
    *,
    age: int,
    lease: int,
    renews: bool = False,
    deadline: int = DEADLINE,
    delivered: bool = False,
) -> Step:
    """Return what to do with a lease that ran out.

    Args:
        state: LEASED, RUNNING or SUSPECT.
        found: what the servers say.
        age: seconds since the claim, or since a server last said "queued".
        lease: seconds.
        renews: whether workers of this function are known to renew.
        deadline: seconds that a worker which does not renew may take.
        delivered: whether the one who asks submitted this attempt on the connection that it still has. A
            server that says "unknown" then had it and lost it with its workers.

    """
    match found, state:
        case Found.UNDECIDED, _:
            return Extend(state, ASK_AGAIN)
        case Found.QUEUED, _:
            # Reclaiming would let a slow queue chase its own tail.
            return Extend(State.LEASED, lease + 1, queued=True)
        case Found.STRANDED, _:
            # The old copy, should a worker come after all, is past its lease and asks before it starts.
            return Reclaim()
        case Found.UNKNOWN, State.LEASED:
            return Reclaim(crashed=renews and delivered)
        case Found.UNKNOWN, State.SUSPECT:
            return Reclaim(crashed=True)
        case Found.RUNNING, State.LEASED if not renews:
            # A worker that knows nothing of leases, or a mixed crowd: it may take its time.
            return Extend(State.LEASED, lease + 1) if age < deadline else Reclaim()
        case Found.RUNNING, State.SUSPECT:
            return Reclaim(crashed=True)
        case _:
            # The first strike. One alone is wrong without any fault: a copy that waited is picked up just
            # before its lease ends and renews a third of a lease later.
            return Extend(State.SUSPECT, lease // 3 + 2)


def check_lease(seconds: int) -> None:
    """Make sure that a lease is long enough to be renewed in time, and ends.

    Raises:
        UsageError: it is shorter than ``MIN_LEASE`` or longer than a week.

    """
    if not MIN_LEASE <= seconds <= MAX_LEASE:
        raise UsageError(f"a lease is {MIN_LEASE} s to a week, not {seconds}")
