"""Where a Controller keeps jobs that may not start yet: in the order of their arrival, by function. Pure."""

from collections import deque
from collections.abc import Callable, Iterator

from garivini.keeper.execution import Run
from garivini.model.lease import LEASE


class Parking:
    """Jobs that wait for the end of others. A function may take as many places as are free.

    Args:
        places: in all.

    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: dict[str, deque[tuple[float, Run]]] = {}

    def __contains__(self, funcname: str) -> bool:
        """Whether jobs of the function wait."""
        return funcname in self._waiting

    def put(self, run: Run, now: float) -> bool:
        """Let a job wait; return whether there is a place. ``now`` is the monotonic time."""
        funcname = run.job.funcname
        if len(self._waiting.get(funcname, ())) >= self._free:
            return False
        self._waiting.setdefault(funcname, deque()).append((now, run))
        self._free -= 1
        return True

    def take(self, may_start: Callable[[Run], bool]) -> Iterator[Run]:
        """Take out what may start, the oldest of each function first, until ``may_start`` says no."""
        for funcname in list(self._waiting):
            yield from self._take_while(funcname, lambda _, run: may_start(run))

    def take_overdue(self, now: float) -> Iterator[Run]:
        """Take out what has waited for a third of its lease: it would have to be renewed."""
        for funcname in list(self._waiting):
            yield from self._take_while(
                funcname, lambda since, run: now - since >= (run.job.lease or LEASE) / 3
            )

    def _take_while(self, funcname: str, condition: Callable[[float, Run], bool]) -> Iterator[Run]:
        waiting = self._waiting[funcname]
        while waiting and condition(*waiting[0]):
            self._free += 1
            yield waiting.popleft()[1]
        if not waiting:
            del self._waiting[funcname]

    def take_all(self) -> Iterator[Run]:
        """Take out everything."""
        yield from self.take(lambda run: True)
