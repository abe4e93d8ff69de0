"""Inserts into MariaDB and MySQL, which give the ids of new rows in their own ways."""

import math
from collections.abc import Sequence
from typing import Any, Final

from garivini.store.dialects.dialect import RunStatement, set_times
from garivini.store.dialects.mysql_errors import is_duplicate

#: Below this number of rows RETURNING, one round trip less, is faster than counting the ids from the first.
_FEW: Final = 20


def insert(
    run: RunStatement, rows: Sequence[dict[str, Any]], *, returning: bool, name: str = "insert"
) -> list[tuple[int, int]]:
    """Insert rows by the statement of this name; return id and time of each, in order.

    Args:
        run: runs the statements.
        rows: to insert; they may be changed.
        returning: whether the server has INSERT ... RETURNING.
        name: of the statement.

    """
    if returning and len(rows) < _FEW:
        return sorted(run(f"{name}_returning", rows=rows))
    # Read now and not when connecting: growing a cluster changes the step.
    ((time, step),) = run("clock")
    now = int(time)
    set_times(rows, now, math.ceil(time))
    first = run(name, rows=rows)
    return [(first + number * step, now) for number in range(len(rows))]


def insert_keyed(
    run: RunStatement, rows: Sequence[dict[str, Any]], *, returning: bool
) -> list[tuple[int, int, str, str]]:
    """Insert rows whose unique keys have no live job; return id, time, function and key of the new ones."""
    first = {(row["funcname"], row["uniqkey"]): row for row in reversed(rows)}
    return _insert_or_halve(run, list(reversed(first.values())), returning=returning)


def _insert_or_halve(
    run: RunStatement, rows: Sequence[dict[str, Any]], *, returning: bool
) -> list[tuple[int, int, str, str]]:
    # All rows, or none if a key has a live job: then each half is tried. INSERT IGNORE would be one
    # statement, and would ignore any error.
    try:
        stored = insert(run, rows, returning=returning, name="insert_keyed")
    except Exception as error:
        if not is_duplicate(getattr(error, "orig", None) or error):
            raise
        if len(rows) == 1:
            return []
        half = len(rows) // 2
        return _insert_or_halve(run, rows[:half], returning=returning) + _insert_or_halve(
            run, rows[half:], returning=returning
        )
    return [(*new, row["funcname"], row["uniqkey"]) for new, row in zip(stored, rows, strict=True)]
