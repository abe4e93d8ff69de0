"""Leases: their lengths, and the decision about an expired one.

The protocol is described in ``docs/explanation/leases.md``.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from garivini.errors import UsageError
from garivini.model.limits import MAX_LEASE
from garivini.model.state import State

#: Default seconds of a lease.
LEASE: Final = 60
#: Minimum seconds of a lease.
MIN_LEASE: Final = 3
#: Assumed maximum seconds of the leases of other processes. The leases of the original are this long.
OTHERS_LEASE: Final = 1000
#: Maximum seconds between claiming a job and submitting or releasing it; at most a third of the lease. Until
#: twice this time has passed, an attempt that no server knows is not an orphan: it may still be submitted.
SUBMIT_WITHIN: Final = 3.0

#: Maximum seconds that a job may run on a worker that does not renew.
DEADLINE: Final = 3600
#: Seconds until the servers are asked again about an undecided lease.
ASK_AGAIN: Final = 2


class Found(Enum):
    """The answer of the Gearman servers about an attempt, which they know by its unique."""

    QUEUED = "queued"
    #: Queued on a server on which the function has had no worker for five leases, while another server has a
    #: worker.
    STRANDED = "stranded"
    RUNNING = "running"
    #: Each server has answered that it does not have the attempt, or has not answered for the length of a
    #: lease.
    UNKNOWN = "unknown"
    #: A server that may have it did not answer.
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Extend:
    """The attempt keeps the job in this state, for the given seconds from now."""

    state: State
    seconds: int
    #: Whether a server has the attempt queued. Then the age of the attempt starts again.
    queued: bool = False


@dataclass(frozen=True, slots=True)
class Reclaim:
    """The attempt is over: claim the job again with the next attempt and submit it."""

    #: Whether this counts as a crash: the lease has expired twice, or the server has dropped the job.
    crashed: bool = False


Decision: TypeAlias = Extend | Reclaim


def decide(
    state: State,
    found: Found,
    *,
    age: int,
    lease: int,
    renews: bool = False,
    deadline: int = DEADLINE,
    delivered: bool = False,
) -> Decision:
    """Return what to do with an expired lease.

    Args:
        state: LEASED, RUNNING or SUSPECT.
        found: the answer of the servers.
        age: seconds since the claim, or since a server last had it queued.
        lease: seconds of the lease.
        renews: whether the workers of this function are known to renew.
        deadline: maximum seconds that a job may run on a worker that does not renew.
        delivered: whether the caller submitted this attempt on a connection that still exists. Then a server
            that does not know the attempt did receive it, and dropped it because too many workers died of it.

    """
    match found, state:
        case Found.UNDECIDED, _:
            return Extend(state, ASK_AGAIN)
        case Found.QUEUED, _:
            # If the jobs of a slow queue were reclaimed, the queue would only grow.
            return Extend(State.LEASED, lease + 1, queued=True)
        case Found.STRANDED, _:
            # If a worker receives the old copy later, the lease of that copy is over, so the worker checks
            # the copy before a start.
            return Reclaim()
        case Found.UNKNOWN, State.LEASED:
            return Reclaim(crashed=renews and delivered)
        case Found.UNKNOWN, State.SUSPECT:
            return Reclaim(crashed=True)
        case Found.RUNNING, State.LEASED if not renews:
            # Some workers of this function do not renew. Their jobs may run until the deadline.
            return Extend(State.LEASED, lease + 1) if age < deadline else Reclaim()
        case Found.RUNNING, State.SUSPECT:
            return Reclaim(crashed=True)
        case _:
            # One expired lease is no proof: a copy that has waited may start just before its lease ends, and
            # its first renewal comes up to a third of a lease later.
            return Extend(State.SUSPECT, lease // 3 + 2)


def check_lease(seconds: int) -> None:
    """Check that a lease is long enough to be renewed in time, and not endless.

    Raises:
        UsageError: it is shorter than ``MIN_LEASE`` or longer than a week.

    """
    if not MIN_LEASE <= seconds <= MAX_LEASE:
        raise UsageError(f"a lease is {MIN_LEASE} s to a week, not {seconds}")
