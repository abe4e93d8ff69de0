"""Inserts into MariaDB and MySQL, which give the ids of new rows in their own ways."""

import math
import time
from collections.abc import Sequence
from typing import Any, Final

from garivini.errors import OutcomeUnknownError
from garivini.store.dialects.dialect import RunStatement, set_times, statement_for
from garivini.store.dialects.mysql_errors import is_duplicate, is_null

#: Below this number of rows, RETURNING, which saves a round trip, is faster than counting ids from the first.
FEW: Final = 20


class ServerClock:
    """Estimates the server's time from the last time that was read there."""

    def __init__(self) -> None:
        #: Seconds by which the server's clock is ahead of our monotonic clock.
        self._ahead: float | None = None

    def read(self, run: RunStatement) -> tuple[float, int]:
        """Return the unix time with its fraction and the step between ids."""
        began = time.monotonic()
        ((now, step),) = run("clock")
        self._ahead = now - (began + time.monotonic()) / 2
        return now, step

    def estimate(self) -> int | None:
        """Return the unix time in whole seconds, which is usually right; None if it was never read."""
        return None if self._ahead is None else int(self._ahead + time.monotonic())


def insert(
    run: RunStatement,
    rows: Sequence[dict[str, Any]],
    clock: ServerClock,
    *,
    returning: int,
    name: str = "insert",
) -> list[tuple[int, int]]:
    """Insert rows by the statement of this name; return id and time of each, in order.

    Args:
        run: runs the statements.
        rows: to insert; they may be changed.
        clock: of the server.
        returning: the number of rows below which INSERT ... RETURNING is used; 0 if the server has none.
        name: of the statement.

    """
    wide = "partition" in rows[0]  # for which there is only the statement for many rows
    if len(rows) < returning and not wide:
        stored = sorted(run(f"{name}_returning", rows=rows))
        if len(stored) != len(rows):
            # This can happen in a caller's own session, in autocommit, on a node of Galera: see
            # ``wsrep_retry_autocommit``.
            raise OutcomeUnknownError("the server ran an INSERT again, and has not returned the ids")
        return stored
    if len(rows) == 1 and not wide and (now := clock.estimate()) is not None:
        set_times(rows, now, now + 1)
        try:
            return [(run(f"{name}_at", rows=rows), now)]
        except Exception as error:
            if not is_null(getattr(error, "orig", None) or error):
                raise
    # Read now and not when connecting: growing a cluster changes the step.
    read, step = clock.read(run)
    now = int(read)
    set_times(rows, now, math.ceil(read))
    first = run(statement_for(name, rows), rows=rows)
    return [(first + number * step, now) for number in range(len(rows))]


def insert_keyed(
    run: RunStatement, rows: Sequence[dict[str, Any]], clock: ServerClock, *, returning: int
) -> list[tuple[int, int, str, str]]:
    """Insert rows whose unique keys no job has; return id, time, function and key of the new ones."""
    first = {(row["funcname"], row["uniqkey"]): row for row in reversed(rows)}
    return _insert_or_halve(run, list(reversed(first.values())), clock, returning=returning)


def _insert_or_halve(
    run: RunStatement, rows: Sequence[dict[str, Any]], clock: ServerClock, *, returning: int
) -> list[tuple[int, int, str, str]]:
    # The statement inserts all rows, or none if a key has a job: then each half is tried. INSERT IGNORE would
    # need only one statement, but would ignore every error.
    try:
        stored = insert(run, rows, clock, returning=returning, name="insert_keyed")
    except Exception as error:
        if not is_duplicate(getattr(error, "orig", None) or error):
            raise
        if len(rows) == 1:
            return []
        half = len(rows) // 2
        return _insert_or_halve(run, rows[:half], clock, returning=returning) + _insert_or_halve(
            run, rows[half:], clock, returning=returning
        )
    return [(*new, row["funcname"], row["uniqkey"]) for new, row in zip(stored, rows, strict=True)]
