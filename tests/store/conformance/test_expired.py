"""Leases that ran out: they are extended or reclaimed: alike in every kind of database."""

import pytest

from garivini.model.state import State
from garivini.store.database import Database, Lapsed
from tests.store.conformance.jobs import (
    CHANGES,
    HELD,
    LEASE,
    NOON,
    change,
    claim,
    claim_one,
    job,
    lane,
    leased_until,
    put,
    stored,
)
from tests.store.conftest import Backend, Clock


def test_expired_returns_a_lease_after_its_seconds_and_one(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    put(database, flag="controller")
    claimed = claim_one(database)
    clock.advance(LEASE)
    assert database.expired(lane(state=State.LEASED), limit=10) == []
    clock.advance(1)
    assert database.expired(lane(state=State.LEASED), limit=10) == [
        Lapsed(claimed.jobid, 1, "controller", 0, NOON, LEASE + 1, State.LEASED, funcname="f")
    ]


@pytest.mark.parametrize("state", HELD)
def test_expired_returns_leases_of_its_own_lane_only(database: Database, clock: Clock, state: State) -> None:
    clock.set(NOON)
    leased_until(database, clock, state)
    for other in HELD:
        assert bool(database.expired(lane(state=other), limit=10)) is (other is state)
    assert database.expired(lane("g", state), limit=10) == []
    assert database.expired(lane(state=state, priority="high"), limit=10) == []


def test_expired_returns_leases_in_order_and_to_a_limit(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    database.insert([job() for _ in range(3)])
    taken = []
    for _ in range(3):
        taken.append(claim_one(database).jobid)
        clock.advance(1)
    clock.advance(LEASE)
    found = database.expired(lane(state=State.LEASED), limit=2)
    assert [lapsed.jobid for lapsed in found] == taken[:2]


@pytest.mark.parametrize("state", HELD)
@pytest.mark.parametrize("queued", [False, True])
def test_extend_gives_a_lease_its_new_state_and_end(
    database: Database, clock: Clock, state: State, queued: bool
) -> None:
    clock.set(NOON)
    lapsed = leased_until(database, clock, state)
    clock.advance(4)
    database.extend([(lapsed, State.LEASED, 22, queued)])
    row = stored(database, lapsed.jobid)
    now = NOON + LEASE + 1 + 4
    assert (row.state, row.run_after, row.attempt) == (State.LEASED, now + 22, 1)
    assert row.since == (now if queued else NOON)


@pytest.mark.parametrize("state", HELD)
@pytest.mark.parametrize("crashed", [False, True])
def test_reclaim_claims_the_next_attempt_and_counts_a_crash(
    database: Database, clock: Clock, state: State, crashed: bool
) -> None:
    clock.set(NOON)
    lapsed = leased_until(database, clock, state)
    clock.advance(4)
    (reclaimed,) = database.reclaim([(lapsed, crashed)], lease=30)
    now = NOON + LEASE + 1 + 4
    assert (reclaimed.jobid, reclaimed.attempt, reclaimed.state) == (lapsed.jobid, 2, State.LEASED)
    assert (reclaimed.lease, reclaimed.lease_end, reclaimed.crashes) == (30, now + 31, int(crashed))
    row = stored(database, lapsed.jobid)
    assert (row.attempt, row.state, row.since, row.run_after) == (2, State.LEASED, now, now + 31)


@pytest.mark.parametrize("state", HELD)
@pytest.mark.parametrize("how", CHANGES.values(), ids=CHANGES)
def test_extend_and_reclaim_ignore_a_lease_that_changed_since_it_was_read(
    database: Database, backend: Backend, clock: Clock, state: State, how: str | None
) -> None:
    clock.set(NOON)
    lapsed = leased_until(database, clock, state)
    change(backend, how)
    before = database.get(lapsed.jobid)
    database.extend([(lapsed, State.LEASED, 22, True)])
    assert database.reclaim([(lapsed, True)], lease=30) == []
    assert database.get(lapsed.jobid) == before


def test_reclaim_of_several_does_those_that_still_apply(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    database.insert([job() for _ in range(3)])
    claim(database)
    clock.advance(LEASE + 1)
    lapsed = database.expired(lane(state=State.LEASED), limit=10)
    database.complete([lapsed[1].jobid])
    reclaimed = database.reclaim([(found, False) for found in lapsed], lease=LEASE)
    assert [found.jobid for found in reclaimed] == [lapsed[0].jobid, lapsed[2].jobid]


def test_reclaim_by_two_who_read_the_same_lease_happens_once(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    lapsed = leased_until(database, clock, State.LEASED)
    assert len(database.reclaim([(lapsed, False)], lease=LEASE)) == 1
    assert database.reclaim([(lapsed, False)], lease=LEASE) == []
    assert stored(database, lapsed.jobid).attempt == 2
