"""Pauses of functions: alike in every kind of database."""

import pytest

from garivini.errors import UsageError
from garivini.model.lease import OTHERS_LEASE
from garivini.model.policy import FOREVER, NO_POLICY, FunctionPolicy
from garivini.model.state import State
from garivini.model.when import At, Never, Offset
from garivini.store.database import Database
from tests.store.conformance.jobs import LEASE, NOON, claim_one, held_in, lane, put, stored
from tests.store.conformance.test_admit import Taken
from tests.store.conformance.test_admit import admit as admit_of
from tests.store.conftest import Backend, Clock


def admit(database: Database, funcname: str = "f") -> Taken:
    return admit_of(database, funcname=funcname)


def test_pause_lets_admission_hand_out_nothing(database: Database) -> None:
    jobid = put(database)
    before = stored(database, jobid)
    assert database.pause("f", Never()) == FOREVER
    assert admit(database) == ([], 0.0)
    assert put(database) != jobid
    assert stored(database, jobid) == before


def test_pause_concerns_one_function(database: Database) -> None:
    put(database, funcname="g")
    database.set_function("g", FunctionPolicy(max_running=1))
    database.pause("f", Never())
    assert len(admit(database, "g").jobs) == 1


def test_pause_ends_at_its_time(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    put(database)
    assert database.pause("f", Offset(60)) == NOON + 60
    assert database.functions()["f"] == FunctionPolicy(paused_until=NOON + 60)
    clock.advance(59)
    assert admit(database) == ([], 0.0)
    clock.advance(1)
    assert not database.functions()["f"].has_rules
    assert len(admit(database).jobs) == 1


def test_pause_rounds_its_end_up(database: Database, clock: Clock) -> None:
    clock.set(NOON + 0.5)
    assert database.pause("f", Offset(1)) == NOON + 2


def test_pause_again_changes_its_end(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    for until, end in ((Offset(60), NOON + 60), (Never(), FOREVER), (At(NOON + 5), NOON + 5)):
        assert database.pause("f", until) == end
        assert database.functions()["f"].paused_until == end


@pytest.mark.parametrize("until", [Offset(0), At(NOON), At(NOON - 1)])
def test_pause_refuses_a_time_that_has_passed(database: Database, clock: Clock, until: Offset | At) -> None:
    clock.set(NOON)
    with pytest.raises(UsageError, match="a pause ends in the future"):
        database.pause("f", until)
    assert database.functions() == {}


def test_resume_ends_a_pause(database: Database) -> None:
    jobid = put(database)
    before = stored(database, jobid)
    database.pause("f", Never())
    assert database.resume("f")
    assert database.functions() == {}
    assert stored(database, jobid) == before
    assert not database.resume("f")


def test_resume_of_a_pause_that_is_over_does_nothing(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    database.pause("f", Offset(5))
    clock.advance(5)
    assert not database.resume("f")


def test_pause_and_resume_keep_the_settings(database: Database) -> None:
    policy = FunctionPolicy(lease=9, max_running=2)
    database.set_function("f", policy)
    database.pause("f", Never())
    assert database.functions()["f"] == FunctionPolicy(lease=9, max_running=2, paused_until=FOREVER)
    database.resume("f")
    assert database.functions()["f"] == policy


def test_settings_and_their_reset_keep_a_pause(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    paused = FunctionPolicy(paused_until=NOON + 60)
    database.pause("f", Offset(60))
    database.set_function("f", FunctionPolicy(lease=9))
    database.register_functions({"f": FunctionPolicy(retention=60)})
    database.register_functions({"f": NO_POLICY})
    database.unset_function("f")
    assert database.functions()["f"] == paused
    clock.advance(60)
    database.unset_function("f")
    assert database.functions() == {}


def test_a_pause_is_set_and_ended_by_plain_sql(database: Database, backend: Backend) -> None:
    jobid = put(database)
    database.set_function("f", FunctionPolicy(lease=9))
    table = "`function`" if database.dialect == "mysql" else "function"
    backend.execute(f"UPDATE {table} SET paused_until = 4294967295 WHERE funcname = 'f'")
    assert admit(database) == ([], 0.0)
    backend.execute(f"UPDATE {table} SET paused_until = NULL WHERE funcname = 'f'")
    assert [job.jobid for job in admit(database).jobs] == [jobid]
    assert stored(database, jobid).state is State.LEASED


# ---- jobs that were handed out and have not started


def test_take_back_makes_jobs_wait_that_were_handed_out(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    jobids = [put(database, priority=priority) for priority in ("high", "normal", "low")]
    for priority in ("high", "normal", "low"):
        database.claim(lane(priority=priority), limit=1, lease=LEASE)
    clock.advance(5)
    assert database.take_back("f") == 3
    assert database.take_back("f") == 0
    for jobid in jobids:
        taken = stored(database, jobid)
        assert (taken.state, taken.attempt, taken.run_after) == (State.WAITING, 1, NOON)
        assert not database.renew([taken.handle], lease=LEASE)


@pytest.mark.parametrize("state", [State.RUNNING, State.SUSPECT])
def test_take_back_leaves_jobs_that_have_started(database: Database, clock: Clock, state: State) -> None:
    clock.set(NOON)
    taken = held_in(database, clock, state)
    before = stored(database, taken.jobid)
    assert database.take_back("f") == 0
    assert stored(database, taken.jobid) == before


def test_take_back_leaves_other_functions_and_jobs_that_others_put_off(
    database: Database, backend: Backend, clock: Clock
) -> None:
    clock.set(NOON)
    put(database, funcname="g")
    (other,) = database.claim(lane("g"), limit=1, lease=LEASE)
    put(database)
    put_off = claim_one(database)
    backend.execute(f"UPDATE job SET run_after = {NOON + 600} WHERE jobid = {put_off.jobid}")
    before = [stored(database, it.jobid) for it in (other, put_off)]
    assert database.take_back("f") == 0
    assert [stored(database, it.jobid) for it in (other, put_off)] == before


def test_a_pause_with_a_mark_lets_workers_check_copies_until_their_leases_end(
    database: Database, clock: Clock
) -> None:
    clock.set(NOON)
    database.set_function("f", FunctionPolicy(lease=OTHERS_LEASE + 10))
    database.pause("f", Never())
    assert database.marks() == {}
    for number in (1, 2):
        database.pause("f", Never(), mark=True)
        assert database.marks() == {"f": number}
    clock.advance(OTHERS_LEASE + 10)
    assert database.marks() == {"f": 2}
    clock.advance(2)
    assert database.marks() == {}
