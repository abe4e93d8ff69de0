"""The parts of a keeper, each by itself: no thread, no database."""

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from garivini import events
from garivini.clock import Clock
from garivini.errors import RefusedError, UnreachableError
from garivini.keeper.execution import Execution
from garivini.keeper.functions import Functions
from garivini.keeper.outcome_queue import OutcomeQueue
from garivini.keeper.recognition import Recognition
from garivini.keeper.reports import Reports
from garivini.keeper.rounds import Rounds
from garivini.keeper.setback_writer import SetbackWriter
from garivini.keeper.step import NOT_DUE
from garivini.keeper.time_limit import TimeLimit
from garivini.keeper.wakeup import Wakeup
from garivini.model.job import Job
from garivini.model.policy import FunctionPolicy


class Part:
    """Counts its steps, and raises an error if it has one."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.steps = 0
        self.due = NOT_DUE

    def step(self) -> None:
        self.steps += 1
        if self.error is not None:
            raise self.error

    def next_due(self) -> float:
        return self.due


class Refusing:
    """Refuses all outcomes, and cannot be reached from the second reduced one on."""

    def __init__(self) -> None:
        self.reduced = 0

    def write(self, executions: list[Execution]) -> list[tuple[Execution, Exception]]:
        return [(execution, RefusedError("read-only")) for execution in executions]

    def write_reduced(self, execution: Execution, error: Exception) -> bool:
        self.reduced += 1
        if self.reduced > 1:
            raise UnreachableError("away")
        return False


def execution_of(jobid: int, dbid: int = 1) -> Execution:
    return Execution(Job(jobid=jobid, dbid=dbid, funcname="f", arg=b""), cast(Any, None), "me")


#: The settings of functions that the parts have read.
STORED = {"f": FunctionPolicy(cancel_grace=100)}


def limit_of(dbid: int, running: Callable[[], Execution | None]) -> TimeLimit:
    return TimeLimit(
        dbid,
        cast(SetbackWriter, None),
        cast(Recognition, None),
        cast(Functions, SimpleNamespace(stored=STORED)),
        Wakeup(threading.Event()),
        running,
        lambda execution: None,
        time.monotonic,
        ends_process=False,
    )


def outcomes_of(writer: Any, committed: list[Execution], reports: Part | None = None) -> OutcomeQueue:
    return OutcomeQueue(
        1,
        writer,
        cast(Reports, reports or Part()),
        Wakeup(threading.Event()),
        committed.extend,
        time.monotonic,
    )


def rounds_of(*parts: Part) -> Rounds:
    nothing = limit_of(1, lambda: None)
    return Rounds(
        1,
        parts,
        Wakeup(threading.Event()),
        outcomes_of(None, []),
        nothing,
        lambda error: isinstance(error, UnreachableError),
        Clock(sleep=lambda seconds: None),
    )


def test_round_runs_all_other_parts_while_one_that_failed_pauses() -> None:
    failed, other = Part(ValueError("a defect")), Part()
    rounds = rounds_of(failed, other)
    for _ in range(2):
        rounds._round()
    assert (failed.steps, other.steps) == (1, 2)
    assert rounds.failing


def test_until_next_waits_for_the_end_of_a_pause_and_not_for_the_work_of_the_part() -> None:
    failed = Part(ValueError("a defect"))
    failed.due = 0.0
    rounds = rounds_of(failed)
    assert rounds.until_next() == 0
    rounds._round()
    assert rounds.until_next() > 0


def test_round_runs_no_later_part_if_the_database_cannot_be_reached() -> None:
    away, other = Part(UnreachableError("away")), Part()
    rounds = rounds_of(away, other)
    rounds._round()
    rounds._round()
    assert (away.steps, other.steps) == (2, 0)
    away.error = None
    rounds._round()
    assert other.steps == 1
    assert not rounds.failing


def test_step_of_outcomes_keeps_each_execution_once_if_the_database_goes_away_meanwhile() -> None:
    committed: list[Execution] = []
    outcomes = outcomes_of(Refusing(), committed)
    for jobid in (1, 2, 3):
        outcomes.end(execution_of(jobid))
    with pytest.raises(UnreachableError):
        outcomes.step()
    assert outcomes.unwritten == 3
    assert committed == []


def test_step_of_outcomes_writes_the_reports_of_each_job_before_its_outcome() -> None:
    """Also those of a job that ends while the reports of others are being written."""
    written: list[object] = []
    reports: list[int] = [1]
    first, second = execution_of(1), execution_of(2)

    class Writing(Part):
        def step(self) -> None:
            written.extend(("report", jobid) for jobid in reports)
            reports.clear()
            if not self.steps:
                reports.append(2)
                outcomes.end(second)
            super().step()

    class Writer:
        def write(self, executions: list[Execution]) -> list[tuple[Execution, Exception]]:
            written.extend(("outcome", execution.job.jobid) for execution in executions)
            return []

    outcomes = outcomes_of(Writer(), [], Writing())
    outcomes.end(first)
    outcomes.step()
    assert written == [("report", 1), ("outcome", 1), ("report", 2), ("outcome", 2)]


def test_step_of_the_time_limit_reports_an_overdue_job_of_its_database_once() -> None:
    seen: list[str] = []
    unlisten = events.listen(lambda name, fields: seen.append(name))
    execution = execution_of(1, dbid=2)
    other, own = limit_of(1, lambda: execution), limit_of(2, lambda: execution)
    own.limit(execution, -1.0)
    assert other.next_due() == NOT_DUE
    assert own.next_due() < NOT_DUE
    for part in (other, own, own):
        part.step()
    unlisten()
    assert seen == ["job.overdue"]
    assert own.next_due() == NOT_DUE


def test_limit_cancelled_shortens_the_time_limit_and_does_not_lengthen_it() -> None:
    execution = execution_of(1)
    limit = limit_of(1, lambda: execution)
    now = time.monotonic()
    limit.limit_cancelled(execution)
    assert execution.limit == 100
    assert now + 100 <= limit.next_due() < now + 200
    limit.limit(execution, 5.0)
    before = limit.next_due()
    limit.limit_cancelled(execution)
    assert (execution.limit, limit.next_due()) == (5.0, before)


def test_limit_cancelled_leaves_a_job_of_a_function_without_a_grace_time_alone() -> None:
    execution = Execution(Job(jobid=1, dbid=1, funcname="g", arg=b""), cast(Any, None), "me")
    limit = limit_of(1, lambda: execution)
    limit.limit_cancelled(execution)
    assert limit.next_due() == NOT_DUE
