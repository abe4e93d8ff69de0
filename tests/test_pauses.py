"""Pauses in whole queues: no path hands out a job of a paused function, and none is left behind."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

import pytest

from garivini import AsyncClient, Client, State, UsageError, Worker
from garivini.client import functions
from garivini.model.job import Job
from garivini.model.policy import FunctionPolicy
from garivini.model.when import Never, Offset
from garivini.roles import dispatcher
from garivini.store.admission import Admitted
from garivini.store.database import Database
from tests.processes import PATIENCE
from tests.system import System, system
from tests.test_cancels import until_marks_are_read
from tests.test_injector import Caller, counted
from tests.test_limits import Gauge, insert, limit
from tests.test_queue_runner import claim, runner

JOBS: Final = 10


async def pause(queue: System, funcname: str = "f") -> None:
    await queue.call(queue.database.pause, funcname, Never())


async def jobs_of(queue: System, funcname: str = "f") -> list[Job]:
    return await queue.call(queue.database.jobs, funcname=funcname)


@pytest.mark.slow
@pytest.mark.parametrize("url", ["sqlite", "mariadb", "postgresql"])
async def test_a_paused_function_waits_while_others_run_and_runs_when_it_is_resumed(
    url: str, urls: Callable[[str], str], tmp_path: Path
) -> None:
    async with system(tmp_path, urls(url)) as queue:
        paused, other = Gauge(queue, "f"), Gauge(queue, "g", 0.0)
        await pause(queue)
        await insert(queue, JOBS)
        before = await jobs_of(queue)
        queue.start_worker()
        for _ in range(2):
            queue.start_queue_runner()
        for _ in range(3):
            await insert(queue, JOBS, "g")
            await queue.gone(jobs=JOBS)
        assert await jobs_of(queue) == before
        assert (len(paused.ran), len(other.ran)) == (0, 3 * JOBS)
        assert await queue.call(queue.client.resume, "f")
        await queue.gone()
        assert len(paused.ran) == JOBS


@pytest.mark.slow
async def test_a_pause_that_ends_by_time_leaves_no_job_behind(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        gauge = Gauge(queue, "f", 0.0)
        end = await queue.call(queue.database.pause, "f", Offset(1))
        await insert(queue, JOBS)
        queue.start_worker()
        queue.start_queue_runner(poll=60.0)
        await queue.seen.wait("jobs.dispatched")
        assert await queue.call(queue.database.clock) >= end
        await queue.gone()
        assert len(gauge.ran) == JOBS


async def test_a_pass_neither_claims_nor_admits_jobs_of_a_paused_function(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        await insert(queue, JOBS)
        await pause(queue)
        queue_runner, servers = runner(queue)
        await queue_runner.run_pass()
        lanes = []
        admit = Database.admit

        def noted(database: Database, lane: Any, **options: Any) -> Admitted:
            lanes.append(lane.funcname)
            return admit(database, lane, **options)

        await limit(queue, 1, "g")
        with patch.object(Database, "admit", noted), patch.object(dispatcher, "_REFRESH_AGE", 0.0):
            await insert(queue, 2, "g")
            for _ in range(3):
                await queue_runner.run_pass()
        assert set(lanes) == {"g"}
        queue_runner.close()
        await servers.close()


async def test_a_client_leaves_jobs_of_a_paused_function_to_a_queue_runner(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        await pause(queue)
        client = Client(queue.url, [queue.address])
        for funcname in ("f", "g"):
            await queue.call(client.insert_job, funcname)
        await queue.call(client.close)
        states = [(job.funcname, job.state) for job in await queue.call(queue.database.jobs)]
        assert states == [("f", State.WAITING), ("g", State.LEASED)]


async def test_an_injector_leaves_jobs_of_a_paused_function_to_a_queue_runner(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        await pause(queue)
        queue.start_injector()
        await counted(queue)
        async with Caller(queue.address) as caller:
            for funcname in ("f", "g"):
                await caller.inject(funcname)
        await queue.seen.wait("jobs.dispatched")
        states = [(job.funcname, job.state) for job in await queue.call(queue.database.jobs)]
        assert states == [("f", State.WAITING), ("g", State.LEASED)]


async def test_an_injector_whose_settings_are_old_hands_out_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with system(tmp_path) as queue:
        queue.start_injector()
        await counted(queue)
        monkeypatch.setattr(dispatcher, "POLICIES_AGE", 0.0)
        async with Caller(queue.address) as caller:
            await caller.inject("f")
        (job,) = await jobs_of(queue)
        assert job.state is State.WAITING


@pytest.mark.parametrize("rule", [FunctionPolicy(max_running=1), None])
async def test_an_expired_lease_of_a_function_with_rules_goes_back_to_waiting(
    tmp_path: Path, rule: FunctionPolicy | None
) -> None:
    async with system(tmp_path) as queue:
        await insert(queue, 1)
        (job,) = await claim(queue)
        await queue.call(queue.database.end_early, [job.handle], lease=60)
        if rule is None:
            await pause(queue)
        else:
            await queue.call(queue.database.set_function, "f", rule)
        queue_runner, servers = runner(queue)
        await queue_runner.run_pass()
        (waiting,) = await jobs_of(queue)
        assert (waiting.state, waiting.attempt, waiting.crashes) == (State.WAITING, 2, 0)
        assert waiting.run_after == job.since
        assert queue.seen.of("jobs.dispatched") == []
        await queue_runner.run_pass()
        (after,) = await jobs_of(queue)
        assert after.state is (State.WAITING if rule is None else State.LEASED)
        queue_runner.close()
        await servers.close()


async def test_jobs_in_flight_at_a_pause_go_on(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        gauge = Gauge(queue, "f", 0.0)
        await insert(queue, JOBS)
        stop = queue.start_queue_runner()
        await queue.seen.until(lambda: sum(it["jobs"] for it in queue.seen.of("jobs.dispatched")) == JOBS)
        await pause(queue)
        queue.start_worker()
        await queue.gone()
        assert len(gauge.ran) == JOBS
        stop.set()


@pytest.mark.slow
@pytest.mark.parametrize("url", ["sqlite", "mariadb", "postgresql"])
async def test_pause_now_takes_back_jobs_in_servers_and_lets_running_jobs_go_on(
    url: str, urls: Callable[[str], str], tmp_path: Path
) -> None:
    async with system(tmp_path, urls(url)) as queue:
        running, release = asyncio.Event(), asyncio.Event()
        ran = []
        worker = Worker(queue.worker.client, [queue.address], concurrency=1)

        @worker.function("f")
        async def f(job: Job) -> None:
            running.set()
            await release.wait()
            ran.append((job.jobid, job.attempt, job.superseded))

        worker_stop = queue.start_worker(worker)
        runner_stop = queue.start_queue_runner()
        await insert(queue, 1)
        async with asyncio.timeout(PATIENCE):
            await running.wait()
        await insert(queue, 3)
        await queue.seen.until(lambda: sum(it["jobs"] for it in queue.seen.of("jobs.dispatched")) == 4)
        first, *others = await jobs_of(queue)

        async def know_it(_: float) -> None:
            await until_marks_are_read(queue)
            async with asyncio.timeout(PATIENCE):
                while (await jobs_of(queue))[0].state is not State.RUNNING:
                    await asyncio.sleep(0.05)

        client = AsyncClient(queue.url)
        with patch("garivini.client.functions.asyncio", SimpleNamespace(sleep=know_it)):
            assert await client.pause("f", now=True) == 3
        waiting = await jobs_of(queue)
        assert [job.state for job in waiting] == [State.RUNNING, *[State.WAITING] * 3]
        assert [job.run_after for job in waiting[1:]] == [job.since for job in others]
        release.set()
        await queue.gone(jobs=3)
        assert ran == [(first.jobid, 1, False)]
        assert await client.resume("f")
        await queue.gone()
        assert sorted(ran[1:]) == [(job.jobid, 2, False) for job in others]
        await client.close()
        for stop in (worker_stop, runner_stop):
            stop.set()


# ---- the calls


def test_pause_now_has_to_wait(tmp_path: Path) -> None:
    with Client(f"sqlite:///{tmp_path}/jobs.db") as client, pytest.raises(UsageError, match="has to wait"):
        client.pause("f", now=True, wait=False)


async def test_pause_waits_until_every_program_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functions, "RULES_APPLY_AFTER", 0.3)
    async with system(tmp_path) as queue:
        took = []
        for wait in (True, False):
            began = time.monotonic()
            await queue.call(queue.client.pause, "f", "+60", wait=wait)
            took.append(time.monotonic() - began)
            assert await queue.call(queue.client.resume, "f")
        assert took[0] >= 0.3
        assert not await queue.call(queue.client.resume, "f")


async def test_pause_of_an_async_client_does_not_block_its_other_calls(tmp_path: Path) -> None:
    async with system(tmp_path) as queue, AsyncClient(queue.url) as client:
        pausing = asyncio.create_task(client.pause("f"))
        async with asyncio.timeout(PATIENCE):
            while not (await queue.call(queue.database.functions)).get("f"):
                await client.insert_job("f")
        assert not pausing.done()
        pausing.cancel()
        assert await client.resume("f")


def test_pause_refuses_names_and_times_that_are_none(tmp_path: Path) -> None:
    with Client(f"sqlite:///{tmp_path}/jobs.db") as client:
        for funcname, until in (("", None), ("f\n", None), ("f", "tomorrow"), ("f", 1.5)):
            with pytest.raises(UsageError):
                client.pause(funcname, until, wait=False)  # type: ignore[arg-type]
