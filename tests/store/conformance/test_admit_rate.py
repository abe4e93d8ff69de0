"""Claims of functions with a rate: alike in every kind of database."""

import pytest

from garivini.model.policy import FunctionPolicy
from garivini.model.when import Offset
from garivini.store.database import Database
from tests.store.conformance.jobs import LEASE, NOON, claim, put, settle
from tests.store.conformance.test_admit import admit
from tests.store.conftest import Backend, Clock


def rated(
    database: Database, rate: str, burst: int | None, jobs: int, max_running: int | None = None
) -> None:
    """Limit the rate of a function, and insert jobs of it."""
    database.set_function("f", FunctionPolicy(rate=rate, burst=burst, max_running=max_running))
    for _ in range(jobs):
        put(database)


def taken(database: Database, limit: int = 100) -> int:
    return len(admit(database, limit).jobs)


def test_admit_hands_out_a_burst_and_then_the_rate(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    rated(database, "2/s", 3, jobs=9)
    counts = []
    for seconds in (0.0, 0.25, 0.25, 0.5, 0.25, 0.25):
        clock.advance(seconds)
        counts.append(taken(database))
    assert counts == [3, 0, 1, 1, 0, 1]


def test_admit_says_when_a_claim_may_get_more(database: Database, clock: Clock) -> None:
    clock.set(NOON + 0.25)
    rated(database, "30/m", 1, jobs=3)
    first = admit(database)
    assert len(first.jobs) == 1
    assert first.held_back == pytest.approx(2.0, abs=0.002)
    clock.advance(1.5)
    second = admit(database)
    assert second.jobs == []
    assert second.held_back == pytest.approx(0.5, abs=0.002)
    clock.advance(0.5)
    assert taken(database) == 1


def test_admit_holds_nothing_back_if_the_rate_leaves_jobs_over(database: Database) -> None:
    rated(database, "1/m", 5, jobs=3)
    claims = [admit(database, 2) for _ in range(2)]
    assert [(len(jobs), held_back) for jobs, held_back in claims] == [(2, None), (1, None)]


def test_admit_keeps_a_rate_and_a_limit_of_jobs_in_flight(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    rated(database, "1/s", 3, jobs=9, max_running=2)
    jobs, held_back = admit(database)
    assert len(jobs) == 2
    assert held_back == 0.0  # the end of a job is not known before
    database.complete([job.jobid for job in jobs])
    jobs, held_back = admit(database)
    assert len(jobs) == 1
    assert held_back == pytest.approx(1.0, abs=0.002)


def test_admit_counts_retries_and_released_jobs_as_starts(database: Database) -> None:
    rated(database, "1/m", 3, jobs=1)
    for _ in range(2):
        (job,) = admit(database).jobs
        settle(database, job, "rescheduled", when=Offset(0))
    (job,) = admit(database).jobs
    database.release([job])
    assert admit(database).jobs == []


def test_admit_counts_all_priorities_together(database: Database) -> None:
    rated(database, "1/m", 2, jobs=0)
    for priority in ("high", "normal", "low"):
        put(database, priority=priority)
    counts = [len(admit(database, priority=priority).jobs) for priority in ("high", "normal", "low")]
    assert counts == [1, 1, 0]


def test_admit_uses_the_rate_of_each_function_apart(database: Database) -> None:
    rated(database, "1/m", 1, jobs=2)
    database.set_function("g", FunctionPolicy(rate="1/m"))
    put(database, funcname="g")
    assert taken(database) == 1
    assert len(admit(database, funcname="g").jobs) == 1


def test_admit_follows_a_rate_that_changes(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    rated(database, "1/d", 1, jobs=200)
    assert taken(database) == 1
    database.set_function("f", FunctionPolicy(rate="10/s", burst=5))
    assert taken(database) == 0
    clock.advance(0.5)
    assert taken(database) == 5
    database.set_function("f", FunctionPolicy(rate="1/m", burst=1))
    clock.advance(30)
    assert taken(database) == 1
    clock.advance(30)
    assert taken(database) == 0


def test_admit_uses_a_rate_that_was_used_before_its_settings_were_changed(database: Database) -> None:
    rated(database, "1/m", 2, jobs=5)
    assert taken(database) == 2
    database.set_function("f", FunctionPolicy(lease=LEASE))
    assert taken(database) == 0


def test_admit_does_not_wait_long_after_the_clock_was_set_back(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    rated(database, "1/s", 2, jobs=9)
    clock.advance(86400)
    assert taken(database) == 2
    clock.set(NOON + 60)
    assert taken(database) == 0
    clock.advance(1)
    assert taken(database) == 1


def test_admit_uses_nothing_if_there_is_no_job(database: Database, backend: Backend) -> None:
    rated(database, "1/m", 1, jobs=0)
    assert admit(database).held_back is None
    table = "`function`" if database.dialect == "mysql" else "function"
    assert backend.execute(f"SELECT rate_used_until FROM {table}") == [(None,)]
    put(database)
    assert taken(database) == 1


def test_a_claim_without_admission_does_not_use_the_rate(database: Database) -> None:
    rated(database, "1/m", 1, jobs=3)
    assert len(claim(database, 2)) == 2
    assert taken(database) == 1


def test_admit_takes_turns_with_another_admission_of_the_rate(database: Database) -> None:
    """Both would use what is left. On SQLite all transactions take turns."""
    rated(database, "1/m", 3, jobs=9)
    if database.locks_rows:
        other = database.with_lock_timeout(1)
        with database.transaction() as run:
            assert run("lock_function", funcname="f")
            assert admit(other) == ([], 0.0)
        assert len(admit(other).jobs) == 3
        assert taken(database) == 0
        other.close()
