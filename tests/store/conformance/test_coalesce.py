"""Claims of functions with ``coalesce_max``: alike in every kind of database."""

from typing import Any

from garivini.model.job import Job
from garivini.model.policy import FunctionPolicy
from garivini.model.state import State
from garivini.store.database import Database
from tests.store.conformance.jobs import LEASE, NOON, lane, put, settle, stored
from tests.store.conformance.test_admit import admit
from tests.store.conftest import Clock


def rule(database: Database, **settings: Any) -> None:
    database.set_function("f", FunctionPolicy(**settings))


def ids(jobs: list[Job]) -> list[list[int]]:
    """Return the ids of the jobs of each call."""
    return [[job.jobid for job in first.bundle] for first in jobs]


def put_all(database: Database, *values: str | None) -> list[int]:
    return [put(database, coalesce=value) for value in values]


def test_admit_hands_out_jobs_with_the_same_value_in_one_call(database: Database) -> None:
    rule(database, coalesce_max=3)
    a1, b1, a2, lone, a3, a4, other = put_all(database, "a", "b", "a", None, "a", "a", None)
    calls, held_back = admit(database)
    assert sorted(ids(calls)) == [[a1, a2, a3], [b1], [lone], [a4], [other]]
    assert held_back is None
    for job in calls[0].bundle:
        row = stored(database, job.jobid)
        assert (row.attempt, row.state) == (1, State.LEASED)


def test_admit_waits_until_a_bundle_is_full_or_its_first_job_has_waited(
    database: Database, clock: Clock
) -> None:
    clock.set(NOON)
    rule(database, coalesce_max=2, coalesce_wait=10)
    a1, lone = put_all(database, "a", None)
    clock.advance(4)
    (b1,) = put_all(database, "b")
    first = admit(database)
    assert ids(first.jobs) == [[lone]]  # a bundle that waits delays no other job
    assert first.held_back is not None
    assert 0 < first.held_back <= 0.25
    (b2,) = put_all(database, "b")
    clock.advance(1)
    assert ids(admit(database).jobs) == [[b1, b2]]
    clock.advance(4)
    assert admit(database).jobs == []
    clock.advance(1)
    assert ids(admit(database).jobs) == [[a1]]


def test_admit_counts_a_bundle_once_for_limits_and_rate(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    rule(database, coalesce_max=2, max_running=2)
    put_all(database, "a", "a", "b", "b", "c", "c")
    clock.advance(1)
    calls = admit(database).jobs
    assert [len(it.bundle) for it in calls] == [2, 2]
    assert admit(database).jobs == []
    database.complete([calls[0].jobid])
    assert admit(database).jobs == []  # the other job of its bundle is still in flight
    database.complete([calls[0].members[0].jobid])
    (last,) = admit(database).jobs
    assert len(last.bundle) == 2
    rule(database, coalesce_max=2, max_running=100, rate="1/s", burst=1)
    put_all(database, "d", "d", "e", "e")
    clock.advance(1)
    assert [len(it.bundle) for it in admit(database).jobs] == [2]
    assert admit(database).jobs == []


def test_admit_hands_out_a_job_that_has_failed_or_crashed_alone(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    rule(database, coalesce_max=3)
    put_all(database, "a", "a", "a")
    clock.advance(1)
    (call,) = admit(database).jobs
    settle(database, call, "failed")
    clock.advance(3600)
    lapsed = database.expired(lane(state=State.LEASED), limit=10)
    again = database.reclaim([(lapsed[0], True), (lapsed[1], False)], lease=LEASE)
    database.release(again)
    put_all(database, "a")
    clock.advance(1)
    assert sorted(len(it.bundle) for it in admit(database).jobs) == [1, 1, 2]


def test_expired_and_dispatched_know_the_call_of_each_job(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    rule(database, coalesce_max=3)
    put_all(database, "a", "a", None)
    clock.advance(1)
    call, lone = admit(database).jobs
    unique = (call.jobid, 1)
    found = database.dispatched(lane(state=State.LEASED), age=0)
    expected = {job.jobid: unique for job in call.bundle} | {lone.jobid: (lone.jobid, 1)}
    assert {it.handle.jobid: it.call for it in found} == expected
    clock.advance(LEASE + 1)
    lapsed = database.expired(lane(state=State.LEASED), limit=10)
    assert {it.jobid: it.call for it in lapsed} == expected
    again = database.reclaim([(it, False) for it in lapsed], lease=LEASE)
    found = database.dispatched(lane(state=State.LEASED), age=0)
    assert {it.handle.jobid: it.call for it in found} == {job.jobid: (job.jobid, 2) for job in again}


def test_admit_leaves_jobs_of_a_controller_alone(database: Database) -> None:
    rule(database, coalesce_max=3)
    jobids = [put(database, coalesce="a", flag="controller") for _ in range(2)]
    assert ids(admit(database).jobs) == [[jobid] for jobid in jobids]


def test_head_names_the_job_of_a_bundle_with_the_highest_attempt(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    rule(database, coalesce_max=3)
    put_all(database, "a", "a")
    clock.advance(1)
    (call,) = admit(database).jobs
    database.complete([call.jobid])
    database.release(call.members)
    put_all(database, "a", "a")
    clock.advance(1)
    assert database.head(lane()) == call.members[0].jobid


def test_admit_discards_the_expired_jobs_of_a_bundle(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    rule(database, coalesce_max=3)
    late = put(database, coalesce="a", expires=5)
    kept = [put(database, coalesce="a") for _ in range(2)]
    clock.advance(10)
    assert ids(admit(database).jobs) == [kept]
    assert stored(database, late).state is State.DEAD
