"""Keeps the jobs of a Controller that may not start yet, by function, in order of arrival. No I/O."""

from collections import deque
from collections.abc import Callable, Iterator

from garivini.keeper.execution import Execution
from garivini.model.lease import LEASE


class WaitingRoom:
    """Jobs that wait for a free call. A function may have as many places as are free.

    Args:
        places: maximum jobs of all functions together.

    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: dict[str, deque[tuple[float, Execution]]] = {}

    def __contains__(self, funcname: str) -> bool:
        """Return whether jobs of the function wait."""
        return funcname in self._waiting

    def add(self, run: Execution, now: float) -> bool:
        """Let a job wait; return False if there is no place for it. ``now`` is the monotonic time."""
        funcname = run.job.funcname
        if len(self._waiting.get(funcname, ())) >= self._free:
            return False
        self._waiting.setdefault(funcname, deque()).append((now, run))
        self._free -= 1
        return True

    def remove_startable(self, may_start: Callable[[Execution], bool]) -> Iterator[Execution]:
        """Remove and yield the jobs of each function, oldest first, until ``may_start`` refuses one."""
        for funcname in list(self._waiting):
            yield from self._remove_while(funcname, lambda _, run: may_start(run))

    def remove_overdue(self, now: float) -> Iterator[Execution]:
        """Remove and yield jobs that have waited for a third of their lease, when it would need a renewal."""
        for funcname in list(self._waiting):
            yield from self._remove_while(
                funcname, lambda since, run: now - since >= (run.job.lease or LEASE) / 3
            )

    def remove_all(self) -> Iterator[Execution]:
        """Remove and yield all jobs."""
        yield from self.remove_startable(lambda run: True)

    def _remove_while(
        self, funcname: str, condition: Callable[[float, Execution], bool]
    ) -> Iterator[Execution]:
        waiting = self._waiting[funcname]
        while waiting and condition(*waiting[0]):
            self._free += 1
            yield waiting.popleft()[1]
        if not waiting:
            del self._waiting[funcname]
