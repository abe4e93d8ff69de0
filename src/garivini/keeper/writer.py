"""Writes of groups that are split on errors: an item that cannot be written delays only itself.

A group is written in one transaction. If that fails, rows that other transactions have locked are left out,
and items that the database refuses are found by halving. The caller defers those, each with its own backoff.
"""

import time
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

#: Errors that concern all writes, and not one item.
OUTAGES: Final = (UnreachableError, OutcomeUnknownError, SchemaError)
#: Seconds after a lock conflict during which no write waits for locks.
_CAUTION: Final = 10.0
#: Maximum seconds for splitting a group; the rest of it counts as failed.
_TAKING_APART: Final = 1.0

#: Writes some items in one transaction. If a set is given, rows that another transaction has locked are not
#: changed, and the ids of their jobs are added to it.
Write: TypeAlias = Callable[[list[T], set[int] | None], None]


def is_unfit(error: Exception) -> bool:
    """Return whether an error means that the item itself is invalid and fails each time."""
    return isinstance(error, UsageError) or not isinstance(error, GariviniError)


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
