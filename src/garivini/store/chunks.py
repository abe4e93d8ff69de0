"""How many rows go into one statement."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from garivini.job import Handle
from garivini.policy import BATCH_BYTES

#: Rows in one statement, at most. Above 1,000 MariaDB gives up the key for a list of ids.
CHUNK: Final = 1000

_T = TypeVar("_T")


def chunks(
    items: Iterable[_T], size: Callable[[_T], int] = lambda item: 0, most: int = BATCH_BYTES
) -> Iterator[list[_T]]:
    """Cut into lists of at most ``CHUNK`` items and ``BATCH_BYTES`` bytes, or fewer."""
    most = min(most, BATCH_BYTES)
    part: list[_T] = []
    total = 0
    for item in items:
        if part and (len(part) == CHUNK or total + size(item) > most):
            yield part
            part, total = [], 0
        part.append(item)
        total += size(item)
    if part:
        yield part


def by_attempt(handles: Iterable[Handle]) -> Iterator[tuple[int, list[int]]]:
    """Group by attempt, ids sorted, in chunks. Nearly all are of attempt 1."""
    groups: dict[int, list[int]] = {}
    for jobid, _, attempt in handles:
        if attempt is not None:
            groups.setdefault(attempt, []).append(jobid)
    for attempt, jobids in sorted(groups.items()):
        for part in chunks(sorted(jobids)):
            yield attempt, part
