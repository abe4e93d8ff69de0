"""Claims of functions with rules about partitions: alike in every kind of database."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from garivini.model.job import Job
from garivini.model.policy import FunctionPolicy
from garivini.model.turns import START, Place
from garivini.store.admission import Admitted, admit
from garivini.store.database import Database
from garivini.store.turns import LAG, PAGE, SWEEP_AGE
from tests.store.conformance.jobs import LEASE, NOON, claim, job, lane, put, settle
from tests.store.conformance.test_admit import end_by_another_program, end_by_deletion, end_by_success
from tests.store.conftest import Backend, Clock


class Runner:
    """The admissions of one QueueRunner: each continues where the last one ended."""

    def __init__(self, database: Database, priority: str = "normal") -> None:
        self._database = database
        self._lane = lane(priority=priority)
        self.place: Place = START
        self.held_back: float | None = None

    def admit(self, limit: int = 100) -> list[Job]:
        admitted: Admitted = self._database.admit(self._lane, limit=limit, lease=LEASE, place=self.place)
        jobs, self.held_back, self.place = admitted
        return jobs

    def partitions(self, limit: int = 100) -> list[str | None]:
        return [it.partition for it in self.admit(limit)]


def rule(database: Database, **rules: Any) -> None:
    database.set_function("f", FunctionPolicy(**rules))


def insert(database: Database, partitions: Iterable[str | None], **fields: Any) -> list[int]:
    """Insert a job for each partition; return their ids."""
    return [it.jobid for it in database.insert([job(partition=name, **fields) for name in partitions])]


def complete(database: Database, jobs: Iterable[Job]) -> None:
    database.complete([it.jobid for it in jobs])


# ---- limits of jobs in flight


def test_admit_hands_out_no_more_jobs_of_a_partition_than_may_run(database: Database) -> None:
    rule(database, partition_max_running=2)
    insert(database, ["a"] * 5 + ["b"] * 3 + [None] * 4)
    runner = Runner(database)
    jobs = runner.admit()
    assert Counter(it.partition for it in jobs) == {"a": 2, "b": 2, None: 2}
    assert runner.held_back == 0.0
    assert runner.admit() == []
    complete(database, [it for it in jobs if it.partition == "a"])
    assert runner.partitions() == ["a", "a"]


def test_admit_hands_out_the_jobs_of_a_partition_in_the_order_of_due_times(database: Database) -> None:
    rule(database, partition_max_running=1)
    jobids = insert(database, "aaa")
    runner = Runner(database)
    ran = []
    for _ in jobids:
        (found,) = runner.admit()
        ran.append(found.jobid)
        complete(database, [found])
    assert ran == jobids


@pytest.mark.parametrize("end", [end_by_success, end_by_another_program, end_by_deletion])
def test_admit_gives_a_slot_of_a_partition_again_whatever_ended_the_attempt(
    database: Database, backend: Backend, end: Callable[[Database, Backend, Job], None]
) -> None:
    rule(database, partition_max_running=1)
    insert(database, "aaab")
    runner = Runner(database)
    first = next(it for it in runner.admit() if it.partition == "a")
    assert runner.admit() == []
    end(database, backend, first)
    assert runner.partitions() == ["a"]


def test_admit_counts_jobs_that_were_dispatched_before_there_was_a_limit_of_partitions(
    database: Database,
) -> None:
    insert(database, "aaaa")
    claim(database, 2)
    rule(database, partition_max_running=2)
    assert Runner(database).admit() == []


def test_admit_counts_the_priorities_of_a_partition_together(database: Database) -> None:
    rule(database, partition_max_running=2)
    for priority in ("high", "normal", "low"):
        insert(database, "aa", priority=priority)
    taken = [len(Runner(database, priority).admit()) for priority in ("high", "normal", "low")]
    assert taken == [2, 0, 0]


def test_admit_keeps_the_limits_of_the_function_and_of_its_partitions(database: Database) -> None:
    rule(database, max_running=3, partition_max_running=2)
    insert(database, "aaabbbccc")
    jobs = Runner(database).admit()
    assert len(jobs) == 3
    assert max(Counter(it.partition for it in jobs).values()) <= 2


def test_admit_writes_no_row_of_a_job_that_it_holds_back(database: Database, backend: Backend) -> None:
    rule(database, partition_max_running=1)
    insert(database, "aaaa")
    runner = Runner(database)
    assert len(runner.admit()) == 1
    before = backend.execute("SELECT * FROM job ORDER BY jobid")
    for _ in range(3):
        assert runner.admit() == []
    assert backend.execute("SELECT * FROM job ORDER BY jobid") == before


# ---- rates


def test_admit_keeps_the_rate_of_each_partition(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    rule(database, partition_rate="2/s", partition_burst=1)
    insert(database, "aaaabb")
    runner = Runner(database)
    counts = []
    for seconds in (0.0, 0.25, 0.25, 0.5, 0.5):
        clock.advance(seconds)
        counts.append(sorted(filter(None, runner.partitions())))
    assert counts == [["a", "b"], [], ["a", "b"], ["a"], ["a"]]


def test_admit_says_when_a_partition_may_get_more(database: Database, clock: Clock) -> None:
    clock.set(NOON + 0.25)
    rule(database, partition_rate="30/m", partition_burst=1)
    insert(database, "aa")
    runner = Runner(database)
    assert len(runner.admit()) == 1
    assert runner.held_back == pytest.approx(2.0, abs=0.002)


def test_forget_partition_rates_deletes_those_that_are_over(
    database: Database, clock: Clock, backend: Backend
) -> None:
    clock.set(NOON)
    rule(database, partition_rate="1/m")
    insert(database, "abc")
    assert len(Runner(database).admit()) == 3
    assert database.forget_partitions() == 0
    clock.advance(61)
    assert database.forget_partitions() == 3
    assert backend.execute("SELECT * FROM partition_rate") == []


# ---- turns


def test_admit_hands_out_one_job_of_each_partition_per_round(database: Database) -> None:
    rule(database, fair=True)
    insert(database, "aaaabbc")
    assert Runner(database).partitions() == ["a", "b", "c", "a", "b", "a", "a"]


def test_admit_continues_a_round_where_the_last_one_ended(database: Database) -> None:
    rule(database, fair=True)
    insert(database, "aaaabbccd")
    runner = Runner(database)
    assert [runner.partitions(2) for _ in range(5)] == [
        ["a", "b"],
        ["c", "d"],
        ["a", "b"],
        ["c", "a"],
        ["a"],
    ]


def test_admit_hands_out_a_lonely_job_within_one_round(database: Database) -> None:
    rule(database, fair=True)
    insert(database, ["big"] * 50)
    runner = Runner(database)
    runner.admit(5)
    insert(database, ["small"])
    assert "small" in runner.partitions(2)


def test_admit_leaves_no_room_unused_if_one_partition_has_jobs(database: Database) -> None:
    rule(database, fair=True)
    insert(database, ["big"] * 40 + ["small"])
    assert len(Runner(database).admit(30)) == 30


def test_admit_hands_out_all_jobs_of_many_partitions_once(database: Database, backend: Backend) -> None:
    rule(database, partition_max_running=1)
    jobids = insert(database, [f"p{number % 300}" for number in range(600)])
    runner = Runner(database)
    ran: list[int] = []
    while jobs := runner.admit(70):
        assert len({it.partition for it in jobs}) == len(jobs)
        ran += [it.jobid for it in jobs]
        complete(database, jobs)
    assert sorted(ran) == jobids
    assert backend.execute("SELECT * FROM turn") == backend.execute("SELECT * FROM turn_partition") == []


# ---- turns that have gone stale


def stop_by_deletion(database: Database, backend: Backend, jobid: int) -> None:
    backend.execute(f"DELETE FROM job WHERE jobid = {jobid}")


def stop_by_cancel(database: Database, backend: Backend, jobid: int) -> None:
    backend.execute(f"UPDATE job SET run_after = 2147483647 WHERE jobid = {jobid}")


def stop_by_delay(database: Database, backend: Backend, jobid: int) -> None:
    backend.execute(f"UPDATE job SET run_after = run_after + 3600 WHERE jobid = {jobid}")


def stop_by_priority(database: Database, backend: Backend, jobid: int) -> None:
    backend.execute(f"UPDATE job SET priority = 2 WHERE jobid = {jobid}")


@pytest.mark.parametrize("stop", [stop_by_deletion, stop_by_cancel, stop_by_delay, stop_by_priority])
def test_admit_passes_over_turns_of_jobs_that_are_not_due_in_the_lane(
    database: Database, backend: Backend, stop: Callable[[Database, Backend, int], None]
) -> None:
    rule(database, partition_max_running=1)
    jobids = insert(database, "aaaa")
    runner = Runner(database)
    (first,) = runner.admit()
    assert first.jobid == jobids[0]
    for jobid in jobids[1:3]:
        stop(database, backend, jobid)
    complete(database, [first])
    assert [it.jobid for it in runner.admit()] == jobids[3:]


def test_admit_skips_a_locked_job_and_hands_it_out_later(database: Database, backend: Backend) -> None:
    rule(database, fair=True)
    jobids = insert(database, "aaa")
    runner = Runner(database)
    if not database.locks_rows:
        return
    with database.transaction() as run:
        run("present", jobids=jobids[:1])
        other = database.with_lock_timeout(1)
        place = START
        jobs, _, place = other.admit(lane(), limit=1, lease=LEASE, place=place)
        assert [it.jobid for it in jobs] == jobids[1:2]
        other.close()
    assert [it.jobid for it in runner.admit()] == [jobids[0], jobids[2]]


def test_admit_hands_out_a_job_again_that_has_come_back(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    rule(database, fair=True)
    put(database, partition="a")
    runner = Runner(database)
    (first,) = runner.admit()
    database.release([first])
    clock.advance(SWEEP_AGE)
    (again,) = runner.admit()
    assert (again.jobid, again.attempt) == (first.jobid, 2)
    settle(database, again.handle, "failed")
    clock.advance(86400)
    (third,) = runner.admit()
    assert third.attempt == 3


def test_admit_finds_each_job_of_a_backlog_that_is_longer_than_a_page(
    database: Database, clock: Clock
) -> None:
    clock.set(NOON)
    jobids = insert(database, ["big"] * (2 * PAGE))
    clock.advance(LAG + 1)
    rule(database, partition_max_running=1)
    small = insert(database, ["small"])
    runner = Runner(database)
    jobs = runner.admit()
    assert {it.jobid for it in jobs} == {jobids[0], *small}  # the new one waits behind no backlog
    assert runner.held_back == 0.0
    rule(database, fair=True, partition_max_running=10_000)
    ran = [it.jobid for _ in range(30) for it in runner.admit()]
    assert sorted(ran) == jobids[1:]


def test_admit_finds_a_job_that_was_committed_late(
    database: Database, clock: Clock, backend: Backend
) -> None:
    clock.set(NOON)
    rule(database, partition_max_running=1)
    insert(database, ["big"] * (PAGE + 10))
    runner = Runner(database)
    clock.advance(LAG + 1)
    for _ in range(4):
        runner.admit()
    (late,) = insert(database, ["late"])
    backend.execute(f"UPDATE job SET run_after = run_after - {LAG + 1} WHERE jobid = {late}")
    ran = []
    for _ in range(4):
        clock.advance(SWEEP_AGE)
        ran += [it.jobid for it in runner.admit()]
    assert ran == [late]


# ---- several QueueRunners


def test_admit_of_two_queue_runners_keeps_the_limit_of_each_partition(database: Database) -> None:
    """Each hands out and completes jobs, until all have run."""
    rule(database, partition_max_running=2)
    jobids = insert(database, [f"p{number % 3}" for number in range(60)])
    lock, held, ran = threading.Lock(), Counter[str | None](), list[int]()
    most: list[int] = []

    def run() -> None:
        runner = Runner(database)
        before: list[Job] = []
        while len(ran) < len(jobids):
            jobs = runner.admit(3)
            with lock:  # those of before are still in flight
                held.update(it.partition for it in jobs)
                most.append(max(held.values(), default=0))
                held.subtract(it.partition for it in before)
                ran.extend(it.jobid for it in before)
            complete(database, before)
            before = jobs

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ran) == jobids
    assert max(most) <= 2


def test_admit_of_partitions_takes_turns_with_another_admission(database: Database) -> None:
    """It would count before the other has committed. On SQLite all transactions take turns."""
    rule(database, partition_max_running=1)
    insert(database, "aab")
    if database.locks_rows:
        other = database.with_lock_timeout(1)
        with database.transaction() as run:
            jobs, _, _ = admit(run, lane(), limit=10, lease=LEASE)
            assert len(jobs) == 2
            assert other.admit(lane(), limit=10, lease=LEASE)[:2] == ([], 0.0)
        assert other.admit(lane(), limit=10, lease=LEASE).jobs == []
        other.close()


# ---- rules that change


def test_admit_follows_rules_that_change(database: Database) -> None:
    insert(database, "aaaabbbb")
    runner = Runner(database)
    rule(database, partition_max_running=1)
    assert len(runner.admit()) == 2
    rule(database, partition_max_running=2)
    assert len(runner.admit()) == 2
    database.replace_function("f", FunctionPolicy(max_running=5))
    assert len(runner.admit()) == 1


def test_claim_takes_the_jobs_of_a_function_that_has_no_rules_any_more(
    database: Database, backend: Backend
) -> None:
    rule(database, partition_max_running=1)
    jobids = insert(database, "aaaa")
    (first,) = Runner(database).admit()
    database.unset_function("f")
    assert [it.jobid for it in claim(database)] == jobids[1:]
    while database.forget_partitions():
        pass
    assert backend.execute("SELECT * FROM turn") == backend.execute("SELECT * FROM turn_partition") == []
    assert first.jobid == jobids[0]


def test_forget_partitions_leaves_the_turns_of_functions_with_rules(
    database: Database, backend: Backend
) -> None:
    rule(database, partition_max_running=1)
    insert(database, "aaaa")
    Runner(database).admit()
    assert database.forget_partitions() == 0
    assert len(backend.execute("SELECT * FROM turn")) == 3


def test_head_is_the_job_that_an_admission_takes_next(database: Database) -> None:
    rule(database, partition_max_running=1)
    insert(database, "aabb")
    runner = Runner(database)
    runner.admit(1)
    head = database.head(lane(), runner.place)
    assert [it.jobid for it in runner.admit(1)] == [head]
    assert database.head(lane(), runner.place) is None
