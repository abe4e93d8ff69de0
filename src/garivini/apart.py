"""Groups of writes that are split on errors: an item that cannot be written delays only itself.

A group is written in one transaction. If that fails, rows that other transactions have locked are left out,
and items that the database refuses are found by halving. The caller defers those, each with its own backoff.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop, heappush
from typing import Final, Generic, TypeAlias, TypeVar

from garivini.errors import (
    ConflictError,
    GariviniError,
    OutcomeUnknownError,
    SchemaError,
    UnreachableError,
    UsageError,
)

T = TypeVar("T")

#: Errors that concern all writes, and not one item.
OUTAGES: Final = (UnreachableError, OutcomeUnknownError, SchemaError)
#: Seconds after a lock conflict during which no write waits for locks.
_CAUTION: Final = 10.0
#: Maximum seconds for splitting a group; the rest of it counts as failed.
_TAKING_APART: Final = 1.0
#: Seconds until a deferred item is retried: the first wait, the longest while it is locked, and otherwise.
_FIRST: Final = 0.1
_LOCKED: Final = 1.0
_LONGEST: Final = 30.0

#: Writes some items in one transaction. If a set is given, rows that another transaction has locked are not
#: changed, and the ids of their jobs are added to it.
Write: TypeAlias = Callable[[list[T], set[int] | None], None]


def is_unfit(error: Exception) -> bool:
    """Return whether an error means that the item itself is invalid and fails each time."""
    return isinstance(error, UsageError) or not isinstance(error, GariviniError)


def pause(error: Exception, tries: int) -> float:
    """Return the seconds until an item that failed with this error the given number of times is retried."""
    longest = _LOCKED if isinstance(error, ConflictError) else _LONGEST
    return float(min(longest, _FIRST * 2 ** min(tries, 20)))


class Writer:
    """Writes groups to one database.

    Args:
        locks_rows: whether its transactions lock rows. If not, a lock concerns all that is written.

    """

    def __init__(self, *, locks_rows: bool) -> None:
        self._locks_rows = locks_rows
        self._cautious_until = 0.0  # monotonic

    def concerns_all(self, error: Exception) -> bool:
        """Return whether an error concerns all that is written to the database."""
        return isinstance(error, OUTAGES) or (isinstance(error, ConflictError) and not self._locks_rows)

    def write(
        self, items: Sequence[T], write: Write[T], jobid: Callable[[T], int]
    ) -> list[tuple[T, Exception]]:
        """Write items; return those that could not be written, each with the reason.

        A row that another transaction has locked is a ``ConflictError``.

        Raises:
            GariviniError: one that concerns all; some of the items may have been written.

        """
        if time.monotonic() >= self._cautious_until:
            try:
                write(list(items), None)
            except Exception as error:
                self._judge(error)
            else:
                return []
        return self._write_parts(list(items), write, jobid)

    def _judge(self, error: Exception) -> None:
        if self.concerns_all(error):
            raise error
        if isinstance(error, ConflictError):
            self._cautious_until = time.monotonic() + _CAUTION

    def _write_parts(
        self, items: list[T], write: Write[T], jobid: Callable[[T], int]
    ) -> list[tuple[T, Exception]]:
        failed: list[tuple[T, Exception]] = []
        stop = time.monotonic() + _TAKING_APART
        parts = [items]
        while parts:
            part = parts.pop()
            left: set[int] = set()
            try:
                write(part, left)
            except Exception as error:
                self._judge(error)
                if time.monotonic() > stop:
                    return failed + [(item, error) for rest in (part, *parts) for item in rest]
                half = len(part) // 2
                if half:
                    parts += [part[half:], part[:half]]
                else:
                    failed.append((part[0], error))
                continue
            if left:
                locked = ConflictError("another transaction has locked its row")
                self._judge(locked)
                failed += [(item, locked) for item in part if jobid(item) in left]
        return failed


class Inbox(Generic[T]):
    """Items that wait to be written, and deferred items.

    One thread may add items while another removes them; all other methods are for the second thread.
    """

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._items = deque(items)
        self._aside: list[tuple[float, int, T]] = []
        self._tries: dict[int, int] = {}  # by the item's identity

    def put(self, item: T) -> None:
        """Add an item."""
        self._items.append(item)

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
