"""What operators see and do: jobs, counts, retries: alike in every kind of database."""

import pytest

from garivini.model.job import Handle
from garivini.model.limits import NEVER
from garivini.model.state import State
from garivini.store.database import Database
from tests.store.conformance.jobs import (
    HELD,
    LEASE,
    NOON,
    claim_one,
    job,
    lane,
    leased_until,
    listed,
    put,
    settle,
    stored,
)
from tests.store.conftest import Backend, Clock


def test_retry_makes_a_job_due_now_and_forgives_its_failures(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    jobid = put(database)
    settle(database, claim_one(database), "parked", message="why")
    clock.advance(9)
    assert database.retry(jobid)
    row = stored(database, jobid)
    assert (row.state, row.run_after, row.failcount, row.crashes) == (State.WAITING, NOON + 9, 0, 0)
    assert [record.message for record in database.failures(jobid)] == ["why"]
    assert claim_one(database).attempt == 2


def test_retry_makes_a_delayed_job_due_now(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    jobid = put(database, delay=1000)
    assert database.retry(jobid)
    assert stored(database, jobid).run_after == NOON


@pytest.mark.parametrize("state", HELD)
def test_retry_refuses_a_held_job(database: Database, clock: Clock, state: State) -> None:
    clock.set(NOON)
    lapsed = leased_until(database, clock, state)
    before = stored(database, lapsed.jobid)
    assert not database.retry(lapsed.jobid)
    assert stored(database, lapsed.jobid) == before


def test_retry_refuses_a_job_that_is_gone(database: Database) -> None:
    assert not database.retry(999_999)


def test_get_of_an_unknown_job_is_none(database: Database) -> None:
    assert database.get(999_999) is None
    assert database.failures(999_999) == []


def test_jobs_returns_pages_by_id(database: Database) -> None:
    jobids = [answer.jobid for answer in database.insert([job() for _ in range(7)])]
    assert listed(database, limit=3) == jobids[:3]
    assert listed(database, limit=3, after=jobids[2]) == jobids[3:6]
    assert listed(database, limit=3, after=jobids[6]) == []


def test_jobs_filters_by_function_state_and_failures(
    database: Database, backend: Backend, clock: Clock
) -> None:
    clock.set(NOON)
    failed, parked, crashed, fresh = (put(database) for _ in range(4))
    other = put(database, funcname="g")
    settle(database, Handle(failed, 1), "failed")
    settle(database, Handle(parked, 1), "parked")
    backend.execute(f"UPDATE job SET crashes = 1 WHERE jobid = {crashed}")
    assert listed(database, funcname="g") == [other]
    assert listed(database, state=State.DEAD) == [parked]
    assert listed(database, state=State.WAITING) == [failed, crashed, fresh, other]
    assert listed(database, failed=True) == [failed, parked, crashed]
    assert listed(database, failed=True, funcname="g") == []
    assert listed(database, funcname="h") == []


def test_counts_are_by_function_and_state(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    database.insert([job(delay=3), job(delay=2), job(funcname="g")])
    settle(database, Handle(put(database), 1), "parked")
    database.claim(lane("g"), limit=1, lease=LEASE)
    assert database.counts() == [
        ("f", State.WAITING, 2, NOON + 2),
        ("f", State.DEAD, 1, NEVER),
        ("g", State.LEASED, 1, NOON + LEASE + 1),
    ]


def test_waiting_counts_due_delayed_and_backed_off_jobs(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    assert database.waiting() == (0, 0, 0)
    jobs = [job(), job(funcname="g"), job(), job(delay=1), job(delay=60)]
    failed, parked, *_ = database.insert(jobs)
    settle(database, Handle(failed.jobid, 1), "failed")
    settle(database, Handle(parked.jobid, 1), "parked")
    assert database.waiting() == (1, 2, 1)
    clock.set(NOON + 1)
    assert database.waiting() == (2, 1, 1)


def test_clock_is_that_of_the_database(database: Database, clock: Clock) -> None:
    clock.set(NOON + 0.25)
    assert database.clock() == pytest.approx(NOON + 0.25, abs=0.001)
