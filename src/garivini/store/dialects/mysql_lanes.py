"""Finds the lanes of a MariaDB or MySQL database by lookups in the lane index."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

from garivini.model.limits import NEVER, PRIORITIES
from garivini.model.state import State
from garivini.store.dialects.dialect import RunStatement

#: Maximum number of places in the lane index that one statement visits.
DIVES: Final = 100

#: A place in the lane index: function, state, priority, time.
_Place: TypeAlias = tuple[str, int, int, int]
_START: Final[_Place] = ("", -1, -1, 0)
#: Greater than every time that the column ``run_after`` can hold.
_END: Final = 2**32


class LaneWalk:
    """Walks from lane to lane along the lane index, starting from the lanes that the last walk found.

    If there is no new lane since then, one statement finds all of them. New lanes are found step by step.
    """

    def __init__(self) -> None:
        #: The end of each lane that the last walk found.
        self._places: list[_Place] = []

    def run(self, run: RunStatement) -> list[tuple[str, int, int, int, float]]:
        """Return the lanes: see ``Dialect.lanes``."""
        due: dict[tuple[str, int, int], int] = {}
        now = 0.0
        ahead = [_START, *self._places]
        asked = set(ahead)
        places: dict[_Place, None] = {}
        while ahead:
            found = [row for part in _parts(ahead) for row in run("lanes", rows=part)]
            ahead = []
            for funcname, state, priority, run_after, time in found:
                now = time
                parked = run_after == NEVER and state < State.DEAD
                if not parked:
                    lane = (funcname, state, priority)
                    due[lane] = min(run_after, due.get(lane, run_after))
                # A parked row is the first of its lane only from 2038 on, or if the lane has no other rows.
                place = (funcname, state, priority, NEVER if parked else _END)
                places[place] = None
                if place not in asked:
                    asked.add(place)
                    ahead.append(place)
        self._places = list(places)
        lanes = [
            (*lane, run_after, now)
            for lane, run_after in due.items()
            if lane[1] < State.DEAD and lane[2] < len(PRIORITIES)
        ]
        return sorted(lanes, key=lambda lane: (lane[2], lane[3]))


def _parts(places: Sequence[_Place]) -> Iterator[list[dict[str, Any]]]:
    """Split places into the rows of one statement each."""
    for start in range(0, len(places), DIVES):
        yield [
            {"funcname": funcname, "state": state, "priority": priority, "run_after": run_after}
            for funcname, state, priority, run_after in places[start : start + DIVES]
        ]
