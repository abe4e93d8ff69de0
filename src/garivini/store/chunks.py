"""Splits rows into parts of one statement each."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from garivini.model.job import Handle
from garivini.model.pacing import BATCH_BYTES
from garivini.store.values import check_values

#: Maximum number of rows in one statement. For a list of more ids, MariaDB does not use the key.
CHUNK: Final = 1000


def chunks(
    items: list[int], sizes: Sequence[int] | None = None, maximum: int = BATCH_BYTES
) -> Iterator[list[int]]:
    """Split into parts of at most ``CHUNK`` items.

    With ``sizes``, in bytes, the items are indices into it, and a part has at most ``maximum`` bytes, or
    ``BATCH_BYTES`` if that is less. A larger item is a part by itself.
    """
    maximum = min(maximum, BATCH_BYTES)
    if sizes is None or sum(sizes) <= maximum:
        for start in range(0, len(items), CHUNK):
            yield items[start : start + CHUNK]
        return
    part: list[int] = []
    total = 0
    for item in items:
        if part and (len(part) == CHUNK or total + sizes[item] > maximum):
            yield part
            part, total = [], 0
        part.append(item)
        total += sizes[item]
    if part:
        yield part


def by_attempt(handles: Iterable[Handle]) -> Iterator[tuple[int, list[int]]]:
    """Group ids by attempt, sorted and in parts. Handles without an attempt are omitted."""
    groups: dict[int, list[int]] = {}
    for jobid, _, attempt in handles:
        if attempt is not None:
            groups.setdefault(attempt, []).append(jobid)
    for attempt, jobids in sorted(groups.items()):
        check_values({"jobids": jobids})
        for part in chunks(sorted(jobids)):
            yield attempt, part
