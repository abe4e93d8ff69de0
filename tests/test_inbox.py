"""Batches of writes that are split, and deferred items."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garivini.errors import ConflictError, RefusedError, UnreachableError, UsageError
from garivini.keeper.batch_writer import BatchWriter
from garivini.keeper.inbox import Inbox


class Table:
    """Takes numbers, but for those that are wrong or locked."""

    def __init__(self, *, wrong: set[int] = frozenset(), locked: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        self.wrong = wrong
        self.locked = locked
        self.written: list[int] = []
        self.calls = 0
        self.error: Exception = UsageError("wrong")

    def write(self, items: list[int], locked: set[int] | None) -> None:
        self.calls += 1
        if locked is None and self.locked.intersection(items):
            raise ConflictError("locked")
        if self.wrong.intersection(items).difference(self.locked):
            raise self.error
        if locked is not None:
            locked |= self.locked.intersection(items)
        self.written += [item for item in items if item not in self.locked]


def write(table: Table, items: list[int], writer: BatchWriter | None = None) -> dict[int, type[Exception]]:
    writer = writer or BatchWriter(time.monotonic, locks_rows=True)
    return {item: type(error) for item, error in writer.write(items, table.write, lambda item: item)}


@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)))
def test_write_returns_what_is_wrong_or_locked_and_writes_all_else(wrong: set[int], locked: set[int]) -> None:
    table = Table(wrong=wrong, locked=locked)
    failed = write(table, list(range(30)))
    expected = {item: UsageError for item in wrong if item < 30} | {
        item: ConflictError for item in locked if item < 30
    }
    assert failed == expected
    assert sorted(table.written) == [item for item in range(30) if item not in expected]


def test_write_takes_one_call_where_nothing_is_in_the_way() -> None:
    table = Table()
    assert write(table, list(range(1000))) == {}
    assert table.calls == 1


def test_write_finds_one_wrong_item_by_halves() -> None:
    table = Table(wrong={700})
    assert write(table, list(range(1000))) == {700: UsageError}
    assert table.calls < 25


def test_write_waits_for_no_lock_for_a_while_after_a_conflict() -> None:
    now = 0.0
    writer = BatchWriter(lambda: now, locks_rows=True)
    table = Table(locked={3})
    assert write(table, [1, 2, 3], writer) == {3: ConflictError}
    assert table.calls == 2
    write(table, [3, 4], writer)
    assert table.calls == 3
    now += 60
    table.locked = set()
    write(table, [3], writer)
    assert table.calls == 4


@pytest.mark.parametrize(
    ("error", "locks_rows"), [(UnreachableError("away"), True), (ConflictError("locked"), False)]
)
def test_write_raises_what_concerns_all(error: Exception, locks_rows: bool) -> None:
    table = Table(wrong={1})
    table.error = error
    with pytest.raises(type(error)):
        write(table, [1, 2], BatchWriter(time.monotonic, locks_rows=locks_rows))


def test_write_gives_up_in_time_where_all_is_refused() -> None:
    now = itertools.count(0.0, 0.1)
    table = Table(wrong=set(range(1000)))
    table.error = RefusedError("read-only")
    writer = BatchWriter(lambda: next(now), locks_rows=True)
    assert len(write(table, list(range(1000)), writer)) == 1000
    assert table.calls < 20


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_defer_makes_an_item_due_later_each_time_and_hasten_immediately(tries: list[int]) -> None:
    inbox: Inbox[list[int]] = Inbox()
    items = [[number] for number in range(len(tries))]
    for item, count in zip(items, tries, strict=True):
        for _ in range(count):
            inbox.defer(item, UsageError(), 0.0)
            inbox.take_due(1e9, 1)
        inbox.defer(item, UsageError(), 0.0)
        inbox.take_due(1e9, 1)
    for item in items:
        inbox.defer(item, UsageError(), 0.0)
    assert inbox.take_due(0.1, 100) == []
    inbox.hasten(0.1)
    assert sorted(inbox.take_due(0.1, 100)) == items
    assert inbox.next_due() == float("inf")


def test_put_back_makes_items_first_again() -> None:
    inbox = Inbox([1, 2, 3, 4])
    taken = inbox.take(2)
    inbox.put(5)
    inbox.put_back(taken)
    assert inbox.take(9) == [1, 2, 3, 4, 5]
