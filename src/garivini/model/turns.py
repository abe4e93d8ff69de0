"""The turns of partitions: how the jobs of a claim are shared out, and the progress of a QueueRunner. Pure.

This is deficit round robin with a quantum of one job. All jobs cost the same, so no deficit is left over.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

_T = TypeVar("_T")


class Position(NamedTuple):
    """A place in a lane, whose jobs are in the order of due times and ids."""

    run_after: int = 0
    jobid: int = 0


class Place(NamedTuple):
    """The progress of the admissions of a lane.

    A QueueRunner passes it to the next admission. An admission with a wrong place is as exact: only the order
    of the partitions begins anew.
    """

    #: The partition that had the last turn; empty: the jobs without one. None: the first one is next.
    partition: str | None = None
    #: Where to go on reading the newest jobs; None: begin with those that became due some seconds ago.
    front: Position | None = None
    #: Where to go on reading all jobs of the lane; None: all have been read.
    sweep: Position | None = Position()
    #: The database's unix time at which the reading of all jobs began.
    swept: float = 0.0


#: The place before the first admission.
START = Place()


def shares(rooms: Mapping[str, int], wanted: int, partitions: int) -> dict[str, int]:
    """Return how many jobs to read of each partition: enough jobs together, if each partition has as many.

    Args:
        rooms: by partition, in the order of their turns, how many jobs of it may be handed out.
        wanted: the number of jobs needed; if it is 0 or less, the result is empty.
        partitions: maximum partitions that get a share.

    """
    if wanted <= 0:
        return {}
    open_ = {partition: room for partition, room in rooms.items() if room > 0}
    share = -(-wanted // max(1, len(open_)))
    return {partition: min(room, share) for partition, room in list(open_.items())[:partitions]}


def in_rounds(found: Mapping[str, Sequence[_T]], wanted: int) -> list[_T]:
    """Return ``wanted`` of the jobs, one of each partition per round, in the order of the partitions."""
    longest = max(map(len, found.values()), default=0)
    rounds = (jobs[number] for number in range(longest) for jobs in found.values() if number < len(jobs))
    return [job for job, _ in zip(rounds, range(wanted), strict=False)]
