"""Jobs that another program puts off or parks, by their time alone: alike in every kind of database."""

from collections.abc import Callable

import pytest

from garivini.model.job import Job
from garivini.model.limits import NEVER
from garivini.model.state import State
from garivini.model.when import Offset
from garivini.store.database import Database
from tests.store.conformance.jobs import (
    HELD,
    LEASE,
    NOON,
    claim,
    claim_one,
    expired_in,
    held_in,
    lane,
    leased_until,
    listed,
    put,
    settle,
    stored,
)
from tests.store.conftest import Backend, Clock


def put_off(database: Database, backend: Backend, clock: Clock, state: State, seconds: int) -> Job:
    """Hold a job in a state, then set its time as a worker of the original does: that column alone."""
    taken = held_in(database, clock, state)
    backend.execute(f"UPDATE job SET run_after = {int(clock.time()) + seconds} WHERE jobid = {taken.jobid}")
    return taken


#: What ours do to a row that they take for theirs, by a job as it was claimed.
STEPS: dict[str, Callable[[Database, Job], object]] = {
    "end_early": lambda database, taken: database.end_early([taken.handle], lease=LEASE),
    "end_early of a long lease": lambda database, taken: database.end_early([taken.handle], lease=10_000),
    "release": lambda database, taken: database.release([taken]),
    "give_back": lambda database, taken: database.give_back([taken.handle]),
    "renew": lambda database, taken: database.renew([taken.handle], lease=LEASE),
    "mark_leased and end_early": lambda database, taken: (
        database.mark_leased([taken.handle]),
        database.end_early([taken.handle], lease=10_000),
    ),
    "failed": lambda database, taken: settle(database, taken, "failed", when=Offset(0)),
    "rescheduled": lambda database, taken: settle(database, taken, "rescheduled", when=Offset(0)),
    "crashed": lambda database, taken: settle(database, taken, "crashed"),
}


@pytest.mark.parametrize("seconds", [5, LEASE - 10, 600])
@pytest.mark.parametrize("state", HELD)
@pytest.mark.parametrize("step", STEPS)
def test_each_step_of_its_holder_leaves_a_job_that_was_put_off_waiting(
    database: Database, backend: Backend, clock: Clock, state: State, seconds: int, step: str
) -> None:
    clock.set(NOON)
    taken = put_off(database, backend, clock, state, seconds)
    due = int(clock.time()) + seconds
    STEPS[step](database, taken)
    assert [found.run_after for found in database.jobs()] == [due]
    clock.set(due - 1)
    assert database.dispatched(lane(state=State.LEASED), age=0) == []
    assert expired_in(database, *HELD) == []
    assert claim(database) == []
    clock.set(due)
    lapsed = expired_in(database, *HELD)
    assert [found.put_off for found in lapsed] == [True]
    database.requeue([found.jobid for found in lapsed])
    again = claim_one(database)
    assert (again.jobid, again.attempt, again.run_after) == (taken.jobid, 2, due)
    assert stored(database, taken.jobid).crashes == 0


@pytest.mark.parametrize("state", HELD)
def test_expired_does_not_take_a_lease_for_put_off(database: Database, clock: Clock, state: State) -> None:
    clock.set(NOON)
    lapsed = leased_until(database, clock, state)
    assert not lapsed.put_off
    database.requeue([lapsed.jobid])
    assert stored(database, lapsed.jobid).state is state
    assert len(database.reclaim([(lapsed, False)], lease=LEASE)) == 1


@pytest.mark.parametrize("state", HELD)
def test_expired_takes_a_time_before_the_claim_for_the_end_of_its_lease(
    database: Database, backend: Backend, clock: Clock, state: State
) -> None:
    clock.set(NOON)
    taken = held_in(database, clock, state)
    backend.execute("UPDATE job SET run_after = 1")
    (lapsed,) = expired_in(database, *HELD)
    assert not lapsed.put_off
    assert stored(database, taken.jobid).state is state
    assert len(database.reclaim([(lapsed, True)], lease=LEASE)) == 1


@pytest.mark.parametrize("state", HELD)
def test_renew_does_not_hold_what_somebody_put_off(
    database: Database, backend: Backend, clock: Clock, state: State
) -> None:
    clock.set(NOON)
    taken = put_off(database, backend, clock, state, 600)
    assert database.renew([taken.handle], lease=LEASE) == set()
    assert settle(database, taken, "failed").result == "stale"
    assert database.failures(taken.jobid) == []
    # Finished work is finished.
    assert database.complete([taken.jobid]) == {taken.jobid}


@pytest.mark.parametrize("state", HELD)
def test_get_and_jobs_show_a_job_that_was_put_off_as_waiting(
    database: Database, backend: Backend, clock: Clock, state: State
) -> None:
    clock.set(NOON)
    taken = put_off(database, backend, clock, state, 600)
    assert stored(database, taken.jobid).state is State.WAITING
    assert listed(database, state=State.WAITING) == [taken.jobid]
    assert listed(database, state=state) == []
    assert database.counts() == [("f", State.WAITING, 1, int(clock.time()) + 600)]
    assert database.retry(taken.jobid)
    assert claim_one(database).attempt == 2


@pytest.mark.parametrize("state", [State.WAITING, *HELD])
def test_get_and_jobs_show_a_job_that_was_parked_as_dead(
    database: Database, backend: Backend, clock: Clock, state: State
) -> None:
    """As a worker of the original parks it: by the time alone."""
    clock.set(NOON)
    jobid = put(database) if state is State.WAITING else held_in(database, clock, state).jobid
    free = put(database)
    backend.execute(f"UPDATE job SET run_after = {NEVER} WHERE jobid = {jobid}")
    assert stored(database, jobid).state is State.DEAD
    assert listed(database, state=State.DEAD) == listed(database, failed=True) == [jobid]
    assert listed(database, state=State.WAITING) == [free]
    assert listed(database, state=state) == [free] * (state is State.WAITING)
    assert {(count.state, count.jobs, count.first) for count in database.counts()} == {
        (State.DEAD, 1, NEVER),
        (State.WAITING, 1, stored(database, free).run_after),
    }
    assert database.adopt([jobid], lease=LEASE) == []
    clock.set(NEVER + 1000)
    assert expired_in(database, *HELD) == []
    clock.set(NOON + 5000)
    assert database.retry(jobid)
    assert stored(database, jobid).run_after == NOON + 5000
    assert {again.jobid for again in claim(database)} == {jobid, free}


def test_leased_does_not_count_rows_that_were_put_off(
    database: Database, backend: Backend, clock: Clock
) -> None:
    clock.set(NOON)
    for _ in range(3):
        put(database)
    first, second, _ = claim(database)
    assert database.leased("f", lease=LEASE, limit=10) == 3
    backend.execute(f"UPDATE job SET run_after = {NOON + 86_400} WHERE jobid = {first.jobid}")
    backend.execute(f"UPDATE job SET run_after = {NEVER} WHERE jobid = {second.jobid}")
    assert database.leased("f", lease=LEASE, limit=10) == 1


def test_get_takes_a_row_that_an_earlier_version_leased_for_a_lease(
    database: Database, backend: Backend, clock: Clock
) -> None:
    clock.set(NOON)
    put(database)
    taken = claim_one(database)
    backend.execute("UPDATE job SET lease_end = 0")
    assert stored(database, taken.jobid).state is State.LEASED
    assert len(database.dispatched(lane(state=State.LEASED), age=0)) == 1
    assert database.renew([taken.handle], lease=LEASE) == {taken.handle}
    ((run_after, lease_end),) = backend.execute("SELECT run_after, lease_end FROM job")
    assert run_after == lease_end == NOON + LEASE + 1
