"""Several databases as one queue: where a job goes, and what happens when one of them is in trouble."""

from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from garivini.errors import ConflictError, OutcomeUnknownError, SchemaError, UnreachableError, UsageError
from garivini.model.inserted import Inserted
from garivini.model.job import NewJob
from garivini.model.new_jobs import new_job
from garivini.store.placements import AVOID
from garivini.store.shards import Shards
from tests.databases import sqlite_url

KEYS = [f"key {number}" for number in range(10_000)]


def unopened(*dbids: int) -> Shards:
    return Shards({dbid: f"sqlite:///{dbid}.db" for dbid in dbids})


@cache
def homes(*dbids: int) -> list[int]:
    """Where each key lives when these are the databases."""
    shards = unopened(*dbids)
    return [shards.home("f", key).dbid for key in KEYS]


def jobs(count: int) -> list[NewJob]:
    return [new_job("f", b"") for _ in range(count)]


class MonotonicClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Queue:
    """Databases of which each is a folder that may be missing: then the database cannot be reached."""

    def __init__(self, directory: Path, dbids: list[int]) -> None:
        self._folders = {dbid: directory / str(dbid) for dbid in dbids}
        self.clock = MonotonicClock()
        self.shards = Shards(
            {dbid: f"sqlite:///{folder / 'jobs.db'}" for dbid, folder in self._folders.items()},
            clock=self.clock,
        )

    def repair(self, *dbids: int) -> None:
        for dbid in dbids:
            self._folders[dbid].mkdir()
            sqlite_url(self._folders[dbid])

    def insert(self, count: int = 1) -> list[int]:
        """Insert jobs without a key in one call each; return where they went."""
        return [answer.dbid for _ in range(count) for answer in self.shards.insert(jobs(1))]


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the databases in the order in which they are named, not at random."""
    monkeypatch.setattr("garivini.store.shards.random", SimpleNamespace(shuffle=lambda databases: None))


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Queue]:
    queue = Queue(tmp_path, [1, 2])
    yield queue
    queue.shards.close()


# ---- the home of a key


def test_home_of_a_key_is_the_same_over_processes_and_releases() -> None:
    # Written down: another answer would let a key live twice.
    assert homes(1, 2, 3)[:12] == [3, 2, 3, 2, 3, 1, 1, 3, 1, 3, 1, 3]
    assert homes(1, 2, 3) == homes(3, 2, 1)


def test_home_of_a_key_depends_on_the_function_too() -> None:
    shards = unopened(1, 2)
    assert [shards.home("g", key).dbid for key in KEYS[:100]] != homes(1, 2)[:100]


@pytest.mark.parametrize("dbids", [(1, 2), (1, 2, 3), (1, 2, 3, 4, 5)])
def test_home_spreads_keys_fairly(dbids: tuple[int, ...]) -> None:
    share = len(KEYS) / len(dbids)
    counts = Counter(homes(*dbids))
    assert counts.keys() == set(dbids)
    assert all(0.9 * share < count < 1.1 * share for count in counts.values())


@pytest.mark.parametrize(("before", "added"), [((1, 2), 3), ((1, 2, 3, 4), 5), ((2, 3), 1)])
def test_home_moves_only_the_share_of_an_added_database(before: tuple[int, ...], added: int) -> None:
    moved = [new for old, new in zip(homes(*before), homes(*before, added), strict=True) if old != new]
    assert set(moved) == {added}
    share = len(KEYS) / (len(before) + 1)
    assert 0.9 * share < len(moved) < 1.1 * share


# ---- inserting


def test_insert_keeps_a_key_unique_over_all_databases(two: Queue) -> None:
    two.repair(1, 2)
    for key in KEYS[:5]:
        first, again, later = (
            answer
            for count in (2, 1)
            for answer in two.shards.insert([new_job("f", b"", uniqkey=key) for _ in range(count)])
        )
        assert tuple(first) == tuple(again) == tuple(later)
        assert [first.new, again.new, later.new] == [True, False, False]
        assert first.dbid == two.shards.home("f", key).dbid


def test_insert_spreads_jobs_without_a_key(two: Queue) -> None:
    two.repair(1, 2)
    assert set(two.insert(20)) == {1, 2}


def test_insert_of_jobs_with_and_without_keys_answers_in_order(tmp_path: Path) -> None:
    queue = Queue(tmp_path, [1, 2, 3])
    queue.repair(1, 2, 3)
    mixed = [
        new_job("f", b"%d" % number, uniqkey=f"k{number // 2}" if number % 3 else None)
        for number in range(60)
    ]
    answers = queue.shards.insert(mixed)
    first: dict[str, Inserted] = {}
    for number, (job, answer) in enumerate(zip(mixed, answers, strict=True)):
        found = queue.shards[answer.dbid].get(answer.jobid)
        assert found is not None
        if job.uniqkey is None or first.setdefault(job.uniqkey, answer) is answer:
            assert answer.new
            assert found.arg == b"%d" % number
        else:
            assert not answer.new
            assert tuple(answer) == tuple(first[job.uniqkey])
    assert {answer.dbid for answer in answers} == {1, 2, 3}
    queue.shards.close()


def test_insert_of_no_jobs_touches_no_database(two: Queue) -> None:
    assert two.shards.insert([]) == []


def test_insert_with_one_database_stores_all_there(tmp_path: Path) -> None:
    shards = Shards(sqlite_url(tmp_path))
    answers = shards.insert([new_job("f", b"", uniqkey="k"), new_job("f", b"")])
    assert [answer.dbid for answer in answers] == [1, 1]
    shards.close()


# ---- trouble


@pytest.mark.usefixtures("in_order")
def test_insert_avoids_a_failed_database_for_thirty_seconds_and_then_tries_it(two: Queue) -> None:
    two.repair(2)
    assert two.insert(3) == [2, 2, 2]
    two.repair(1)
    two.clock.now += AVOID - 0.1
    assert two.insert(3) == [2, 2, 2]
    two.clock.now += 0.2
    assert two.insert(3) == [1, 1, 1]
    assert AVOID == 30.0


@pytest.mark.usefixtures("in_order")
def test_insert_avoids_a_database_that_still_fails_again(two: Queue) -> None:
    two.repair(2)
    two.insert()
    two.clock.now += AVOID + 1
    assert two.insert() == [2]
    two.repair(1)
    two.clock.now += AVOID - 1
    assert two.insert() == [2]


@pytest.mark.usefixtures("in_order")
def test_insert_tries_an_avoided_database_rather_than_none(two: Queue) -> None:
    two.repair(2)
    assert two.insert() == [2]
    two.repair(1)
    two.shards[2].close()
    (broken,) = [database for database in two.shards if database.dbid == 2]
    assert broken.complete([1]) == {1}

    def refuse(_: object) -> list[Inserted]:
        raise ConflictError("locked")

    broken.insert = refuse  # type: ignore[method-assign,assignment]
    assert two.insert() == [1]


@pytest.mark.usefixtures("in_order")
def test_insert_reports_an_unknown_outcome_and_avoids_its_database(two: Queue) -> None:
    two.repair(1, 2)
    (lost, _) = two.shards
    insert = lost.insert

    def answer_nothing(_: object) -> list[Inserted]:
        raise OutcomeUnknownError("lost at the commit")

    lost.insert = answer_nothing  # type: ignore[method-assign,assignment]
    with pytest.raises(OutcomeUnknownError):  # in another database it might run twice
        two.insert()
    lost.insert = insert  # type: ignore[method-assign]
    assert two.insert(3) == [2, 2, 2]
    two.clock.now += AVOID + 1
    assert two.insert() == [1]


def test_insert_reports_that_every_database_fails(two: Queue) -> None:
    for _ in range(2):
        with pytest.raises(UnreachableError, match=r"database [12] \(.*\) cannot be opened"):
            two.insert()


@pytest.mark.usefixtures("in_order")
def test_insert_reports_a_database_without_tables_and_does_not_pass_over_it(
    two: Queue, tmp_path: Path
) -> None:
    two.repair(2)
    (tmp_path / "1").mkdir()
    with pytest.raises(SchemaError, match="database 1"):
        two.insert()


def test_insert_of_a_key_whose_home_fails_goes_nowhere_else(two: Queue) -> None:
    two.repair(2)
    at_home = {dbid: next(key for key in KEYS if two.shards.home("f", key).dbid == dbid) for dbid in (1, 2)}
    with pytest.raises(UnreachableError, match="database 1"):
        two.shards.insert([new_job("f", b"", uniqkey=at_home[1])])
    assert two.shards.insert([new_job("f", b"", uniqkey=at_home[2])])[0].dbid == 2
    assert len(two.shards[2].jobs()) == 1


# ---- by id


def test_databases_are_found_by_id_and_in_their_order() -> None:
    shards = unopened(7, 2)
    assert shards[7].dbid == 7
    assert [database.dbid for database in shards] == [7, 2]


def test_an_unknown_id_names_those_that_are_known() -> None:
    with pytest.raises(UsageError, match="there is no database 3 here; there is 7, 2"):
        unopened(7, 2)[3]
