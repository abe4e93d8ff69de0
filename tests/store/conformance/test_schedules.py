"""Schedules and the jobs of their ticks: alike in every kind of database."""

import threading
from typing import Any

import pytest

from garivini.errors import ConflictError, UsageError
from garivini.model.limits import NEVER
from garivini.model.schedule import MAX_TICKS, RETIRED, Schedule, StoredSchedule
from garivini.store.database import Database
from garivini.store.schedules import Ticked
from tests.store.conformance.jobs import NOON, put, stored
from tests.store.conftest import Backend, Clock

HOUR = 3600
#: Noon is 2,800 seconds before a full hour.
TICK = NOON + 2800


@pytest.fixture(autouse=True)
def _noon(clock: Clock) -> None:
    clock.set(NOON)


def schedule(database: Database, name: str = "s", **given: Any) -> StoredSchedule:
    """Set values of a schedule; return it. A new one ticks every hour."""
    found = {entry.name: entry for entry in database.schedules()}
    first = {} if name in found else {"funcname": "f", "every": HOUR}
    database.set_schedule(name, {**first, **given})
    return read(database, name)


def read(database: Database, name: str = "s") -> StoredSchedule:
    (found,) = [entry for entry in database.schedules() if entry.name == name]
    return found


def tick(database: Database, name: str = "s") -> list[int]:
    """Handle the ticks of a schedule that is due; return the jobs that were inserted."""
    assert name in database.due_schedules()
    ticked = database.tick(name)
    return [] if ticked is None else ticked.jobids


# ---- definitions


def test_set_schedule_stores_all_values(database: Database) -> None:
    given = {
        "funcname": "fün",
        "arg": b"\xff\0",
        "cron": "0 3 * * mon-fri",
        "zone": "Europe/Berlin",
        "flag": "controller",
        "priority": "low",
        "missed": "all",
        "missed_window": 600,
        "overlap": "queue",
    }
    database.set_schedule("each nïght", given)
    found = read(database, "each nïght")
    assert found.definition == Schedule(**given)  # type: ignore[arg-type]
    assert found.override == given
    assert (found.dbid, found.declared, found.paused, found.retired) == (1, None, False, False)
    assert found.next_tick == found.definition.next_tick(NOON)


def test_set_schedule_changes_what_is_given(database: Database) -> None:
    schedule(database, arg=b"x")
    found = schedule(database, cron="15 * * * *")
    assert (found.funcname, found.arg, found.cron, found.every) == ("f", b"x", "15 * * * *", None)
    assert found.override == {"funcname": "f", "arg": b"x", "cron": "15 * * * *"}


def test_set_schedule_keeps_the_next_tick_unless_the_times_change(database: Database, clock: Clock) -> None:
    schedule(database)
    clock.set(TICK + 2 * HOUR)
    assert schedule(database, arg=b"y").next_tick == TICK
    assert schedule(database, every=HOUR * 2).next_tick == TICK + 3 * HOUR


def test_set_schedule_refuses_a_new_one_without_a_function(database: Database) -> None:
    with pytest.raises(UsageError, match="name its function"):
        database.set_schedule("s", {"every": 5})
    assert database.schedules() == []


def test_remove_schedule_leaves_its_jobs(database: Database) -> None:
    schedule(database)
    jobid = database.run_schedule("s")
    database.remove_schedule("s")
    assert database.schedules() == []
    assert stored(database, jobid).funcname == "f"


@pytest.mark.parametrize(
    "call", ["run_schedule", "pause_schedule", "resume_schedule", "remove_schedule", "reset_schedule"]
)
def test_calls_of_a_schedule_that_does_not_exist(database: Database, call: str) -> None:
    with pytest.raises(UsageError, match="there is no schedule 'nïx'"):
        getattr(database, call)("nïx")


def test_declare_schedule_leaves_what_an_operator_has_set_until_it_is_reset(database: Database) -> None:
    declared = Schedule(funcname="f", cron="0 3 * * *", arg=b"\xff")
    database.declare_schedule("s", declared)
    assert read(database).definition == declared
    schedule(database, every=60)
    database.declare_schedule("s", Schedule(funcname="g", cron="0 4 * * *"))
    assert read(database).definition == Schedule(funcname="g", every=60)
    database.reset_schedule("s")
    assert read(database).definition == Schedule(funcname="g", cron="0 4 * * *")
    assert read(database).override == {}


def test_reset_schedule_refuses_one_that_no_code_has_declared(database: Database) -> None:
    schedule(database)
    with pytest.raises(UsageError, match="not declared"):
        database.reset_schedule("s")


# ---- ticks


def test_tick_inserts_a_job_and_moves_the_schedule_on(database: Database, clock: Clock) -> None:
    schedule(database, arg=b"\xffx", priority="high", flag="controller")
    assert database.due_schedules() == []
    assert database.until_tick() == pytest.approx(2800, abs=1)
    clock.set(TICK + 5)
    assert database.due_schedules() == ["s"]
    ticked = database.tick("s")
    assert ticked == Ticked("f", ticked.jobids if ticked else [], 0, 5)
    (jobid,) = ticked.jobids
    job = stored(database, jobid)
    assert (job.funcname, job.arg, job.priority, job.flag) == ("f", b"\xffx", "high", "controller")
    assert (job.uniqkey, job.run_after, job.attempt) == (None, TICK + 5, 0)
    found = read(database)
    assert (found.next_tick, found.last_tick, found.last_jobid) == (TICK + HOUR, TICK, jobid)
    assert (found.jobs, found.skipped) == (1, 0)
    assert database.tick("s") is None
    assert database.due_schedules() == []


def test_until_tick_without_a_tick_to_come(database: Database, clock: Clock) -> None:
    assert database.until_tick() is None
    schedule(database)
    schedule(database, "t", every=HOUR * 2)
    database.pause_schedule("s")
    assert database.until_tick() == pytest.approx(2800, abs=HOUR + 1)


def test_tick_of_a_schedule_that_another_program_has_inserted(
    database: Database, backend: Backend, clock: Clock
) -> None:
    backend.execute("INSERT INTO schedule (name, funcname, every) VALUES ('s', 'f', 3600)")
    assert tick(database) == []
    assert read(database).next_tick == TICK
    clock.set(TICK)
    (jobid,) = tick(database)
    assert stored(database, jobid).arg == b""


@pytest.mark.parametrize(
    "wrong",
    ["cron = '* * *', every = NULL", "zone = 'Nowhere'", "missed = 'none'", "priority = 9", "flag = 'x'"],
)
def test_tick_of_wrong_values_raises_until_they_are_right(
    database: Database, backend: Backend, clock: Clock, wrong: str
) -> None:
    schedule(database)
    backend.execute(f"UPDATE schedule SET {wrong}")
    clock.set(TICK)
    with pytest.raises(UsageError):
        tick(database)
    with pytest.raises(UsageError):
        _ = read(database).definition
    database.pause_schedule("s")
    schedule(database, every=HOUR, zone="UTC", missed="last", priority="low", flag="shim")
    database.resume_schedule("s")
    assert read(database).next_tick == TICK + HOUR


def test_tick_of_missed_ticks(database: Database, clock: Clock) -> None:
    for missed in ("skip", "last", "all"):
        schedule(database, missed, missed=missed, missed_window=2 * HOUR, overlap="allow")
    clock.set(TICK + 5 * HOUR + 600)
    assert [len(tick(database, missed)) for missed in ("skip", "last", "all")] == [0, 1, 2]
    for found in database.schedules():
        assert (found.next_tick, found.jobs + found.skipped) == (TICK + 6 * HOUR, 6)
        assert found.last_tick == (None if found.name == "skip" else TICK + 5 * HOUR)


def test_tick_of_very_many_missed_ticks_comes_in_parts(database: Database, clock: Clock) -> None:
    schedule(database, every=1, missed="all", missed_window=HOUR, overlap="allow")
    clock.set(NOON + MAX_TICKS + 5)
    first, second = database.tick("s"), database.tick("s")
    assert first is not None
    assert second is not None
    assert [len(ticked.jobids) for ticked in (first, second)] == [MAX_TICKS, 5]
    assert read(database).last_jobid == second.jobids[-1]


def test_tick_while_the_previous_job_is_live(database: Database, clock: Clock) -> None:
    for overlap in ("allow", "skip", "queue"):
        schedule(database, overlap, overlap=overlap)
    clock.set(TICK)
    first = {overlap: tick(database, overlap) for overlap in ("allow", "skip", "queue")}
    clock.set(TICK + HOUR)
    assert [len(tick(database, overlap)) for overlap in ("allow", "skip", "queue")] == [1, 0, 0]
    assert database.due_schedules() == ["queue"]
    clock.set(TICK + 2 * HOUR)
    assert [len(tick(database, overlap)) for overlap in ("allow", "skip", "queue")] == [1, 0, 0]
    assert (read(database, "queue").queued, read(database, "queue").skipped) == (TICK + HOUR, 1)
    database.complete([jobid for jobids in first.values() for jobid in jobids])
    (jobid,) = tick(database, "queue")
    found = read(database, "queue")
    assert (found.queued, found.last_tick, found.last_jobid) == (None, TICK + HOUR, jobid)
    assert found.next_tick == TICK + 3 * HOUR


def test_tick_is_not_held_up_by_a_dead_job(database: Database, backend: Backend, clock: Clock) -> None:
    schedule(database)
    clock.set(TICK)
    (jobid,) = tick(database)
    backend.execute(f"UPDATE job SET run_after = {NEVER} WHERE jobid = {jobid}")
    clock.set(TICK + HOUR)
    assert len(tick(database)) == 1


def test_tick_does_not_mind_a_unique_key_of_another_program(database: Database, clock: Clock) -> None:
    schedule(database)
    put(database, uniqkey="s")
    clock.set(TICK)
    (jobid,) = tick(database)
    assert stored(database, jobid).uniqkey is None


# ---- pause, run


def test_pause_keeps_a_queued_tick_and_resume_goes_on_with_it(database: Database, clock: Clock) -> None:
    schedule(database, overlap="queue")
    clock.set(TICK)
    (jobid,) = tick(database)
    clock.set(TICK + HOUR)
    assert tick(database) == []
    database.pause_schedule("s")
    database.complete([jobid])
    assert database.due_schedules() == []
    assert database.tick("s") is None
    clock.set(TICK + 5 * HOUR + 10)
    database.resume_schedule("s")
    assert read(database).next_tick == TICK + 6 * HOUR
    assert len(tick(database)) == 1
    assert read(database).last_tick == TICK + HOUR


def test_resume_schedule_changes_nothing_if_it_is_not_paused(database: Database, clock: Clock) -> None:
    schedule(database)
    clock.set(TICK + HOUR)
    database.resume_schedule("s")
    assert read(database).next_tick == TICK


def test_run_schedule_inserts_a_job_now_and_leaves_the_ticks(database: Database, clock: Clock) -> None:
    schedule(database, arg=b"x")
    database.pause_schedule("s")
    jobid = database.run_schedule("s")
    assert stored(database, jobid).arg == b"x"
    found = read(database)
    assert (found.last_tick, found.last_jobid, found.next_tick, found.jobs) == (NOON, jobid, TICK, 1)


def test_run_schedule_respects_the_overlap(database: Database) -> None:
    schedule(database)
    jobid = database.run_schedule("s")
    with pytest.raises(ConflictError, match=f"job 1:{jobid} of schedule 's' has not ended"):
        database.run_schedule("s")
    schedule(database, overlap="allow")
    assert database.run_schedule("s") != jobid


# ---- several schedulers


def test_tick_of_many_schedulers_at_once_inserts_each_job_once(
    database: Database, clock: Clock, backend: Backend
) -> None:
    names = [f"s{number}" for number in range(5)]
    for name in names:
        schedule(database, name, every=60, missed="all", overlap="allow")
    clock.set(NOON + 10 * 60)
    ticks = 10
    errors: list[Exception] = []

    def work() -> None:
        try:
            for _ in range(3):
                for name in names:
                    database.tick(name)
        except ConflictError:
            pass  # the lock of SQLite, or of a new row
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        database.tick(name)
    assert errors == []
    assert [found.jobs for found in database.schedules()] == [ticks] * len(names)
    assert backend.execute("SELECT count(*) FROM job") == [(ticks * len(names),)]


def test_tick_leaves_a_schedule_to_the_scheduler_that_has_locked_it(database: Database, clock: Clock) -> None:
    if not database.locks_rows:
        return  # a scheduler locks the whole database
    schedule(database)
    clock.set(TICK)
    with database.transaction() as run:
        assert run("take_schedule", name="s")
        assert database.tick("s") is None
    assert len(tick(database)) == 1


# ---- retired


def test_a_declared_schedule_that_no_process_declares_any_more_does_not_tick(
    database: Database, clock: Clock
) -> None:
    database.declare_schedule("s", Schedule(funcname="f", every=HOUR))
    database.see_schedules(["s"])
    assert not read(database).retired
    clock.set(TICK)
    database.see_schedules(["s"])
    assert database.due_schedules() == ["s"]
    clock.set(TICK + RETIRED)
    assert read(database).retired
    assert (database.due_schedules(), database.tick("s"), database.until_tick()) == ([], None, None)
    database.see_schedules(["s"])
    assert len(tick(database)) == 1
