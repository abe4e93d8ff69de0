"""Items that wait to be written, and those that are deferred, each with its own backoff."""

from collections import deque
from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush
from typing import Final, Generic, TypeVar

from garivini.errors import ConflictError

T = TypeVar("T")
#: Seconds until a deferred item is retried: the first wait, the longest while it is locked, and otherwise.
_FIRST: Final = 0.1
_LOCKED: Final = 1.0
_LONGEST: Final = 30.0


def pause(error: Exception, tries: int) -> float:
    """Return the seconds until an item that failed with this error the given number of times is retried."""
    longest = _LOCKED if isinstance(error, ConflictError) else _LONGEST
    return float(min(longest, _FIRST * 2 ** min(tries, 20)))


class Inbox(Generic[T]):
    """Items that wait to be written, and deferred items.

    One thread may add items while another removes them; all other methods are for the second thread.
    """

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._items = deque(items)
        #: Adds an item. The method of the deque itself: it is called once per job.
        self.put: Callable[[T], None] = self._items.append
        self._aside: list[tuple[float, int, T]] = []
        self._tries: dict[int, int] = {}  # by the item's identity

    def __len__(self) -> int:
        """Count the items that are not deferred."""
        return len(self._items)

    @property
    def aside(self) -> int:
        """Count the deferred items."""
        return len(self._aside)

    def take(self, most: int) -> list[T]:
        """Take out the oldest items."""
        return [self._items.popleft() for _ in range(min(len(self._items), most))]

    def take_due(self, now: float, most: int) -> list[T]:
        """Take out deferred items that are due."""
        due: list[T] = []
        while self._aside and self._aside[0][0] <= now and len(due) < most:
            due.append(heappop(self._aside)[2])
        return due

    def put_back(self, items: Iterable[T]) -> None:
        """Put items back in front, as if they had not been taken."""
        self._items.extendleft(reversed(list(items)))

    def tries(self, item: T) -> int:
        """Return how often an item has been deferred."""
        return self._tries.get(id(item), 0)

    def put_aside(self, item: T, error: Exception, now: float) -> None:
        """Defer an item that could not be written, for longer each time."""
        tries = self.tries(item)
        self._tries[id(item)] = tries + 1
        heappush(self._aside, (now + pause(error, tries), id(item), item))

    def forget(self, items: Iterable[T]) -> None:
        """Forget how often items were deferred: they are written, or given up."""
        if self._tries:
            for item in items:
                self._tries.pop(id(item), None)

    def hasten(self, now: float) -> None:
        """Make all deferred items due."""
        self._aside = [(min(due, now), number, item) for due, number, item in self._aside]
        heapify(self._aside)

    def next_due(self) -> float:
        """Return when the first deferred item is due; infinity if there is none."""
        return self._aside[0][0] if self._aside else float("inf")
