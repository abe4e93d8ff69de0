"""The events of jobs that start and end: their groups, their seconds, and no cost while nobody listens."""

import asyncio
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, TypeAlias, cast

import pytest

from garivini import Discard, Job, Retry, events
from garivini.gearman.aio import Held
from garivini.keeper.database_clock import DatabaseClock
from garivini.keeper.execution import Execution
from garivini.keeper.job_events import JobEvents
from garivini.keeper.outcome_queue import OutcomeQueue
from garivini.keeper.wakeup import Wakeup
from garivini.model.outcome import Setback
from garivini.worker import def_jobs
from garivini.worker.links import Links
from tests.processes import PATIENCE
from tests.system import Seen, system
from tests.test_controller import called, stock

Events: TypeAlias = list[tuple[str, dict[str, Any]]]

#: The database's clock is this much ahead of the monotonic clock of the test.
_OFFSET: Final = 1_000_000.0


class Clock:
    """A monotonic clock that the test sets, and that counts its readings."""

    def __init__(self) -> None:
        self.now = 100.0
        self.readings = 0

    def __call__(self) -> float:
        self.readings += 1
        return self.now


@pytest.fixture
def got() -> Iterator[Events]:
    """The events, to which it listens."""
    found: Events = []
    unlisten = events.listen(lambda name, fields: found.append((name, fields)))
    yield found
    unlisten()


def events_by(clock: Clock, offset: float | None = _OFFSET) -> JobEvents:
    return JobEvents(7, cast(DatabaseClock, SimpleNamespace(offset=offset)), clock)


def due(seconds: float, funcname: str = "f", run_after: int | None = None) -> Execution:
    """Return an execution of a job that is due the given seconds after the clock's first reading."""
    at = int(_OFFSET + 100 + seconds) if run_after is None else run_after
    return Execution(Job(jobid=1, dbid=7, funcname=funcname, arg=b"", run_after=at), cast(Held, None), "w")


def queue_by(clock: Clock, reported: JobEvents) -> OutcomeQueue:
    """Return a queue whose outcomes are all committed, and then reported."""
    writer: Any = SimpleNamespace(write=lambda executions: [])
    reports: Any = SimpleNamespace(step=lambda: None)
    return OutcomeQueue(7, writer, reports, Wakeup(threading.Event()), reported.end, clock)


# ---- the part


def test_step_reports_starts_by_function_with_the_seconds_since_they_were_due(
    got: Events,
) -> None:
    clock = Clock()
    reported = events_by(clock)
    for execution in (due(-4), due(-1, "g"), due(-2)):
        reported.start(execution)
        clock.now += 0.5
    assert got == []
    reported.step()
    reported.step()
    of_f = {"dbid": 7, "function": "f", "jobs": 2, "wait_sum": 7, "wait_max": 4, "waits": [4, 3]}
    of_g = {"dbid": 7, "function": "g", "jobs": 1, "wait_sum": 1.5, "wait_max": 1.5, "waits": [1.5]}
    assert got == [("jobs.started", of_f), ("jobs.started", of_g)]


def test_step_counts_a_start_before_the_due_time_as_no_wait(got: Events) -> None:
    clock = Clock()
    reported = events_by(clock)
    reported.start(due(3))
    reported.step()
    assert got[0][1]["waits"] == [0]


@pytest.mark.parametrize(("offset", "run_after"), [(None, None), (_OFFSET, 0)], ids=["clock", "due time"])
def test_step_reports_a_start_without_its_wait_if_that_is_unknown(
    got: Events, offset: float | None, run_after: int | None
) -> None:
    clock = Clock()
    reported = events_by(clock, offset)
    reported.start(due(-1, run_after=run_after))
    reported.step()
    ((_, fields),) = got
    assert (fields["jobs"], fields["wait_sum"], fields["wait_max"], fields["waits"]) == (1, 0, 0, [])


def test_end_reports_a_batch_by_function_and_outcome_after_the_starts(
    got: Events,
) -> None:
    clock = Clock()
    reported = events_by(clock)
    queue = queue_by(clock, reported)
    failed, returned = due(0), due(0)
    failed.setback = Setback(handle=failed.job.handle, kind="failed")
    returned.returned = True
    for seconds, execution in enumerate((due(0), due(0), failed, due(0, "g"), returned), start=1):
        reported.start(execution)
        clock.now += seconds
        queue.end(execution)
    queue.step()
    names = [name for name, _ in got]
    assert names == ["jobs.started"] * 2 + ["jobs.ended"] * 4
    ended = [
        (*(fields[key] for key in ("function", "outcome", "jobs", "run_sum", "run_max")), fields["runs"])
        for _, fields in got[2:]
    ]
    assert ended == [
        ("f", "succeeded", 2, 3, 2, [1, 2]),
        ("f", "failed", 1, 3, 3, [3]),
        ("g", "succeeded", 1, 4, 4, [4]),
        ("f", "returned", 1, 5, 5, [5]),
    ]


def test_end_leaves_out_jobs_that_were_not_measured(got: Events) -> None:
    clock = Clock()
    reported = events_by(clock)
    queue = queue_by(clock, reported)
    queue.end(due(0))  # it started before anybody listened, or did not start
    queue.step()
    assert got == []


def test_step_notices_within_a_round_that_somebody_listens() -> None:
    clock = Clock()
    reported = events_by(clock)
    found = [reported.enabled]
    unlisten = events.listen(lambda name, fields: None)
    reported.step()
    found.append(reported.enabled)
    unlisten()
    reported.step()
    found.append(reported.enabled)
    assert found == [False, True, False]


def test_end_takes_no_time_and_makes_no_event_while_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    emitted: list[str] = []
    monkeypatch.setattr(events, "emit", lambda name, **fields: emitted.append(name))
    clock = Clock()
    reported = events_by(clock)
    queue = queue_by(clock, reported)
    executions = [due(0) for _ in range(100)]
    for execution in executions:
        queue.end(execution)
    assert clock.readings == 0
    queue.step()
    reported.step()
    assert emitted == []
    assert all(execution.ended_at == 0 for execution in executions)


# ---- in a worker and a Controller


def jobs(seen: Seen, name: str, *keys: str) -> Counter[Any]:
    """Return the jobs of all events of this name by these fields."""
    found: Counter[Any] = Counter()
    for fields in seen.of(name):
        found[tuple(fields[key] for key in keys)] += fields["jobs"]
    return found


async def ended(seen: Seen, count: int) -> None:
    await seen.until(lambda: jobs(seen, "jobs.ended")[()] >= count)


async def test_a_worker_reports_the_starts_and_ends_of_def_and_async_def_functions(tmp_path: Path) -> None:
    began = time.monotonic()
    spent: defaultdict[str, float] = defaultdict(float)
    async with system(tmp_path) as queue:

        @queue.worker.function("plain")
        def plain(job: Job) -> None:
            before = time.monotonic()
            time.sleep(0.01)
            spent["plain"] += time.monotonic() - before

        @queue.worker.function("awaited")
        async def awaited(job: Job) -> None:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            spent["awaited"] += time.monotonic() - before

        @queue.worker.function("broken")
        def broken(job: Job) -> None:
            raise {b"0": ValueError("no luck"), b"1": Retry(3600), b"2": Discard("never")}[job.arg]

        for number in range(3):
            for funcname in ("plain", "awaited", "broken"):
                await queue.call(queue.client.insert_job, funcname, b"%d" % number)
        queue.start_queue_runner()
        queue.start_worker()
        await ended(queue.seen, 9)
        assert jobs(queue.seen, "jobs.started", "function") == {
            ("plain",): 3,
            ("awaited",): 3,
            ("broken",): 3,
        }
        assert jobs(queue.seen, "jobs.ended", "function", "outcome") == {
            ("plain", "succeeded"): 3,
            ("awaited", "succeeded"): 3,
            ("broken", "failed"): 1,
            ("broken", "rescheduled"): 1,
            ("broken", "discarded"): 1,
        }
        elapsed = time.monotonic() - began
        for fields in queue.seen.of("jobs.started"):
            assert len(fields["waits"]) == fields["jobs"]
            # A due time is in whole seconds, and the database's clock is known up to the time of a read.
            assert 0 <= fields["wait_max"] <= 2 * elapsed + 1
        for funcname in ("plain", "awaited"):
            runs = [
                run for it in queue.seen.of("jobs.ended") if it["function"] == funcname for run in it["runs"]
            ]
            assert spent[funcname] <= sum(runs) <= 3 * elapsed


@pytest.mark.slow
async def test_a_worker_reports_no_start_of_a_job_that_it_gives_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(def_jobs, "Links", lambda slots: Links(2))  # it holds a job behind the one that runs
    release = threading.Event()
    async with system(tmp_path) as queue:

        @queue.worker.function("slow")
        def slow(job: Job) -> None:
            release.wait(PATIENCE)

        queue.start_queue_runner()
        queue.start_worker()
        await queue.call(queue.client.insert_job, "slow")
        await queue.seen.wait("jobs.started")
        await queue.call(queue.client.insert_job, "slow")
        await queue.seen.wait("jobs.given_back")
        assert jobs(queue.seen, "jobs.started")[()] == 1
        release.set()
        await ended(queue.seen, 2)
        assert jobs(queue.seen, "jobs.started")[()] == 2


@contextmanager
def nobody_listening() -> Iterator[None]:
    """Remove all listeners but the log."""
    removed = events._listeners[1:]
    del events._listeners[1:]
    try:
        yield
    finally:
        events._listeners.extend(removed)


async def test_a_worker_measures_nothing_while_nobody_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Execution] = []
    monkeypatch.setattr(JobEvents, "start", lambda self, execution: measured.append(execution))
    async with system(tmp_path) as queue:
        with nobody_listening():

            @queue.worker.function("plain")
            def plain(job: Job) -> None:
                pass

            @queue.worker.function("awaited")
            async def awaited(job: Job) -> None:
                pass

            for funcname in ("plain", "awaited"):
                await queue.call(queue.client.insert_job, funcname)
            queue.start_queue_runner()
            queue.start_worker()
            await queue.gone()
        assert measured == []


@pytest.mark.slow
async def test_a_controller_reports_its_calls_from_their_submission_to_their_answer(tmp_path: Path) -> None:
    async with system(tmp_path) as queue, stock(queue.address) as worker:
        _, held = await called(queue, worker)
        started = await queue.seen.wait("jobs.started")
        assert [(it["function"], it["jobs"], len(it["waits"])) for it in started] == [("f", 1, 1)]
        held.fail()
        (fields,) = await queue.seen.wait("jobs.ended")
        assert (fields["function"], fields["outcome"], fields["jobs"]) == ("f", "failed", 1)
        (run,) = fields["runs"]
        assert run > 0
        assert fields["run_sum"] == fields["run_max"] == round(run, 6)
