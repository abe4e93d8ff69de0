"""Converts the values of rows to the types of their columns, whatever another program has stored.

SQLite accepts any value in any column, MariaDB may have names in binary columns, and a PostgreSQL of encoding
SQL_ASCII does not check text. A row with such a value must not stop other rows.
"""

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final


class Undecodable(str):
    """Text that is not UTF-8, with its invalid bytes in hexadecimal."""

    __slots__ = ("raw",)

    raw: bytes


def decode(data: bytes) -> str:
    """Return the text of bytes from a database."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        text = Undecodable(data.decode("utf-8", "backslashreplace"))
        text.raw = bytes(data)
        return text


def readable(value: Any) -> str:
    """Return a value as text to show, which may differ from the stored value."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "backslashreplace")
    return str(value)


def _number(value: Any) -> int:
    """Return a value as a whole number; 0 if it is not one."""
    if isinstance(value, float | Decimal) and math.isfinite(value):
        return int(value)
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    return value if isinstance(value, int) else 0


def _blob(value: Any) -> bytes:
    if isinstance(value, Undecodable):
        return value.raw
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


def _seconds(value: Any) -> float | None:
    """Return a value as a number; None if it is not one."""
    return float(value) if isinstance(value, Decimal) and value.is_finite() else None


_NONE: Final = type(None)
#: The expected types of a column, and the conversion of a value of another type, by the column's letter.
_KINDS: Final[dict[str, tuple[tuple[type, ...], Callable[[Any], Any]]]] = {
    "n": ((int, bool), _number),
    "t": ((str,), readable),
    "b": ((bytes,), _blob),
    "?": ((int, bool, _NONE), lambda value: None if value is None else _number(value)),
    "T": ((str, _NONE), lambda value: None if value is None else readable(value)),
    "F": ((float, int, _NONE), _seconds),
    "B": ((bytes, _NONE), lambda value: None if value is None else _blob(value)),
}


class Columns:
    """The columns of a statement's rows.

    Args:
        letters: one for each column: ``n`` number, ``t`` text, ``b`` bytes; ``?``, ``T`` and ``B`` if NULL is
            allowed; ``F`` a number with a fraction or NULL. A row may have fewer columns.

    """

    __slots__ = ("_kinds",)

    def __init__(self, letters: str) -> None:
        self._kinds = [_KINDS[letter] for letter in letters]

    def read(self, rows: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
        """Return the rows with the right types."""
        # By columns: checking each row takes twice as long, and nearly always there is nothing to convert.
        for column, (kinds, _) in zip(zip(*rows, strict=True), self._kinds, strict=False):
            if not set(map(type, column)).issubset(kinds):
                return [self._read(row) for row in rows]
        return rows

    def _read(self, row: Sequence[Any]) -> Sequence[Any]:
        return [
            value if type(value) in kinds else read(value)
            for value, (kinds, read) in zip(row, self._kinds, strict=False)
        ]


_JOB: Final = Columns("ntBTTnTnnnnnnnnTT")
_KEPT_JOB: Final = Columns("ntTnnnnntBF")
_SCHEDULE: Final = Columns("ttBT?ttntntn????nnTTn?")
_BATCH: Final = Columns("ttnnnnnnTT")
#: The columns of each statement that reads rows that other programs may have written, by its name.
COLUMNS: Final[dict[str, Columns]] = {
    "due": Columns("nnBTTTnnnn?TTt"),
    "identities": Columns("nnntT"),
    "args": Columns("nB"),
    "expired": Columns("nnTnnnntT"),
    "reclaim": _JOB,
    "adopt": _JOB,
    "get": _JOB,
    "jobs": _JOB,
    "match": Columns("n?"),
    "lock_states": Columns("nnn?"),
    "dispatched": Columns("nnnT"),
    "bundle_page": Columns("nnTTnn"),
    "standing": Columns("nnnnn?T?nn"),
    "batch": _BATCH,
    "lock_batch": _BATCH,
    "batches": _BATCH,
    "open_batches": Columns("t"),
    "members_of": Columns("nt"),
    "counts": Columns("tnnnn"),
    "count_put_off": Columns("tnnn"),
    "states": Columns("nn"),
    "functions": Columns("t???T???TF?T?T?T???T??????"),
    "settings": Columns("t???T???TF?T?T?T???T?????TT"),
    "lock_settings": Columns("t???T???TF?T?T?T???T?????TT"),
    "declared": Columns("tT"),
    "lock_function": Columns("?nT?FF?T????"),
    "due_turns": Columns("nnBTTTnnnn?TTt"),
    "waiting_turns": Columns("nt"),
    "in_flight_by_partition": Columns("tn"),
    "partition_rates": Columns("tF"),
    "marks": Columns("tn"),
    "failures": Columns("nnttttt"),
    "reports": Columns("ntnb"),
    "key_rules": Columns("tT?T?"),
    "keyed_row": Columns("nnnnnnnn"),
    "retention": Columns("?"),
    "dead": Columns("nt?"),
    "failure_texts": Columns("nnttt"),
    "funcnames": Columns("nt"),
    "kept_funcnames": Columns("nt"),
    "finished": _KEPT_JOB,
    "kept_jobs": _KEPT_JOB,
    "outbox": Columns("tttTTTBtnn?T"),
    "outbox_sizes": Columns("t?"),
    "arrivals": Columns("t"),
    "due_schedules": Columns("t"),
    "schedules": _SCHEDULE,
    "take_schedule": _SCHEDULE,
    "lock_schedule": _SCHEDULE,
}
