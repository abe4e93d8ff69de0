"""Items that wait to be written, and deferred items, each with its own backoff."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final, Generic, TypeVar

from garivini.errors import ConflictError

T = TypeVar("T")
#: Seconds until a deferred item is retried the first time.
_FIRST: Final = 0.1
#: Maximum seconds between tries of a locked item, and of any other item.
_LONGEST_LOCKED: Final = 1.0
_LONGEST: Final = 30.0


def pause(error: Exception, tries: int) -> float:
    """Return the seconds until an item that failed with this error the given number of times is retried."""
    longest = _LONGEST_LOCKED if isinstance(error, ConflictError) else _LONGEST
    return float(min(longest, _FIRST * 2 ** min(tries, 20)))


class Inbox(Generic[T]):
    """Items that wait to be written, and deferred items.

    Any thread may ``put`` and ``count`` items. All other methods are for the one thread that writes them.
    """

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._items = deque(items)
        #: Adds an item. This is the method of the deque itself, because it is called once per job.
        self.put: Callable[[T], None] = self._items.append
        #: Counts the items that are not deferred. This is the method of the deque itself, like ``put``.
        self.count: Callable[[], int] = self._items.__len__
        self._deferred: list[tuple[float, int, T]] = []
        self._numbers = count()  # decide the order of equal times
        self._tries: dict[int, int] = {}  # number of tries, by the identity of the item

    def __len__(self) -> int:
        """Count the items that are not deferred."""
        return len(self._items)

    @property
    def deferred(self) -> int:
        """Count the deferred items."""
        return len(self._deferred)

    def take(self, maximum: int) -> list[T]:
        """Remove and return the oldest items, without the deferred ones."""
        return [self._items.popleft() for _ in range(min(len(self._items), maximum))]

    def take_due(self, now: float, maximum: int) -> list[T]:
        """Remove and return the deferred items that are due."""
        due: list[T] = []
        while self._deferred and self._deferred[0][0] <= now and len(due) < maximum:
            due.append(heappop(self._deferred)[2])
        return due

    def take_batch(self, now: float, maximum: int) -> list[T]:
        """Remove and return the deferred items that are due, and the oldest of the others.

        ``maximum`` applies to each kind.
        """
        return self.take_due(now, maximum) + self.take(maximum)

    def put_back(self, items: Iterable[T]) -> None:
        """Put items back in front, as if they had not been taken."""
        self._items.extendleft(reversed(list(items)))

    def tries(self, item: T) -> int:
        """Return how often an item has been deferred."""
        return self._tries.get(id(item), 0)

    def defer(self, item: T, error: Exception, now: float) -> None:
        """Defer an item that could not be written, for longer each time."""
        tries = self.tries(item)
        self._tries[id(item)] = tries + 1
        heappush(self._deferred, (now + pause(error, tries), next(self._numbers), item))

    def forget(self, items: Iterable[T]) -> None:
        """Forget how often items were deferred: they are written, or dropped."""
        if self._tries:
            for item in items:
                self._tries.pop(id(item), None)

    def close_batch(
        self,
        batch: Iterable[T],
        failed: Sequence[tuple[T, Exception]],
        now: float,
        *,
        is_final: Callable[[Exception], bool],
    ) -> list[tuple[T, Exception]]:
        """Defer the failed items of a batch, except after final errors, and forget the tries of the others.

        Returns:
            The items that failed with a final error. They are dropped.

        """
        dropped = []
        deferred = set()
        for item, error in failed:
            if is_final(error):
                dropped.append((item, error))
            else:
                self.defer(item, error, now)
                deferred.add(id(item))
        self.forget(item for item in batch if id(item) not in deferred)
        return dropped

    def hasten(self, now: float) -> None:
        """Make all deferred items due."""
        self._deferred = [(min(due, now), number, item) for due, number, item in self._deferred]
        heapify(self._deferred)

    def next_due(self) -> float:
        """Return when the first deferred item is due, infinity if there is none."""
        return self._deferred[0][0] if self._deferred else float("inf")
