"""What happens to a lease that ran out: the decision, pure.

The whole protocol is in ``docs/explanation/leases.md``.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from garivini.job import State

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
class Bump:
    """The attempt is over: claim the job again under the next one and submit it."""

    #: Its holder had renewed, so it died with the job.
    crashed: bool = False


Step: TypeAlias = Extend | Bump


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
            # Bumping would let a slow queue chase its own tail.
            return Extend(State.LEASED, lease + 1, queued=True)
        case Found.STRANDED, _:
            # The old copy, should a worker come after all, is past its lease and asks before it starts.
            return Bump()
        case Found.UNKNOWN, State.LEASED:
            return Bump(crashed=renews and delivered)
        case Found.UNKNOWN, State.SUSPECT:
            return Bump(crashed=True)
        case Found.RUNNING, State.LEASED if not renews:
            # A worker that knows nothing of leases, or a mixed crowd: it may take its time.
            return Extend(State.LEASED, lease + 1) if age < deadline else Bump()
        case Found.RUNNING, State.SUSPECT:
            return Bump(crashed=True)
        case _:
            # The first strike. One alone is wrong without any fault: a copy that waited is picked up just
            # before its lease ends and renews a third of a lease later.
            return Extend(State.SUSPECT, lease // 3 + 2)
