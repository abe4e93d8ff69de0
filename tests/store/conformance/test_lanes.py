"""Lanes: alike in every kind of database."""

from collections.abc import Sequence
from typing import Any

import pytest

from garivini.model.job import Handle
from garivini.model.state import State
from garivini.model.when import Never
from garivini.store.database import Database
from tests.store.conformance.jobs import HELD, LEASE, NOON, job, lane, leased_until, put, settle
from tests.store.conftest import Clock


def lanes(database: Database) -> Sequence[tuple[Any, ...]]:
    return [tuple(found) for found in database.lanes().lanes]


def test_lanes_of_an_empty_database_are_none(database: Database) -> None:
    assert lanes(database) == []


def test_lanes_show_when_their_first_job_is_due(database: Database, clock: Clock) -> None:
    clock.set(NOON + 0.5)
    database.insert([job(delay=delay) for delay in (30, 10, 20)])
    database.insert(
        [job(funcname="g", priority="low", delay=5), job(funcname="g", priority="high", delay=40)]
    )
    put(database, funcname="h")
    database.claim(lane("h"), limit=1, lease=LEASE)
    # A delay is never short, so it is counted from the next whole second.
    assert lanes(database) == [
        ("g", State.WAITING, "high", NOON + 41),
        ("f", State.WAITING, "normal", NOON + 11),
        ("h", State.LEASED, "normal", NOON + LEASE + 1),
        ("g", State.WAITING, "low", NOON + 6),
    ]
    assert database.lanes().now == pytest.approx(NOON + 0.5, abs=0.001)


@pytest.mark.parametrize("state", HELD)
def test_lanes_of_leases_show_when_the_first_ends(database: Database, clock: Clock, state: State) -> None:
    clock.set(NOON)
    leased_until(database, clock, state)
    assert lanes(database) == [("f", state, "normal", NOON + LEASE + 1)]


def test_lanes_leave_out_dead_jobs(database: Database) -> None:
    settle(database, Handle(put(database), 1), "parked")
    settle(database, Handle(put(database, funcname="g"), 1), "rescheduled", when=Never())
    put(database, funcname="h")
    assert [found[0] for found in lanes(database)] == ["h"]


def test_lanes_of_many_functions_are_all_found(database: Database) -> None:
    names = [f"f{number}" for number in range(100)]
    database.insert([job(funcname=name) for name in names])
    assert sorted(found[0] for found in lanes(database)) == sorted(names)
