"""Renewals: alike in every kind of database."""

import pytest

from garivini.model.job import Handle
from garivini.model.limits import NEVER
from garivini.model.state import State
from garivini.store.database import Database
from tests.store.conformance.jobs import (
    HELD,
    LEASE,
    NOON,
    change,
    claim,
    claim_one,
    job,
    leased_until,
    put,
    stored,
)
from tests.store.conftest import Backend, Clock


@pytest.mark.parametrize("state", HELD)
def test_renew_ends_the_lease_later_and_marks_the_job_running(
    database: Database, clock: Clock, state: State
) -> None:
    clock.set(NOON)
    lapsed = leased_until(database, clock, state)
    handle = Handle(lapsed.jobid, database.dbid, 1)
    assert database.renew([handle], lease=30) == {handle}
    row = stored(database, lapsed.jobid)
    assert (row.state, row.run_after) == (State.RUNNING, NOON + LEASE + 1 + 31)


@pytest.mark.parametrize(
    "how",
    [
        "attempt = 2",
        f"state = {State.WAITING}",
        f"state = {State.DEAD}, run_after = {NEVER}",
        None,
    ],
)
def test_renew_ignores_a_job_held_by_another_attempt(
    database: Database, backend: Backend, clock: Clock, how: str | None
) -> None:
    clock.set(NOON)
    put(database)
    claimed = claim_one(database)
    change(backend, how)
    before = database.get(claimed.jobid)
    clock.advance(1)
    assert database.renew([claimed.handle], lease=LEASE) == set()
    assert database.get(claimed.jobid) == before


def test_renew_of_many_returns_those_that_still_hold_their_job(database: Database) -> None:
    answers = database.insert([job() for _ in range(1200)])
    handles = {taken.handle for _ in range(2) for taken in claim(database, 1000)}
    assert len(handles) == 1200
    gone = {answer.jobid for answer in answers[::7]}
    database.complete(gone)
    kept = database.renew(handles, lease=LEASE)
    assert kept == {handle for handle in handles if handle.jobid not in gone}


def test_renew_twice_within_a_second_keeps_the_handle(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    put(database)
    handle = claim_one(database).handle
    assert database.renew([handle], lease=LEASE) == {handle}
    assert database.renew([handle], lease=LEASE) == {handle}


def test_renew_takes_handles_of_several_attempts(database: Database) -> None:
    put(database)
    database.release([claim_one(database)])
    put(database)
    handles = {taken.handle for taken in claim(database)}
    assert {handle.attempt for handle in handles} == {1, 2}
    assert database.renew(handles, lease=LEASE) == handles
