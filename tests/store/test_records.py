"""What jobs said and what is kept of finished ones, said once for every kind of database."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from garivini.errors import UsageError
from garivini.model.job import Handle, Job
from garivini.model.new_jobs import new_job
from garivini.model.outcome import Report, ReportKind, Setback, Success
from garivini.model.policy import FunctionPolicy
from garivini.model.records import KeptJob, Reported
from garivini.model.state import State
from garivini.model.when import Offset
from garivini.store.database import Database, Lane
from garivini.store.records import MAX_LINE, MAX_LINES, MAX_RESULT
from garivini.store.statements import Statements
from tests.processes import PATIENCE
from tests.store.conftest import Backend, Clock, MariaDBDatabase

#: A time of day in 2023.
NOON = 1_700_000_000


def running(database: Database, count: int = 1, **fields: Any) -> list[Job]:
    """Insert jobs and claim them."""
    database.insert([new_job("f", b"", **fields) for _ in range(count)])
    return database.claim(Lane("f", State.WAITING, "normal", 0), limit=count, lease=60)


def say(job: Job, *lines: bytes, kind: ReportKind = "data") -> list[Report]:
    return [Report(job.handle, kind, line) for line in lines]


def rows(backend: Backend) -> dict[str, int]:
    """Count what is stored."""
    return {
        table: backend.execute(f"SELECT COUNT(*) FROM {table}")[0][0]
        for table in ("job", "failure", "report", "finished")
    }


NOTHING = {"job": 0, "failure": 0, "report": 0, "finished": 0}


# ---- reports


def test_report_writes_over_progress_and_keeps_lines_in_order(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    (job,) = running(database)
    database.report([*say(job, b"1/10", kind="status"), *say(job, b"\xff\0 first")])
    clock.advance(5)
    database.report(
        [
            *say(job, b"2/10", kind="status"),
            *say(job, b"second", kind="warning"),
            *say(job, b"3/10", kind="status"),
            *say(job, b""),
        ]
    )
    assert database.reports(job.jobid) == [
        Reported(1, "status", NOON + 5, b"3/10"),
        Reported(1, "data", NOON, b"\xff\0 first"),
        Reported(1, "warning", NOON + 5, b"second"),
        Reported(1, "data", NOON + 5, b""),
    ]


def test_reports_of_a_job_without_any_are_none(database: Database) -> None:
    database.report([])
    assert database.reports(1) == []


def test_reports_are_of_each_attempt(database: Database) -> None:
    (job,) = running(database)
    database.report(say(job, b"one"))
    database.settle([Setback(handle=job.handle, kind="failed", when=Offset(0))])
    (again,) = database.claim(Lane("f", State.WAITING, "normal", 0), limit=1, lease=60)
    database.report(say(again, b"two"))
    assert [(said.attempt, said.body) for said in database.reports(job.jobid)] == [(1, b"one"), (2, b"two")]


def test_report_ignores_who_does_not_hold_the_job(database: Database) -> None:
    first, second, third = running(database, 3)
    database.give_back([first.handle])
    database.complete([second.jobid])
    stale = Handle(third.jobid, 1, 7)
    unfenced = Handle(third.jobid, 1)
    reports = [
        Report(handle, kind, b"x")
        for handle in (first.handle, second.handle, stale, unfenced)
        for kind in ("status", "data")
    ]
    database.report([*reports, *say(third, b"kept")])
    assert [database.reports(job.jobid) for job in (first, second)] == [[], []]
    assert [said.body for said in database.reports(third.jobid)] == [b"kept"]


def test_report_cuts_a_line_and_keeps_the_first_of_too_many(database: Database) -> None:
    (job,) = running(database)
    database.report(say(job, b"x" * (MAX_LINE + 1)))
    database.report(say(job, *(b"%d" % number for number in range(2, MAX_LINES + 20))))
    database.report(say(job, b"late"))
    said = database.reports(job.jobid)
    assert said[0].body == b"x" * MAX_LINE
    assert [line.body for line in said[1:]] == [b"%d" % number for number in range(2, MAX_LINES + 1)]


def test_report_keeps_all_lines_of_the_same_time(database: Database) -> None:
    (job,) = running(database)
    together = threading.Barrier(4)

    def report(name: int) -> None:
        together.wait(PATIENCE)
        for number in range(10):
            database.report(say(job, b"%d %d" % (name, number)))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(report, range(4)))
    said = [line.body for line in database.reports(job.jobid)]
    assert sorted(said) == sorted(b"%d %d" % (name, number) for name in range(4) for number in range(10))


# ---- what is gone leaves nothing


def test_complete_deletes_the_record_and_the_reports_of_its_job(database: Database, backend: Backend) -> None:
    jobs = running(database, 4)
    database.report([*say(jobs[1], b"1/2", kind="status"), *say(jobs[2], b"x"), *say(jobs[3], b"x")])
    database.settle([Setback(handle=jobs[3].handle, kind="failed")])
    assert database.complete([job.jobid for job in jobs]) == {job.jobid for job in jobs}
    assert rows(backend) == NOTHING


def test_complete_leaves_the_reports_of_jobs_whose_ids_lie_between_its_own(database: Database) -> None:
    before, between, after = running(database, 3)
    database.report(say(between, b"x"))
    assert before.jobid < between.jobid < after.jobid
    database.complete([before.jobid, after.jobid])
    assert [said.body for said in database.reports(between.jobid)] == [b"x"]


def test_complete_deletes_records_of_jobs_whose_ids_lie_far_apart(
    database: Database, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("garivini.store.outcomes._NEAR", 2)
    jobs = running(database, 3)
    database.report(say(jobs[0], b"x") + say(jobs[2], b"y"))
    database.complete([job.jobid for job in jobs])
    assert rows(backend) == NOTHING


def test_complete_of_a_job_without_reports_is_two_statements_that_read_no_row(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = running(database, 3)
    database.report(say(jobs[2], b"x"))
    ran: list[str] = []
    call = Statements.__call__

    def spy(run: Statements, name: str, /, *rows: Any, **values: Any) -> Any:
        ran.append(name)
        return call(run, name, *rows, **values)

    monkeypatch.setattr(Statements, "__call__", spy)
    database.complete([jobs[0].jobid])
    database.finish([Success(jobs[1].jobid, 1)])
    assert ran == ["complete_range", "any_records"] * 2
    database.complete([jobs[2].jobid])
    assert ran[4:] == ["complete_range", "any_records", "with_records", "forget_failures", "forget_reports"]
    ran.clear()
    assert database.complete([jobs[2].jobid]) == set()
    assert ran == ["complete_range", "present"]  # which are gone is asked only where some are


@pytest.mark.parametrize("chosen", [[0], [1, 2, 3], [3, 1, 2, 1], [0, 2], [0, 1, 2, 4], [0, 1, 2, 3, 4]])
def test_complete_deletes_its_jobs_alone_with_and_without_a_gap_between_their_ids(
    database: Database, chosen: list[int]
) -> None:
    jobs = running(database, 5)
    jobids = [jobs[index].jobid for index in chosen]
    assert database.complete(jobids) == set(jobids)
    assert {job.jobid for job in database.jobs()} == {job.jobid for job in jobs} - set(jobids)
    assert database.complete([job.jobid for job in jobs]) == {job.jobid for job in jobs} - set(jobids)


def test_complete_leaves_the_reports_of_others(database: Database) -> None:
    one, other = running(database, 2)
    database.report([*say(one, b"x"), *say(other, b"y")])
    database.complete([one.jobid])
    assert [said.body for said in database.reports(other.jobid)] == [b"y"]


def test_finish_without_a_retention_deletes_the_job(database: Database, backend: Backend) -> None:
    (job,) = running(database)
    database.report(say(job, b"x"))
    finishes = [Success(job.jobid, 1, b"result", "w"), Success(999_999, 1)]
    assert database.finish(finishes) == {job.jobid}
    assert rows(backend) == NOTHING
    assert database.finished(job.jobid) is None


# ---- finished jobs that are kept


def test_finish_keeps_a_job_with_all_that_is_known_of_it(
    database: Database, backend: Backend, clock: Clock
) -> None:
    clock.set(NOON)
    (job,) = running(database, uniqkey="k")
    database.settle([Setback(handle=job.handle, kind="failed", when=Offset(0))])
    (job,) = database.claim(Lane("f", State.WAITING, "normal", 0), limit=1, lease=60)
    database.report(say(job, b"2/2", kind="status"))
    clock.advance(10)
    finish = Success(job.jobid, job.attempt, b"\xff\0 result", "w\ud800", 3600)
    assert database.finish([finish]) == {job.jobid}
    assert database.finished(job.jobid) == KeptJob(
        jobid=job.jobid,
        funcname="f",
        uniqkey="k",
        attempt=2,
        failcount=1,
        created=NOON,
        finished_at=NOON + 10,
        expires=NOON + 3610,
        worker="w\\ud800",
        result=b"\xff\0 result",
    )
    assert database.get(job.jobid) is None
    assert [said.body for said in database.reports(job.jobid)] == [b"2/2"]
    assert [record.attempt for record in database.failures(job.jobid)] == [1]
    assert rows(backend) == {"job": 0, "failure": 1, "report": 1, "finished": 1}
    # Its key is free.
    assert database.insert([new_job("f", b"", uniqkey="k")])[0].new


def test_finish_goes_by_the_id_alone(database: Database) -> None:
    first, second = running(database, 2)
    database.give_back([first.handle, second.handle])
    database.finish([Success(first.jobid, None, retention=60), Success(second.jobid, 7, retention=60)])
    attempts = [kept.attempt for job in (first, second) if (kept := database.finished(job.jobid))]
    assert attempts == [1, 7]


def test_finish_again_changes_nothing(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    (job,) = running(database)
    assert database.finish([Success(job.jobid, 1, b"first", retention=60)]) == {job.jobid}
    before = database.finished(job.jobid)
    clock.advance(1)
    assert database.finish([Success(job.jobid, 1, b"second", retention=60)]) == set()
    assert database.finish([Success(job.jobid, 1)]) == set()
    assert database.finished(job.jobid) == before


def test_finish_of_many_keeps_some_of_them(database: Database, backend: Backend) -> None:
    jobs = running(database, 1000) + running(database, 500)
    database.report([report for job in jobs[:4] for report in say(job, b"x")])
    finishes = [Success(job.jobid, 1, b"r", retention=60 * (job.jobid % 2)) for job in jobs]
    assert database.finish(finishes) == {job.jobid for job in jobs}
    assert rows(backend) == {"job": 0, "failure": 0, "report": 2, "finished": 750}


def test_finish_leaves_out_a_result_that_is_too_large(database: Database) -> None:
    small, large, largest = running(database, 3)
    database.report(say(large, *[b"x"] * MAX_LINES))
    database.connections.dialect.statement_bytes = 1000
    database.connections.dialect.statement_setting = "max_allowed_packet"  # type: ignore[misc]
    database.finish([Success(small.jobid, 1, b"x" * 1000, retention=60)])
    database.finish([Success(large.jobid, 1, b"x" * 1001, retention=60)])
    database.connections.dialect.statement_bytes = MAX_RESULT + 1000
    database.finish([Success(largest.jobid, 1, bytes(MAX_RESULT + 1), retention=60)])
    results = [kept.result for job in (small, large, largest) if (kept := database.finished(job.jobid))]
    assert results == [b"x" * 1000, None, None]
    assert database.reports(small.jobid) == []
    last = database.reports(large.jobid)[-1]
    assert last.kind == "warning"
    assert b"the result of 1001 bytes was left out" in last.body
    assert b"max_allowed_packet" in last.body
    (said,) = database.reports(largest.jobid)
    assert b"takes at most %d" % MAX_RESULT in said.body
    assert database.get(large.jobid) is None


def test_kept_jobs_are_read_in_the_order_of_their_ids_without_results(
    database: Database, clock: Clock
) -> None:
    clock.set(NOON)
    jobs = running(database, 3)
    database.finish([Success(job.jobid, 1, b"r", "w", 60, 0.5) for job in reversed(jobs)])
    first, second, third = (job.jobid for job in jobs)
    found = database.kept_jobs()
    assert [kept.jobid for kept in found] == [first, second, third]
    assert found[0] == KeptJob(first, "f", None, 1, 0, NOON, NOON, NOON + 60, "w", None, 0.5)
    assert [kept.jobid for kept in database.kept_jobs(first, 1)] == [second]


def test_forget_finished_deletes_what_has_been_kept_for_long_enough(
    database: Database, backend: Backend, clock: Clock
) -> None:
    clock.set(NOON)
    jobs = running(database, 5)
    database.report([report for job in jobs for report in say(job, b"x")])
    for number, job in enumerate(jobs):
        database.finish([Success(job.jobid, 1, retention=10 + number // 3 * 10)])
    assert database.forget_finished() == 0
    clock.advance(10)
    assert [database.forget_finished(limit) for limit in (2, 2, 2)] == [2, 1, 0]
    assert rows(backend) == {"job": 0, "failure": 0, "report": 2, "finished": 2}
    clock.advance(10)
    assert database.forget_finished() == 2
    assert rows(backend) == NOTHING


def test_forget_finished_deletes_the_record_of_a_job_with_it(
    database: Database, backend: Backend, clock: Clock
) -> None:
    clock.set(NOON)
    (job,) = running(database)
    database.settle([Setback(handle=job.handle, kind="failed")])
    database.finish([Success(job.jobid, 1, retention=1)])
    clock.advance(1)
    assert database.forget_finished() == 1
    assert rows(backend) == NOTHING


# ---- beside


def test_set_function_keeps_a_retention(database: Database) -> None:
    database.set_function("f", FunctionPolicy(retention=3600))
    database.set_function("f", FunctionPolicy(lease=60))
    database.register_functions({"f": FunctionPolicy(renews=True)})
    assert database.functions()["f"].retention == 3600
    for seconds in (0, -1, 365 * 86400 + 1):
        with pytest.raises(UsageError, match="a retention is 1 s to a year"):
            FunctionPolicy(retention=seconds)


@pytest.mark.parametrize("seconds", [0, 31_536_001])
def test_set_function_refuses_another_retention(backend: Backend, seconds: int) -> None:
    # MySQL reserves this word.
    table = "`function`" if isinstance(backend, MariaDBDatabase) else "function"
    with pytest.raises(Exception, match=r"(?i)constraint"):
        backend.execute(f"INSERT INTO {table} (funcname, retention) VALUES ('f', {seconds})")


def test_probe_leaves_nothing(database: Database, backend: Backend) -> None:
    database.probe()
    assert rows(backend) == NOTHING
