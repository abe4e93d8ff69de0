"""Claims of functions with a limit of jobs in flight: alike in every kind of database."""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from garivini.model.job import Job
from garivini.model.policy import FunctionPolicy
from garivini.model.state import State
from garivini.store.database import Database
from tests.store.conformance.jobs import LEASE, claim, lane, put, settle, stored
from tests.store.conftest import Backend


class Taken(NamedTuple):
    """The result of an admission, without the place of the next one."""

    jobs: list[Job]
    held_back: float | None


def admit(database: Database, limit: int = 100, funcname: str = "f", priority: str = "normal") -> Taken:
    jobs, held_back, _ = database.admit(lane(funcname, priority=priority), limit=limit, lease=LEASE)
    return Taken(jobs, held_back)


def limited(database: Database, max_running: int, jobs: int) -> list[int]:
    """Limit a function, and insert jobs of it; return their ids."""
    database.set_function("f", FunctionPolicy(max_running=max_running))
    return [put(database) for _ in range(jobs)]


def test_admit_hands_out_no_more_jobs_than_may_run(database: Database) -> None:
    jobids = limited(database, 2, jobs=5)
    jobs, held_back = admit(database)
    assert [job.jobid for job in jobs] == jobids[:2]
    assert held_back == 0.0
    assert admit(database) == ([], 0.0)


def test_admit_returns_jobs_as_a_claim_does(database: Database) -> None:
    limited(database, 5, jobs=2)
    put(database, funcname="g")
    put(database, funcname="g")
    database.set_function("g", FunctionPolicy(lease=LEASE))
    admitted, claimed = admit(database).jobs, admit(database, funcname="g").jobs
    assert [(job.attempt, job.lease, job.flag) for job in admitted] == [
        (job.attempt, job.lease, job.flag) for job in claimed
    ]
    assert all(stored(database, job.jobid).state is State.LEASED for job in admitted)


def test_admit_holds_nothing_back_below_the_limit(database: Database) -> None:
    limited(database, 3, jobs=2)
    jobs, held_back = admit(database)
    assert len(jobs) == 2
    assert held_back is None


def test_admit_holds_nothing_back_if_the_claim_itself_takes_less(database: Database) -> None:
    limited(database, 3, jobs=5)
    assert [len(admit(database, limit=1).jobs) for _ in range(4)] == [1, 1, 1, 0]


def end_by_success(database: Database, backend: Backend, job: Job) -> None:
    database.complete([job.jobid])


def end_by_failure(database: Database, backend: Backend, job: Job) -> None:
    settle(database, job.handle, "failed")


def end_by_release(database: Database, backend: Backend, job: Job) -> None:
    database.release([job])


def end_by_give_back(database: Database, backend: Backend, job: Job) -> None:
    database.give_back([job.handle])


def end_by_another_program(database: Database, backend: Backend, job: Job) -> None:
    """Put it off as a worker of the original does, which knows only ``run_after``."""
    backend.execute(f"UPDATE job SET run_after = run_after + 3600 WHERE jobid = {job.jobid}")


def end_by_deletion(database: Database, backend: Backend, job: Job) -> None:
    backend.execute(f"DELETE FROM job WHERE jobid = {job.jobid}")


def end_by_parking(database: Database, backend: Backend, job: Job) -> None:
    """Park it as a client of the original does."""
    backend.execute(f"UPDATE job SET run_after = 2147483647 WHERE jobid = {job.jobid}")


@pytest.mark.parametrize(
    "end",
    [
        end_by_success,
        end_by_failure,
        end_by_release,
        end_by_give_back,
        end_by_another_program,
        end_by_deletion,
        end_by_parking,
    ],
)
def test_admit_gives_a_slot_again_whatever_ended_the_attempt(
    database: Database, backend: Backend, end: Callable[[Database, Backend, Job], None]
) -> None:
    limited(database, 2, jobs=5)
    first, _ = admit(database).jobs
    end(database, backend, first)
    assert len(admit(database).jobs) == 1
    assert admit(database) == ([], 0.0)


@pytest.mark.parametrize("state", [State.LEASED, State.RUNNING, State.SUSPECT])
def test_admit_counts_jobs_in_each_state_of_being_held(
    database: Database, backend: Backend, state: State
) -> None:
    limited(database, 1, jobs=2)
    (job,) = admit(database).jobs
    backend.execute(f"UPDATE job SET state = {int(state)} WHERE jobid = {job.jobid}")
    assert admit(database) == ([], 0.0)


def test_admit_counts_all_priorities_together(database: Database) -> None:
    database.set_function("f", FunctionPolicy(max_running=2))
    for priority in ("high", "normal", "low"):
        put(database, priority=priority)
    taken = [len(admit(database, priority=priority).jobs) for priority in ("high", "normal", "low")]
    assert taken == [1, 1, 0]


def test_admit_counts_jobs_that_were_dispatched_before_there_was_a_limit(database: Database) -> None:
    for _ in range(4):
        put(database)
    claim(database, 3)
    database.set_function("f", FunctionPolicy(max_running=2))
    assert admit(database) == ([], 0.0)


def test_admit_follows_a_limit_that_changes(database: Database) -> None:
    limited(database, 1, jobs=6)
    counts = []
    for max_running in (1, 3, 2, 4):
        database.set_function("f", FunctionPolicy(max_running=max_running))
        counts.append(len(admit(database).jobs))
    assert counts == [1, 2, 0, 1]


def test_admit_claims_nothing_of_a_function_whose_settings_were_deleted(database: Database) -> None:
    (jobid,) = limited(database, 1, jobs=1)
    database.unset_function("f")
    assert admit(database) == ([], 0.0)
    assert stored(database, jobid).state is State.WAITING


def test_admit_lets_another_function_alone(database: Database) -> None:
    limited(database, 1, jobs=2)
    database.set_function("g", FunctionPolicy(max_running=1))
    put(database, funcname="g")
    assert len(admit(database).jobs) == 1
    assert len(admit(database, funcname="g").jobs) == 1


def test_admit_takes_turns_with_another_admission(database: Database) -> None:
    """It would count before the other has committed. On SQLite all transactions take turns."""
    limited(database, 2, jobs=4)
    if database.locks_rows:
        other = database.with_lock_timeout(1)
        with database.transaction() as run:
            assert run("lock_function", funcname="f")
            assert admit(other) == ([], 0.0)
        assert len(admit(other).jobs) == 2
        other.close()
