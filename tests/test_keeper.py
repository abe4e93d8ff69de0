"""The keeper: outcomes that come as a crowd are committed together, and none waits for long."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from queue import Empty, Queue
from typing import Any, cast

import pytest
from msgspec.structs import replace

from garivini import Client
from garivini.keeper.execution import Execution
from garivini.keeper.keeper import Keeper
from garivini.model.job import Job
from garivini.model.new_jobs import new_job
from garivini.model.pacing import GATE_SIZE
from garivini.store.database import Database
from tests.databases import sqlite_url
from tests.processes import PATIENCE


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Client(sqlite_url(tmp_path))) as client:
        (database,) = client.shards
        yield database


@pytest.fixture
def committed() -> "Queue[list[Execution]]":
    """The groups that were committed."""
    return Queue()


@pytest.fixture
def keeper(database: Database, committed: "Queue[list[Execution]]") -> Iterator[Keeper]:
    """A keeper whose thread is not running yet."""
    keeper = Keeper(
        database,
        on_committed=committed.put,
        on_checked=lambda run, mine: None,
        take_back=lambda run: False,
        on_given_back=lambda runs: None,
    )
    yield keeper
    keeper.stop()


@pytest.fixture
def ended(database: Database) -> Callable[[int], list[Execution]]:
    """Makes so many runs of jobs that have succeeded."""

    def make(count: int) -> list[Execution]:
        new = replace(new_job("f", b""), lease=60)
        answers = database.insert([new] * count)
        return [Execution(Job.from_insert(new, answer), cast(Any, None), "me") for answer in answers]

    return make


def end(keeper: Keeper, runs: list[Execution]) -> None:
    for run in runs:
        keeper.end(run)


@pytest.fixture
def crowded(
    keeper: Keeper, committed: "Queue[list[Execution]]", ended: Callable[[int], list[Execution]]
) -> Keeper:
    """A keeper that has committed a crowd."""
    end(keeper, ended(GATE_SIZE))
    keeper.start()
    assert len(committed.get(timeout=PATIENCE)) == GATE_SIZE
    return keeper


def test_after_a_crowd_fewer_outcomes_are_committed_when_the_time_for_more_is_over(
    crowded: Keeper,
    committed: "Queue[list[Execution]]",
    ended: Callable[[int], list[Execution]],
    database: Database,
) -> None:
    end(crowded, ended(1))
    assert len(committed.get(timeout=PATIENCE)) == 1
    assert database.jobs() == []


def test_after_a_crowd_outcomes_wait_for_as_many_as_came_the_last_time(
    crowded: Keeper, committed: "Queue[list[Execution]]", ended: Callable[[int], list[Execution]]
) -> None:
    crowded._outcomes._gate.until = time.monotonic() + 3600
    runs = ended(GATE_SIZE)
    end(crowded, runs[1:])
    crowded.read_functions()  # which wakes it, and is done before commits
    deadline = time.monotonic() + PATIENCE
    while crowded.functions.policies is None and time.monotonic() < deadline:
        with pytest.raises(Empty):
            committed.get(timeout=0.01)
    assert crowded.functions.policies is not None
    end(crowded, runs[:1])
    assert len(committed.get(timeout=PATIENCE)) == GATE_SIZE


def test_after_a_crowd_to_which_nothing_more_comes_the_keeper_sleeps(crowded: Keeper) -> None:
    while time.monotonic() < crowded._outcomes._gate.until:
        time.sleep(crowded._outcomes._gate.until - time.monotonic() + 0.001)
    assert crowded._rounds.until_next() > 0.5


def test_few_outcomes_wait_for_no_others(
    keeper: Keeper, committed: "Queue[list[Execution]]", ended: Callable[[int], list[Execution]]
) -> None:
    end(keeper, ended(GATE_SIZE - 1))
    keeper.start()
    assert len(committed.get(timeout=PATIENCE)) == GATE_SIZE - 1
    keeper._outcomes._gate.until = time.monotonic() + 3600
    end(keeper, ended(1))
    assert len(committed.get(timeout=PATIENCE)) == 1


def test_outcomes_whose_time_ran_out_while_the_keeper_did_something_else_are_committed_at_once(
    keeper: Keeper, ended: Callable[[int], list[Execution]]
) -> None:
    """Who ended them before that time did not wake the keeper."""
    runs = ended(1)
    keeper._outcomes._gate.stored(GATE_SIZE, 0, 0)
    keeper._outcomes._gate.until = time.monotonic() + 0.5
    end(keeper, runs)
    assert keeper._rounds.until_next() <= 0.5
    keeper._outcomes._gate.until = time.monotonic()
    assert keeper._rounds.until_next() == 0
    keeper.start()
