"""The keeper: after a large batch, outcomes wait for more, and none waits for long."""

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
    """The batches that were committed."""
    return Queue()


@pytest.fixture
def keeper(database: Database, committed: "Queue[list[Execution]]") -> Iterator[Keeper]:
    """A keeper whose thread is not running yet."""
    keeper = Keeper(
        database,
        on_committed=committed.put,
        on_checked=lambda execution, holds: None,
        take_back=lambda execution: False,
        on_given_back=lambda executions: None,
    )
    yield keeper
    keeper.stop()


@pytest.fixture
def ended(database: Database) -> Callable[[int], list[Execution]]:
    """Makes the given number of executions that have succeeded."""

    def make(count: int) -> list[Execution]:
        new = replace(new_job("f", b""), lease=60)
        answers = database.insert([new] * count)
        return [Execution(Job.from_insert(new, answer), cast(Any, None), "me") for answer in answers]

    return make


def end(keeper: Keeper, executions: list[Execution]) -> None:
    for execution in executions:
        keeper.end(execution)


@pytest.fixture
def busy(
    keeper: Keeper, committed: "Queue[list[Execution]]", ended: Callable[[int], list[Execution]]
) -> Keeper:
    """A keeper that has committed a large batch."""
    end(keeper, ended(GATE_SIZE))
    keeper.start()
    assert len(committed.get(timeout=PATIENCE)) == GATE_SIZE
    return keeper


def test_end_after_a_large_batch_commits_fewer_outcomes_when_the_wait_is_over(
    busy: Keeper,
    committed: "Queue[list[Execution]]",
    ended: Callable[[int], list[Execution]],
    database: Database,
) -> None:
    end(busy, ended(1))
    assert len(committed.get(timeout=PATIENCE)) == 1
    assert database.jobs() == []


def test_end_after_a_large_batch_waits_for_as_many_outcomes(
    busy: Keeper, committed: "Queue[list[Execution]]", ended: Callable[[int], list[Execution]]
) -> None:
    busy._outcomes._gate.until = time.monotonic() + 3600
    executions = ended(GATE_SIZE)
    end(busy, executions[1:])
    busy.read_functions()  # which wakes the keeper, and is done before commits
    deadline = time.monotonic() + PATIENCE
    while busy.functions.policies is None and time.monotonic() < deadline:
        with pytest.raises(Empty):
            committed.get(timeout=0.01)
    assert busy.functions.policies is not None
    end(busy, executions[:1])
    assert len(committed.get(timeout=PATIENCE)) == GATE_SIZE


def test_until_next_is_long_if_nothing_follows_a_large_batch(busy: Keeper) -> None:
    while time.monotonic() < busy._outcomes._gate.until:
        time.sleep(busy._outcomes._gate.until - time.monotonic() + 0.001)
    assert busy._rounds.until_next() > 0.5


def test_end_after_a_small_batch_waits_for_no_others(
    keeper: Keeper, committed: "Queue[list[Execution]]", ended: Callable[[int], list[Execution]]
) -> None:
    end(keeper, ended(GATE_SIZE - 1))
    keeper.start()
    assert len(committed.get(timeout=PATIENCE)) == GATE_SIZE - 1
    keeper._outcomes._gate.until = time.monotonic() + 3600
    end(keeper, ended(1))
    assert len(committed.get(timeout=PATIENCE)) == 1


def test_until_next_is_0_if_the_wait_for_more_outcomes_is_over(
    keeper: Keeper, ended: Callable[[int], list[Execution]]
) -> None:
    """The calls of ``end`` before that time did not wake the keeper."""
    executions = ended(1)
    keeper._outcomes._gate.stored(GATE_SIZE, 0, 0)
    keeper._outcomes._gate.until = time.monotonic() + 0.5
    end(keeper, executions)
    assert keeper._rounds.until_next() <= 0.5
    keeper._outcomes._gate.until = time.monotonic()
    assert keeper._rounds.until_next() == 0
    keeper.start()
