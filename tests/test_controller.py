"""The Controller, with stock Gearman workers: they know of no database."""

import asyncio
import json
import signal
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path

import pytest

from garivini import Client, Job, State, UsageError
from garivini.gearman import aio
from garivini.gearman.packets import Type
from garivini.gearman.protocol import Finished, Submission
from garivini.keeper.execution import Execution
from garivini.model.new_jobs import new_job
from garivini.model.payload import decode_payload, encode_payload
from garivini.model.policy import Envelope, FunctionPolicy
from garivini.model.when import Offset
from garivini.roles import controller, queue_runners
from garivini.roles.answers import setback_of, text_of
from garivini.roles.controller import ControllerSettings
from garivini.roles.queue_runner import QueueRunnerSettings
from garivini.roles.waiting_room import WaitingRoom
from tests.processes import PATIENCE, command
from tests.servers import gearmand
from tests.sql_servers import SERVERS, SQLServer
from tests.system import System, system


class Stock:
    """A worker of one function that holds what it gets until the test says what becomes of it."""

    def __init__(self, address: str, function: bytes, slots: int) -> None:
        self.held: list[aio.Held] = []
        self._arrived = asyncio.Event()
        self._worker = aio.Worker(address, [function], self._take, slots=slots)
        self._running = asyncio.create_task(self._worker.run())

    def _take(self, held: aio.Held) -> None:
        self.held.append(held)
        self._arrived.set()

    async def got(self, count: int = 1) -> list[aio.Held]:
        """Wait until it has got so many in all."""
        async with asyncio.timeout(PATIENCE):
            while len(self.held) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return self.held

    async def close(self) -> None:
        self._worker.abort()
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)


@asynccontextmanager
async def stock(address: str, function: bytes = b"f", slots: int = 100) -> AsyncIterator[Stock]:
    worker = Stock(address, function, slots)
    try:
        yield worker
    finally:
        await worker.close()


Make = Callable[[], AbstractAsyncContextManager[System]]


@pytest.fixture(params=["sqlite", *SERVERS])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """A queue on SQLite and the embedded server, or on gearmand and a database server."""
    if request.param == "sqlite":
        yield lambda: system(tmp_path)
        return
    server: SQLServer = request.getfixturevalue(request.param)
    with server.database() as url, gearmand(tmp_path) as address:
        yield lambda: system(tmp_path, url, address)


async def standing(queue: System, jobid: int, state: State | None = None) -> Job:
    """Wait until the job is in this state, and return it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            job = await queue.call(queue.database.get, jobid)
            assert job is not None
            if state in (None, job.state):
                return job
            await asyncio.sleep(0.01)  # a row says nothing


async def called(queue: System, worker: Stock) -> tuple[int, aio.Held]:
    """Let a Controller call the worker for a job; return its id and what the worker has got."""
    queue.start_queue_runner()
    queue.start_controller()
    jobid, _ = await queue.call(queue.client.insert_job, "f", flag="controller")
    (held,) = await worker.got()
    return jobid, held


@pytest.mark.parametrize("envelope", ["json", "raw", "latin-1"])
async def test_a_stock_worker_runs_a_job_and_completion_deletes_it(made: Make, envelope: Envelope) -> None:
    async with made() as queue, stock(queue.address) as worker:
        await queue.call(queue.database.set_function, "f", FunctionPolicy(envelope=envelope))
        queue.start_queue_runner()
        queue.start_controller()
        arg = "Grüße".encode()
        await queue.call(queue.client.insert_job, "f", arg, flag="controller")
        (held,) = await worker.got()
        assert held.job.unique == b""
        if envelope == "raw":
            assert held.job.data == arg
        else:
            job = decode_payload(held.job.data)
            assert (job.arg, job.funcname, job.attempt) == (arg, "f", 1)
            assert (b"latin-1" in held.job.data) == (envelope == "latin-1")
        held.complete(b"thanks")
        await queue.gone()


async def test_a_result_is_kept_where_asked_with_what_the_worker_said(made: Make) -> None:
    async with made() as queue, stock(queue.address) as worker:
        await queue.call(queue.database.set_function, "f", FunctionPolicy(retention=60))
        jobid, held = await called(queue, worker)
        held.report(Type.WORK_STATUS, b"1", b"10")
        held.report(Type.WORK_DATA, b"a line")
        held.report(Type.WORK_WARNING, b"beware")
        held.report(Type.WORK_STATUS, b"7", b"10")
        held.complete(b"the result")
        await queue.gone()
        finished = await queue.call(queue.database.finished, jobid)
        assert finished is not None
        assert (finished.result, finished.attempt) == (b"the result", 1)
        said = [(one.kind, one.body) for one in await queue.call(queue.database.reports, jobid)]
        assert said == [("status", b"7/10"), ("data", b"a line"), ("warning", b"beware")]


@pytest.mark.slow
async def test_progress_is_seen_while_the_job_runs(made: Make) -> None:
    async with made() as queue, stock(queue.address) as worker:
        jobid, held = await called(queue, worker)
        for number in range(100):
            held.report(Type.WORK_STATUS, b"%d" % number, b"100")
        async with asyncio.timeout(PATIENCE):
            while not (said := await queue.call(queue.database.reports, jobid)):
                await asyncio.sleep(0.01)
        assert [(one.kind, one.body) for one in said] == [("status", b"99/100")]
        held.complete()
        await queue.gone()


async def test_lines_of_an_attempt_are_bounded_and_it_says_so(made: Make) -> None:
    async with made() as queue, stock(queue.address) as worker:
        await queue.call(queue.database.set_function, "f", FunctionPolicy(retention=60))
        jobid, held = await called(queue, worker)
        for number in range(1500):
            held.report(Type.WORK_DATA, b"%d" % number)
        held.complete()
        await queue.gone()
        said = await queue.call(queue.database.reports, jobid)
        assert [one.body for one in said[:-1]] == [b"%d" % number for number in range(999)]
        assert said[-1].kind == "warning"
        assert b"not kept" in said[-1].body


@pytest.mark.parametrize("how", ["fail", "exception"])
async def test_a_failure_counts_and_backs_off_with_the_workers_text(made: Make, how: str) -> None:
    async with made() as queue, stock(queue.address) as worker:
        jobid, held = await called(queue, worker)
        if how == "fail":
            held.fail()
        else:
            held.exception("zu groß".encode())
        await queue.seen.wait("job.failed")
        job = await standing(queue, jobid, State.WAITING)
        assert job.failcount == 1
        assert job.run_after - await queue.call(queue.database.clock) > 100
        (failure,) = await queue.call(queue.database.failures, jobid)
        assert failure.error == ("WORK_FAIL" if how == "fail" else "WORK_EXCEPTION")
        if how == "exception":
            assert failure.message == "zu groß"


async def test_exceptions_are_heard_after_a_reconnect_too(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        client = aio.Client(queue.address, exceptions=True)
        async with stock(queue.address) as worker:
            for count in (1, 2):
                call = asyncio.create_task(client.run(Submission(b"f", b"")))
                (await worker.got(count))[-1].exception(b"the reason")
                with pytest.raises(Exception, match="the reason"):
                    await call
                await client.close()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["complete", "exception"])
async def test_a_worker_asks_for_a_retry_or_gives_the_job_up(made: Make, how: str) -> None:
    async with made() as queue, stock(queue.address) as worker:
        queue.start_queue_runner()
        queue.start_controller()
        jobid, _ = await queue.call(queue.client.insert_job, "f", flag="controller")

        def answer(held: aio.Held, said: object) -> None:
            data = json.dumps(said).encode()
            held.complete(data) if how == "complete" else held.exception(data)

        answer((await worker.got())[-1], {"garivini": {"retry": 0, "reason": "busy"}})
        (rescheduled,) = await queue.seen.wait("job.rescheduled")
        assert rescheduled["message"] == "busy"
        held = (await worker.got(2))[-1]
        job = decode_payload(held.job.data)
        assert (job.attempt, job.failcount) == (2, 0)
        answer(held, {"garivini": {"discard": "no such customer"}})
        await queue.seen.wait("job.dead")
        assert (await standing(queue, jobid, State.DEAD)).failcount == 0
        failure = (await queue.call(queue.database.failures, jobid))[-1]
        assert (failure.kind, failure.message) == ("discarded", "no such customer")


JOB = Job(jobid=1, dbid=1, funcname="f", arg=b"", attempt=1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b'{"garivini": {}}',
        b'{"garivini": null}',
        b'{"garivini": {"retry": "30"}}',
        b'{"garivini": {"retry": -1}}',
        b'{"garivini": {"retry": true}}',
        b'{"garivini": {"retry": 1e99}}',
        b'{"garivini": {"retry": 30, "more": 1}}',
        b'{"garivini": {"retry": 30, "discard": "x"}}',
        b'{"garivini": {"retry": 30}, "more": 1}',
        b'{"garivini": {"discard": 1}}',
        b'[{"garivini": {"retry": 30}}]',
        b'"{\\"garivini\\": {\\"retry\\": 30}}"',
        b'{"garivini": {"discard": "\xff"}}',
        b'{"garivini": {"retry": 30}',
    ],
)
def test_what_differs_from_an_answer_is_a_result(data: bytes) -> None:
    assert setback_of(Finished(Type.WORK_COMPLETE, data), JOB, "w") is None


def test_answers_in_other_spacing_count_and_parts_of_seconds_round_up() -> None:
    setback = setback_of(Finished(Type.WORK_COMPLETE, b'{ "garivini" : {\n"retry":1.2 } }'), JOB, "w")
    assert setback is not None
    assert (setback.kind, setback.when) == ("rescheduled", Offset(2))


def test_the_text_of_an_exception_is_read_as_php_and_perl_send_it() -> None:
    assert text_of("zu groß".encode()) == "zu groß"
    assert text_of(b"\xff\x00") == "\\xff\x00"
    assert text_of(bytes.fromhex("050b0a0a") + b"too large\n") == "too large"
    assert text_of(bytes.fromhex("050b010000012c") + b"x" * 300) == "x" * 300
    assert text_of(bytes.fromhex("050b17074772c3a4e298ba")) == "Grä☺"
    assert text_of(b"\x05") == "\x05"


@pytest.mark.slow
async def test_a_lost_connection_is_no_failure_and_the_job_runs_again(tmp_path: Path) -> None:
    async with system(tmp_path) as queue, stock(queue.address) as worker:
        queue.start_queue_runner()
        queue.start_controller()
        jobid, _ = await queue.call(queue.client.insert_job, "f", flag="controller")
        await worker.got()
        await standing(queue, jobid, State.RUNNING)
        port = int(queue.address.split(":")[1])
        await queue.server.close()
        await queue.seen.wait("calls.lost")
        job = await standing(queue, jobid, State.WAITING)
        assert job.failcount == 0
        assert await queue.call(queue.database.failures, jobid) == []
        from garivini.gearman.server import Server

        async with Server(port=port):
            held = (await worker.got(2))[-1]
            assert decode_payload(held.job.data).failcount == 0
            held.complete()
            await queue.gone()
        assert len(worker.held) == 2


@pytest.mark.slow
async def test_a_call_that_a_server_refuses_is_returned_later_and_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "_LATER", 0.1)
    async with system(tmp_path) as queue:
        client = aio.Client(queue.address)
        await client.command(b"create function f", block=False)
        await client.command(b"maxqueue f 1", block=False)
        await client.close()
        queue.start_queue_runner()
        queue.start_controller()
        await queue.call(queue.client.insert_jobs, [["f", None, None, b""]] * 2, flag="controller")
        refused = (await queue.seen.wait("calls.lost"))[0]
        assert (refused["function"], refused["reason"][:11]) == ("f", "QUEUE_ERROR")
        assert (await queue.seen.wait("jobs.returned"))[0]["jobs"] == 1
        assert {job.failcount for job in await queue.call(queue.database.jobs)} == {0}


@pytest.mark.slow
async def test_a_call_that_runs_beyond_its_deadline_has_failed(made: Make) -> None:
    async with made() as queue, stock(queue.address) as worker:
        await queue.call(queue.database.set_function, "f", FunctionPolicy(deadline=1))
        jobid, held = await called(queue, worker)
        await queue.seen.wait("job.failed")
        (failure,) = await queue.call(queue.database.failures, jobid)
        assert (failure.kind, failure.error) == ("failed", "TimeLimit")
        assert (await standing(queue, jobid)).failcount == 1
        held.complete()  # nobody minds


@pytest.mark.slow
async def test_a_call_that_waits_beyond_its_deadline_is_taken_out_and_has_not_failed(made: Make) -> None:
    async with made() as queue, stock(queue.address, slots=1) as worker:
        await queue.call(queue.database.set_function, "f", FunctionPolicy(deadline=3))
        queue.start_queue_runner()
        queue.start_controller()
        await queue.call(queue.client.insert_jobs, [["f", None, None, b""]] * 2, flag="controller")
        (first,) = await worker.got()
        await queue.seen.wait("call.cancelled")
        running = decode_payload(first.job.data).jobid
        (other,) = {1, 2} - {running}
        first.fail()
        # It comes again under a new attempt, and once.
        second = decode_payload((await worker.got(2))[-1].job.data)
        assert (second.jobid, second.failcount) == (other, 0)
        assert (second.attempt or 0) > 1
        worker.held[-1].complete()
        await queue.gone(1)
        assert len(worker.held) == 2


async def test_a_copy_that_comes_again_joins_the_call_that_runs(made: Make) -> None:
    async with made() as queue, stock(queue.address) as worker:
        queue.start_controller()
        jobid, _ = await queue.call(queue.client.insert_job, "f", flag="controller")
        lanes = (await queue.call(queue.database.lanes)).lanes
        (job,) = await queue.call(queue.database.claim, lanes[0], limit=1, lease=60)
        client = aio.Client(queue.address)
        # With different uniques, so that the server gives out both.
        for unique in (b"a", b"b"):
            await client.submit([Submission(b"run_queued_job", encode_payload(job), unique)])
        (held,) = await worker.got()
        await done(client, b"run_queued_job", 1)
        # The old attempt is taken for lost, and the next one arrives: still one call.
        assert job.attempt is not None
        await queue.call(queue.database.give_back, [job.handle])
        lanes = (await queue.call(queue.database.lanes)).lanes
        (later,) = await queue.call(queue.database.claim, lanes[0], limit=1, lease=60)
        assert later.attempt == 2
        await client.submit([Submission(b"run_queued_job", encode_payload(later), b"c")])
        await done(client, b"run_queued_job", 1)
        held.fail()
        await queue.seen.wait("job.failed")
        (failure,) = await queue.call(queue.database.failures, jobid)
        assert failure.attempt == 2
        assert len(worker.held) == 1
        await client.close()


async def done(client: aio.Client, function: bytes, total: int) -> None:
    """Wait until the server has no more than so many jobs of a function."""
    async with asyncio.timeout(PATIENCE):
        while (await client.functions())[function].total > total:
            await asyncio.sleep(0.01)


async def test_a_stale_copy_is_dropped(made: Make) -> None:
    async with made() as queue, stock(queue.address) as worker:
        queue.start_controller()
        await queue.call(queue.client.insert_job, "f", flag="controller")
        lanes = (await queue.call(queue.database.lanes)).lanes
        (job,) = await queue.call(queue.database.claim, lanes[0], limit=1, lease=60)
        await queue.call(queue.database.complete, [job.jobid])
        client = aio.Client(queue.address)
        stale = Job(jobid=job.jobid, dbid=1, funcname="f", arg=b"", attempt=2, lease=60)
        await client.submit([Submission(b"run_queued_job", encode_payload(stale))])
        await queue.seen.wait("job.stale")
        await done(client, b"run_queued_job", 0)
        assert worker.held == []
        await client.close()


async def test_a_copy_of_the_originals_queue_runner_gets_an_attempt(made: Make) -> None:
    async with made() as queue, stock(queue.address) as worker:
        queue.start_controller()
        jobid, _ = await queue.call(queue.client.insert_job, "f", b"x", 1000, flag="controller")
        client = aio.Client(queue.address)
        payload = json.dumps({"jobid": str(jobid), "dbid": "1", "funcname": "f", "arg": "x"}).encode()
        await client.submit([Submission(b"run_queued_job", payload)])
        (held,) = await worker.got()
        assert held.job.data == payload
        assert (await standing(queue, jobid)).state is State.RUNNING
        held.complete()
        await queue.gone()
        await client.close()


@pytest.mark.slow
async def test_leases_of_calls_are_renewed(made: Make) -> None:
    async with made() as queue, stock(queue.address) as worker:
        await queue.call(queue.database.set_function, "f", FunctionPolicy(lease=6))
        queue.start_queue_runner()
        queue.start_controller()
        await queue.call(queue.client.insert_jobs, [["f", None, None, b""]] * 50, flag="controller")
        await worker.got(50)
        began = await queue.call(queue.database.clock)
        while await queue.call(queue.database.clock) < began + 8:
            await asyncio.sleep(0.1)  # a lease has to pass, and its second of grace
        jobs = await queue.call(queue.database.jobs)
        assert [(job.attempt, job.state) for job in jobs] == [(1, State.RUNNING)] * 50
        for held in worker.held:
            held.complete()
        await queue.gone()


async def test_a_slow_function_leaves_calls_to_others_and_its_jobs_start_in_order(made: Make) -> None:
    async with (
        made() as queue,
        stock(queue.address, b"slow") as slow,
        stock(queue.address, b"quick") as quick,
    ):
        queue.start_queue_runner()
        queue.start_controller(max_calls=10)
        # Until the Controller knows the database's clock it checks each start, and later jobs may overtake.
        await queue.call(queue.client.insert_job, "quick", flag="controller")
        (await quick.got())[0].complete()
        await queue.gone()
        rows = [["slow", None, None, b"%d" % number] for number in range(100)]
        await queue.call(queue.client.insert_jobs, rows, flag="controller")
        await slow.got(5)
        await queue.call(queue.client.insert_jobs, [["quick", None, None, b""]] * 2, flag="controller")
        for held in (await quick.got(3))[1:]:
            held.complete()
        await queue.gone(100)
        assert len(slow.held) == 5
        for number in range(15):
            (await slow.got(number + 1))[number].complete()
        await slow.got(20)
        args = [int(decode_payload(held.job.data).arg) for held in slow.held]
        assert args[:15] == list(range(15))


@pytest.mark.slow
async def test_what_waits_for_a_third_of_its_lease_goes_back_as_it_was(made: Make) -> None:
    async with made() as queue, stock(queue.address) as worker:
        await queue.call(queue.database.set_function, "f", FunctionPolicy(lease=3))
        stop = queue.start_queue_runner()
        queue.start_controller(max_calls=2)
        await queue.call(queue.client.insert_jobs, [["f", None, None, b""]] * 2, flag="controller")
        await worker.got()
        stop.set()
        await queue.seen.wait("jobs.returned")
        (other,) = [job for job in await queue.call(queue.database.jobs) if job.state is State.WAITING]
        assert (other.failcount, other.run_after) == (0, other.created)


def run_of(funcname: str, lease: int = 60) -> Execution:
    job = Job(jobid=1, dbid=1, funcname=funcname, arg=b"", lease=lease)
    return Execution(job, None, "w")  # type: ignore[arg-type]


def test_waiting_room_shares_its_places_among_functions() -> None:
    room = WaitingRoom(12)
    assert [room.add(run_of("a"), 0.0) for _ in range(8)].count(True) == 6
    assert [room.add(run_of("b"), 0.0) for _ in range(8)].count(True) == 3
    assert room.add(run_of("c"), 0.0)
    assert len(list(room.remove_overdue(19.9))) == 0
    assert len(list(room.remove_overdue(20.0))) == 10
    assert "a" not in room
    assert [room.add(run_of("a"), 0.0) for _ in range(8)].count(True) == 6
    assert len(list(room.remove_all())) == 6


@pytest.mark.slow
@pytest.mark.parametrize("finishes", [True, False])
async def test_a_drain_waits_for_calls_and_gives_back_the_rest(made: Make, finishes: bool) -> None:
    async with made() as queue, stock(queue.address) as worker:
        queue.start_queue_runner()
        stop = queue.start_controller(max_calls=2, drain=30 if finishes else 0)
        jobs = await queue.call(queue.client.insert_jobs, [["f", None, None, b""]] * 3, flag="controller")
        (held,) = await worker.got()
        stop.set()
        await queue.seen.wait("controller.draining")
        if finishes:
            held.complete()
        await queue.seen.wait("controller.stopped")
        assert len(await queue.call(queue.database.jobs)) == (2 if finishes else 3)
        # The next one has them at once.
        queue.start_controller()
        async with asyncio.timeout(PATIENCE):
            await worker.got(3 if finishes else 4)
        for one in worker.held[1:]:
            one.complete()
        await queue.gone()
        assert len(jobs) == 3


async def test_outcomes_wait_for_a_database_that_is_away(made: Make) -> None:
    async with made() as queue, stock(queue.address) as worker:
        queue.start_queue_runner()
        queue.start_controller()
        (controlled,) = queue._clients[-1].shards
        complete = controlled.complete
        away = True

        def refuse(jobids: list[int]) -> set[int]:
            if away:
                raise UsageError("away")
            return complete(jobids)

        controlled.complete = refuse  # type: ignore[method-assign,assignment]
        jobid, _ = await queue.call(queue.client.insert_job, "f", flag="controller")
        (await worker.got())[0].complete()
        await queue.seen.wait("role.error")
        assert await queue.call(queue.database.get, jobid) is not None
        away = False
        await queue.gone()
        assert len(worker.held) == 1


def test_settings_are_checked() -> None:
    make: Callable[..., ControllerSettings] = ControllerSettings
    for wrong in ({"max_calls": 0}, {"drain": -1}):
        with pytest.raises(UsageError):
            make(**wrong)


async def test_what_a_job_says_cannot_keep_its_outcome_from_being_committed(tmp_path: Path) -> None:
    async with system(tmp_path) as queue, stock(queue.address) as worker:
        queue.start_queue_runner()
        queue.start_controller()
        with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
            refuse = "CREATE TRIGGER refuse BEFORE INSERT ON report BEGIN SELECT RAISE(ABORT, 'no'); END"
            connection.execute(refuse)
        await queue.call(queue.client.insert_job, "f", flag="controller")
        (held,) = await worker.got()
        held.report(Type.WORK_DATA, b"a line")
        held.complete()
        await queue.gone()
        assert queue.seen.of("reports.dropped")


@pytest.mark.slow
async def test_a_frozen_database_does_not_hold_up_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "_WAITING_PLACES", 0)

    async with system(tmp_path) as queue, stock(queue.address) as worker:
        urls = [queue.url, f"sqlite:///{tmp_path / 'other.db'}"]
        client = Client(urls)
        first, second = client.shards
        await queue.call(second.upgrade)
        stop = asyncio.Event()
        settings = ControllerSettings(drain=0, max_calls=4)  # and 8 that wait: 12 slots
        serving = [
            asyncio.create_task(controller.serve([first, second], [queue.address], settings, stop=stop)),
            asyncio.create_task(
                queue_runners.serve(
                    list(Client(urls).shards), [queue.address], QueueRunnerSettings(poll=0.05), stop=stop
                )
            ),
        ]
        thawed = threading.Event()
        complete = first.complete

        def freeze(jobids: set[int]) -> set[int]:
            assert thawed.wait(PATIENCE)
            return complete(jobids)

        first.complete = freeze  # type: ignore[method-assign,assignment]
        for number in range(12):
            await queue.call(first.insert, [new_job("f", b"", flag="controller")])
            (await worker.got(number + 1))[number].complete()
        await queue.call(second.insert, [new_job("f", b"", flag="controller")])
        (await worker.got(13))[-1].complete()
        while await queue.call(second.jobs):
            await asyncio.sleep(0.01)
        assert len(await queue.call(first.jobs)) == 12
        thawed.set()
        await queue.gone()
        stop.set()
        await asyncio.gather(*serving)


async def test_what_is_too_much_even_to_wait_stays_leased_for_a_while(
    made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given back at once, the QueueRunner would send it again and again."""
    monkeypatch.setattr(controller, "_WAITING_PLACES", 4)

    async with made() as queue, stock(queue.address) as worker:
        queue.start_queue_runner(watermark=10)
        stop = queue.start_controller(max_calls=2)
        await queue.call(queue.client.insert_jobs, [["f", None, None, b""]] * 10, flag="controller")
        await worker.got()
        client = aio.Client(queue.address)
        # One runs and two wait: the other copies are answered, and no more are sent.
        await done(client, b"run_queued_job", 3)
        await client.close()
        for job in await queue.call(queue.database.jobs):
            assert (job.attempt, job.state in (State.LEASED, State.RUNNING)) == (1, True)
        stop.set()
        await queue.seen.until(lambda: sum(event["jobs"] for event in queue.seen.of("jobs.returned")) == 10)


@pytest.mark.slow
async def test_a_second_signal_ends_a_drain(tmp_path: Path) -> None:
    async with system(tmp_path) as queue, stock(queue.address) as worker:
        environment = {"GARIVINI_DB": queue.url, "GARIVINI_JOB_SERVERS": queue.address}
        with command(tmp_path, "run", "queue-runner", "controller", **environment) as running:
            await queue.call(queue.client.insert_job, "f", flag="controller")
            await worker.got()
            running.process.terminate()
            await asyncio.to_thread(running.wait_for, "controller.draining")
            assert await asyncio.to_thread(running.stop) == 128 + signal.SIGTERM


@pytest.mark.slow
def test_settings_of_the_command_reach_the_controller(tmp_path: Path) -> None:
    (tmp_path / "garivini.toml").write_text("[controller]\nmax_calls = 0\n")
    with command(tmp_path, "run", "controller") as running:
        assert running.process.wait(PATIENCE) == 2
    assert "max_calls is 1 to" in running.output
