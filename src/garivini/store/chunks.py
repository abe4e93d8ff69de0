"""How many rows go into one statement."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from garivini.model.job import Handle
from garivini.model.pacing import BATCH_BYTES
from garivini.store.values import check_values

#: Rows in one statement, at most. Above 1,000 MariaDB gives up the key for a list of ids.
CHUNK: Final = 1000


def chunks(
    items: list[int], sizes: Sequence[int] | None = None, most: int = BATCH_BYTES
) -> Iterator[list[int]]:
    """Cut into parts of at most ``CHUNK`` items.

    Where ``sizes`` has the bytes of each, by item, a part has also at most ``BATCH_BYTES`` of them, and at
    most ``most``; an item that is larger goes alone.
    """
    most = min(most, BATCH_BYTES)
    if sizes is None or sum(sizes) <= most:
        for start in range(0, len(items), CHUNK):
            yield items[start : start + CHUNK]
        return
    part: list[int] = []
    total = 0
    for item in items:
        if part and (len(part) == CHUNK or total + sizes[item] > most):
            yield part
            part, total = [], 0
        part.append(item)
        total += sizes[item]
    if part:
        yield part


def by_attempt(handles: Iterable[Handle]) -> Iterator[tuple[int, list[int]]]:
    """Group by attempt, ids sorted, in chunks. Nearly all are of attempt 1."""
    groups: dict[int, list[int]] = {}
    for jobid, _, attempt in handles:
        if attempt is not None:
            groups.setdefault(attempt, []).append(jobid)
    for attempt, jobids in sorted(groups.items()):
        check_values({"jobids": jobids})
        for part in chunks(sorted(jobids)):
            yield attempt, part
