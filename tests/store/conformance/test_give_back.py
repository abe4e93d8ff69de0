"""Leases that end early, releases, and jobs that are given back: alike in every kind of database."""

import pytest

from garivini.model.job import Handle
from garivini.model.limits import NEVER
from garivini.model.state import State
from garivini.store.database import Database
from tests.store.conformance.jobs import LEASE, NOON, claim_one, lane, leased_until, put, stored
from tests.store.conftest import Backend, Clock


def test_release_lets_a_job_wait_at_its_old_time(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    jobid = put(database, delay=5)
    clock.advance(100)
    claimed = claim_one(database)
    database.release([claimed])
    row = stored(database, jobid)
    assert (row.state, row.run_after, row.attempt) == (State.WAITING, NOON + 5, 1)
    assert claim_one(database).attempt == 2


def test_release_ignores_a_job_that_another_attempt_holds_or_that_runs(
    database: Database, clock: Clock
) -> None:
    clock.set(NOON)
    put(database)
    first = claim_one(database)
    database.release([first])
    claim_one(database)
    before = stored(database, first.jobid)
    database.release([first])
    assert stored(database, first.jobid) == before
    database.renew([Handle(first.jobid, database.dbid, 2)], lease=LEASE)
    running = stored(database, first.jobid)
    database.release([running])
    assert stored(database, first.jobid) == running


def test_end_early_ends_a_lease_that_nobody_has_prolonged(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    put(database)
    claimed = claim_one(database)
    clock.advance(3)
    database.end_early([claimed.handle], lease=LEASE)
    row = stored(database, claimed.jobid)
    assert (row.run_after, row.state, row.attempt) == (NOON + 3, State.LEASED, 1)
    assert [found.jobid for found in database.expired(lane(state=State.LEASED), limit=10)] == [row.jobid]


@pytest.mark.parametrize(
    "change",
    [
        f"state = {State.RUNNING}",
        f"state = {State.SUSPECT}",
        "attempt = 2",
        f"run_after = {NOON + LEASE + 3}",
        f"run_after = {NOON + 5}, state = {State.WAITING}",
        f"run_after = {NEVER}, state = {State.DEAD}",
    ],
)
def test_end_early_ignores_a_job_held_by_another_attempt(
    database: Database, backend: Backend, clock: Clock, change: str
) -> None:
    clock.set(NOON)
    put(database)
    claimed = claim_one(database)
    backend.execute(f"UPDATE job SET {change}")
    before = stored(database, claimed.jobid)
    database.end_early([claimed.handle], lease=LEASE)
    assert stored(database, claimed.jobid) == before


@pytest.mark.parametrize("state", [State.LEASED, State.RUNNING, State.SUSPECT])
def test_give_back_lets_a_job_wait_at_once(database: Database, clock: Clock, state: State) -> None:
    clock.set(NOON)
    lapsed = leased_until(database, clock, state)
    database.give_back([Handle(lapsed.jobid, database.dbid, 1)])
    row = stored(database, lapsed.jobid)
    assert (row.state, row.run_after, row.attempt) == (State.WAITING, NOON + LEASE + 1, 1)
    assert claim_one(database).attempt == 2


@pytest.mark.parametrize(
    "change",
    ["attempt = 2", f"run_after = {NOON + 5}, state = {State.WAITING}", f"state = {State.DEAD}"],
)
def test_give_back_ignores_a_job_held_by_another_attempt(
    database: Database, backend: Backend, clock: Clock, change: str
) -> None:
    clock.set(NOON)
    put(database)
    claimed = claim_one(database)
    backend.execute(f"UPDATE job SET {change}")
    before = stored(database, claimed.jobid)
    database.give_back([claimed.handle])
    assert stored(database, claimed.jobid) == before


def test_mark_leased_takes_back_a_renewal_of_a_job_that_will_not_start(
    database: Database, clock: Clock
) -> None:
    clock.set(NOON)
    put(database)
    claimed = claim_one(database)
    clock.set(NOON + 10)
    database.renew([claimed.handle], lease=LEASE)
    database.mark_leased([claimed.handle])
    row = stored(database, claimed.jobid)
    assert (row.state, row.run_after, row.attempt) == (State.LEASED, NOON + 10 + LEASE + 1, 1)
    database.end_early([claimed.handle], lease=LEASE)
    assert stored(database, claimed.jobid).run_after == NOON + 10


@pytest.mark.parametrize(
    "change",
    [
        f"attempt = 2, state = {State.RUNNING}",
        f"state = {State.SUSPECT}",
        f"run_after = {NOON + 5}, state = {State.WAITING}",
        f"state = {State.DEAD}",
    ],
)
def test_mark_leased_ignores_a_job_held_by_another_attempt(
    database: Database, backend: Backend, clock: Clock, change: str
) -> None:
    clock.set(NOON)
    put(database)
    claimed = claim_one(database)
    backend.execute(f"UPDATE job SET {change}")
    before = stored(database, claimed.jobid)
    database.mark_leased([claimed.handle])
    assert stored(database, claimed.jobid) == before
