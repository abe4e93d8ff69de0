"""Writes batches, and splits a batch on errors: an item that cannot be written delays only itself.

A batch is written in one transaction. If that fails, rows that other transactions have locked are left out,
and items that the database refuses are found by halving the batch. The caller defers those, each with its own
backoff.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias, TypeVar

from garivini.errors import (
    ConflictError,
    GariviniError,
    OutcomeUnknownError,
    SchemaError,
    UnreachableError,
    UsageError,
)

T = TypeVar("T")

#: Maximum items in one transaction.
BATCH: Final = 1000
#: Errors that concern all writes to a database, not one item.
OUTAGES: Final = (UnreachableError, OutcomeUnknownError, SchemaError)
#: Seconds after a lock conflict during which no write waits for locks.
_CAUTION: Final = 10.0
#: Maximum seconds for splitting a batch. Items that are not written by then count as failed.
_SPLITTING: Final = 1.0

#: Writes some items in one transaction. If a set is given, rows that another transaction has locked are not
#: changed, and the ids of their jobs are added to it.
Write: TypeAlias = Callable[[list[T], set[int] | None], None]


def is_unfit(error: Exception) -> bool:
    """Return whether an error means that the item itself is invalid, so that it fails each time."""
    return isinstance(error, UsageError) or not isinstance(error, GariviniError)


class BatchWriter:
    """Writes batches to one database.

    Args:
        locks_rows: whether the database's transactions lock single rows. If not, each lock delays all items.
        monotonic: returns the monotonic time.

    """

    def __init__(self, monotonic: Callable[[], float], *, locks_rows: bool) -> None:
        self._monotonic = monotonic
        self._locks_rows = locks_rows
        self._cautious_until = 0.0  # monotonic

    def concerns_all(self, error: Exception) -> bool:
        """Return whether an error concerns all writes to the database."""
        return isinstance(error, OUTAGES) or (isinstance(error, ConflictError) and not self._locks_rows)

    def write(
        self, items: Sequence[T], write: Write[T], jobid: Callable[[T], int]
    ) -> list[tuple[T, Exception]]:
        """Write items; return those that could not be written, each with the reason.

        The reason is a ``ConflictError`` if another transaction has locked the row.

        Raises:
            GariviniError: one that concerns all writes; some of the items may have been written.

        """
        if self._monotonic() >= self._cautious_until:
            try:
                write(list(items), None)
            except Exception as error:
                self._classify(error)
            else:
                return []
        return self._write_split(list(items), write, jobid)

    def _classify(self, error: Exception) -> None:
        """Raise an error that concerns all writes. After a lock conflict, wait for no lock for a while."""
        if self.concerns_all(error):
            raise error
        if isinstance(error, ConflictError):
            self._cautious_until = self._monotonic() + _CAUTION

    def _write_split(
        self, items: list[T], write: Write[T], jobid: Callable[[T], int]
    ) -> list[tuple[T, Exception]]:
        failed: list[tuple[T, Exception]] = []
        stop = self._monotonic() + _SPLITTING
        parts = [items]
        while parts:
            part = parts.pop()
            locked: set[int] = set()
            try:
                write(part, locked)
            except Exception as error:
                self._classify(error)
                if self._monotonic() > stop:
                    return failed + [(item, error) for rest in (part, *parts) for item in rest]
                half = len(part) // 2
                if half:
                    parts += [part[half:], part[:half]]
                else:
                    failed.append((part[0], error))
                continue
            if locked:
                conflict = ConflictError("another transaction has locked its row")
                self._classify(conflict)
                failed += [(item, conflict) for item in part if jobid(item) in locked]
        return failed
