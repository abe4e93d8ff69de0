"""Attempts that are at Gearman: alike in every kind of database."""

from typing import Any

from garivini.model.job import Handle
from garivini.model.state import State
from garivini.store.database import Database
from tests.store.conformance.jobs import LEASE, NOON, claim_one, lane, put
from tests.store.conftest import Clock


def dispatched(database: Database, **options: Any) -> list[tuple[int, int]]:
    found = database.dispatched(lane(state=State.LEASED), **{"age": 0, **options})
    return [(it.handle.jobid, it.lease_end) for it in found]


def test_dispatched_returns_attempts_by_the_ends_of_their_leases_in_pages(
    database: Database, clock: Clock
) -> None:
    clock.set(NOON)
    expected = []
    for second in range(3):
        put(database)
        expected.append((claim_one(database).jobid, NOON + second + LEASE + 1))
        clock.advance(1)
    assert dispatched(database) == expected
    assert dispatched(database, limit=2) == expected[:2]
    assert dispatched(database, after=expected[1][1]) == expected[1:]
    assert database.dispatched(lane(), age=0)[0][0] == Handle(expected[0][0], database.dbid, 1)


def test_dispatched_leaves_out_attempts_that_may_be_on_their_way(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    put(database)
    old = claim_one(database).jobid
    clock.advance(1)
    put(database)
    young = claim_one(database).jobid
    clock.advance(1)
    assert [jobid for jobid, _ in dispatched(database, age=1)] == [old, young]
    assert [jobid for jobid, _ in dispatched(database, age=2)] == [old]
    assert dispatched(database, age=3) == []


def test_dispatched_returns_only_valid_leases_of_the_lane_that_nobody_has_renewed(
    database: Database, clock: Clock
) -> None:
    clock.set(NOON)
    put(database)
    database.renew([claim_one(database).handle], lease=LEASE)
    put(database, funcname="g")
    database.claim(lane("g"), limit=1, lease=LEASE)
    put(database, delay=9)
    assert dispatched(database) == []
    put(database)
    claim_one(database)
    clock.advance(LEASE)
    assert len(dispatched(database)) == 1
    clock.advance(1)
    assert dispatched(database) == []
