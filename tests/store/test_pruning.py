"""Dead jobs are deleted after the retention of their function, on every kind of database."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from garivini.errors import UsageError
from garivini.model.job import Handle
from garivini.model.limits import NEVER
from garivini.model.outcome import Report
from garivini.model.policy import FunctionPolicy
from garivini.model.state import State
from garivini.model.when import Never, Offset
from garivini.store import pruning
from garivini.store.database import Database
from tests.processes import PATIENCE
from tests.store.conformance.jobs import NOON, claim_one, job, put, settle, stored
from tests.store.conftest import Backend, Clock, MariaDBDatabase

DAY = 86400


@pytest.fixture
def aged(database: Database, clock: Clock) -> Database:
    """A database at noon whose function f keeps dead jobs for two days."""
    clock.set(NOON)
    database.set_function("f", FunctionPolicy(dead_retention=2))
    return database


def die(database: Database, **fields: Any) -> int:
    """Insert a job that fails once and is discarded then; return its id."""
    jobid = put(database, **fields)
    settle(database, Handle(jobid, 1), "failed", when=Offset(0))
    settle(database, Handle(jobid, 1), "discarded", message="no use")
    return jobid


def left(backend: Backend) -> list[int]:
    """Return the ids of the jobs that exist."""
    return [jobid for (jobid,) in backend.execute("SELECT jobid FROM job ORDER BY jobid")]


def records(backend: Backend) -> int:
    return sum(backend.execute(f"SELECT COUNT(*) FROM {table}")[0][0] for table in ("failure", "report"))


def forget_all(database: Database) -> int:
    """Delete what is due, page by page; return how many."""
    total, after = 0, 0
    while True:
        deleted, next_page = database.forget_dead(after)
        total += deleted
        if next_page is None:
            return total
        assert next_page > after
        after = next_page


def test_forget_dead_deletes_dead_jobs_with_their_records_when_their_retention_is_over(
    aged: Database, backend: Backend, clock: Clock
) -> None:
    put(aged)
    reporting = claim_one(aged)
    aged.report([Report(reporting.handle, "data", b"x")])
    settle(aged, reporting, "discarded")
    old = die(aged, uniqkey="k")
    other = die(aged, funcname="g")
    clock.advance(DAY)
    young = die(aged)
    clock.advance(DAY - 1)
    assert aged.forget_dead() == (0, None)
    clock.advance(1)
    assert aged.forget_dead() == (2, None)
    assert left(backend) == [other, young]
    assert (records(backend), aged.failures(old)) == (4, [])
    assert aged.forget_dead() == (0, None)
    # Its key is free.
    assert aged.insert([job(uniqkey="k")])[0].new


def test_forget_dead_keeps_every_other_job(aged: Database, backend: Backend, clock: Clock) -> None:
    waiting = put(aged)
    settle(aged, Handle(waiting, 1), "failed", when=Offset(9 * DAY))
    parked, moved, retried, rescheduled, without_record = (die(aged) for _ in range(5))
    # A program that knows only `run_after` has parked it.
    backend.execute(f"UPDATE job SET state = 0, run_after = {NEVER} WHERE jobid = {parked}")
    backend.execute(f"INSERT INTO failure VALUES ({moved}, 0, {NOON}, 'moved', '', '', '', '')")
    backend.execute(f"DELETE FROM failure WHERE jobid = {without_record}")
    aged.retry(retried)
    aged.retry(rescheduled)
    clock.advance(5 * DAY)
    settle(aged, Handle(rescheduled, 1), "rescheduled", when=Never())
    assert stored(aged, rescheduled).state is State.DEAD
    assert aged.forget_dead() == (0, None)
    assert left(backend) == [waiting, parked, moved, retried, rescheduled, without_record]
    clock.advance(2 * DAY)
    assert aged.forget_dead() == (1, None)
    assert rescheduled not in left(backend)


def test_forget_dead_jobs_leaves_a_job_that_was_changed_since_it_was_found(
    aged: Database, backend: Backend, clock: Clock
) -> None:
    retried, died_again, old = die(aged), die(aged), die(aged)
    clock.advance(2 * DAY)
    days = {"f": 2}
    with aged.reading() as run:
        page = pruning.outlived_dead_jobs(run, days, 0, 100)
    assert page == pruning.DeadPage([retried, died_again, old], None)
    for jobid in (retried, died_again):
        aged.retry(jobid)
    settle(aged, Handle(died_again, 1), "cancelled")
    with aged.transaction() as run:
        assert pruning.forget_dead_jobs(run, page.jobids, days) == 1
    assert left(backend) == [retried, died_again]


def test_forget_dead_leaves_out_what_another_transaction_has_locked(
    aged: Database, backend: Backend, clock: Clock
) -> None:
    if not aged.locks_rows:
        return  # a transaction has the whole database
    locked, free = die(aged), die(aged)
    clock.advance(2 * DAY)
    with aged.transaction() as other:
        other("present", jobids=[locked])
        assert aged.forget_dead() == (1, None)
    assert left(backend) == [locked]
    assert aged.forget_dead() == (1, None)
    assert free not in left(backend)


def test_forget_dead_reads_a_bounded_page_and_finds_all_in_the_end(
    aged: Database, backend: Backend, clock: Clock
) -> None:
    many, *others = (die(aged) for _ in range(4))
    rows = ", ".join(f"({many}, {attempt}, 1, 'failed', '', '', '', '')" for attempt in range(2, 1100))
    backend.execute(f"INSERT INTO failure VALUES {rows}")
    clock.advance(2 * DAY)
    with aged.reading() as run:
        assert len(run("failed", after=0, limit=1000)) == 1000
    assert aged.forget_dead() == (1, many)
    assert aged.forget_dead(many, limit=2) == (2, others[1])
    assert aged.forget_dead(others[1]) == (1, None)
    assert (left(backend), records(backend)) == ([], 0)


def test_forget_dead_does_not_cut_the_records_of_the_last_job_of_a_page(
    aged: Database, backend: Backend, clock: Clock
) -> None:
    jobs = [die(aged) for _ in range(501)]  # two records each
    odd = jobs[0]
    backend.execute(f"INSERT INTO failure VALUES ({odd}, 9, 1, 'failed', '', '', '', '')")
    clock.advance(2 * DAY)
    # The page ends between the records of the 500th job, which belongs to the next one.
    assert aged.forget_dead() == (499, jobs[498])
    assert aged.forget_dead(jobs[498]) == (2, None)
    assert left(backend) == []


def test_forget_dead_by_several_at_a_time_deletes_each_job_once(
    aged: Database, backend: Backend, clock: Clock
) -> None:
    for _ in range(60):
        die(aged)
    clock.advance(2 * DAY)
    together = threading.Barrier(3)

    def prune(_: int) -> int:
        together.wait(PATIENCE)
        total = 0
        for _ in range(12):
            total += aged.forget_dead(limit=5)[0]
        return total

    with ThreadPoolExecutor(3) as threads:
        total = sum(threads.map(prune, range(3)))
    total += forget_all(aged)
    assert (total, left(backend), records(backend)) == (60, [], 0)


def test_forget_dead_costs_one_statement_if_no_function_has_a_retention(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    die(database)
    monkeypatch.setattr(pruning, "skip_locked", None)
    monkeypatch.setattr(pruning, "_outlived", None)  # neither is called
    assert database.forget_dead() == (0, None)


def test_set_function_keeps_a_dead_retention(database: Database) -> None:
    database.register_functions({"f": FunctionPolicy(dead_retention=30)})
    database.set_function("f", FunctionPolicy(dead_retention=7))
    assert database.functions()["f"].dead_retention == 7
    database.unset_function("f")
    assert database.functions()["f"].dead_retention == 30
    for days in (0, 3651):
        with pytest.raises(UsageError, match="a dead_retention is 1 to 3650 days"):
            FunctionPolicy(dead_retention=days)


@pytest.mark.parametrize("days", [0, 3651])
def test_the_table_refuses_another_dead_retention(backend: Backend, days: int) -> None:
    table = "`function`" if isinstance(backend, MariaDBDatabase) else "function"
    with pytest.raises(Exception, match=r"(?i)constraint"):
        backend.execute(f"INSERT INTO {table} (funcname, dead_retention) VALUES ('f', {days})")
