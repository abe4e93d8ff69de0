"""Cancelled jobs that an attempt holds, and the marks of their functions: alike in every kind of database."""

import pytest

from garivini.model.job import Handle
from garivini.model.lease import OTHERS_LEASE
from garivini.model.policy import FunctionPolicy
from garivini.model.state import State
from garivini.store.database import Database
from tests.store.conformance.jobs import HELD, LEASE, NOON, claim, put, settle, stored
from tests.store.conftest import Backend, Clock


def cancel(database: Database, jobid: int) -> None:
    settle(database, Handle(jobid, database.dbid), "cancelled")
    assert stored(database, jobid).state is State.DEAD


@pytest.mark.parametrize("state", HELD)
def test_cancel_of_a_job_that_is_held_marks_its_function(
    database: Database, backend: Backend, state: State
) -> None:
    for _ in range(3):
        put(database)
    put(database, funcname="g")
    jobs = claim(database)
    backend.execute(f"UPDATE job SET state = {int(state)} WHERE funcname = 'f'")
    for number, job in enumerate(jobs[:2], 1):
        cancel(database, job.jobid)
        assert database.marks() == {"f": number}
    handles = [job.handle for job in jobs]
    assert database.cancelled(handles) == set(handles[:2])


def test_cancel_of_a_waiting_job_marks_nothing(database: Database) -> None:
    cancel(database, put(database))
    assert database.marks() == {}


def test_a_mark_lasts_until_no_copy_can_start_unchecked(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    for lease, seconds in ((9, OTHERS_LEASE), (5000, 5000)):
        database.set_function("f", FunctionPolicy(lease=lease))
        put(database)
        (job,) = claim(database)
        cancel(database, job.jobid)
        clock.advance(seconds)
        assert list(database.marks()) == ["f"]
        clock.advance(2)
        assert database.marks() == {}


def test_a_mark_lasts_as_long_as_the_lease_of_the_job(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    put(database)
    (job,) = claim(database)
    database.renew([job.handle], lease=9000)
    cancel(database, job.jobid)
    clock.advance(9000)
    assert list(database.marks()) == ["f"]


def test_a_mark_is_kept_by_a_reset_of_settings(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    database.set_function("f", FunctionPolicy(lease=9))
    put(database)
    cancel(database, claim(database)[0].jobid)
    database.unset_function("f")
    assert database.marks() == {"f": 1}
    clock.advance(OTHERS_LEASE + 2)
    database.unset_function("f")
    assert database.functions() == {}


def test_cancelled_leaves_out_jobs_that_another_attempt_has(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    put(database)
    (job,) = claim(database)
    cancel(database, job.jobid)
    assert database.cancelled([job.handle]) == {job.handle}
    database.retry(job.jobid)
    assert database.cancelled([job.handle]) == set()
    (later,) = claim(database)
    cancel(database, job.jobid)
    assert database.cancelled([job.handle, later.handle]) == {later.handle}
    clock.advance(LEASE)
