"""The lifecycle of roles: how they start, stop and drain."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from garivini.gearman.aio import Client, Worker
from garivini.gearman.protocol import Submission
from garivini.roles.injector import Injector
from garivini.roles.queue_runners import QueueRunners
from garivini.roles.runner import run_role
from garivini.roles.scheduler import Schedulers
from garivini.store.database import Database
from garivini.store.shards import Shards
from tests.processes import PATIENCE
from tests.system import system


class Steps:
    """A role that records its steps. ``hangs``: whether its drain does not end by itself."""

    drain_timeout = 0.02

    def __init__(self, *, hangs: bool = False, fails: bool = False) -> None:
        self.links: list[Worker] = []
        self.steps: list[str] = []
        self.started = asyncio.Event()
        self._hangs = hangs
        self._fails = fails
        self.loop: asyncio.Task[None] | None = None

    async def _loop(self) -> None:
        self.started.set()
        if self._fails:
            raise ZeroDivisionError
        await asyncio.Event().wait()

    async def start(self) -> Iterable[asyncio.Task[None]]:
        self.steps.append("start")
        self.loop = asyncio.create_task(self._loop())
        return [self.loop]

    async def drain(self) -> None:
        self.steps.append("drain")
        if self._hangs:
            await asyncio.Event().wait()

    async def give_up(self) -> None:
        self.steps.append("give up")

    async def close(self) -> None:
        assert self.loop is not None
        assert self.loop.done()
        self.steps.append("close")


async def stopped(role: Any) -> list[str]:
    stop = asyncio.Event()
    running = asyncio.create_task(run_role(role, stop))
    await role.started.wait()
    assert role.steps == ["start"]
    stop.set()
    await running
    return list(role.steps)


async def test_run_role_drains_before_it_closes() -> None:
    assert await stopped(Steps()) == ["start", "drain", "close"]


async def test_run_role_gives_up_a_drain_that_takes_too_long() -> None:
    assert await stopped(Steps(hangs=True)) == ["start", "drain", "give up", "close"]


async def test_run_role_ends_with_the_error_of_a_loop() -> None:
    role = Steps(fails=True)
    with pytest.raises(ZeroDivisionError):
        await run_role(role, asyncio.Event())
    assert role.steps == ["start", "close"]


async def test_run_role_closes_when_it_is_cancelled() -> None:
    role = Steps()
    running = asyncio.create_task(run_role(role, asyncio.Event()))
    await role.started.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert role.steps == ["start", "close"]


class Gate:
    """Blocks the calls that pass through it until it is opened."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.reached.set()
        assert self.opened.wait(PATIENCE)
        return self._call(*arguments, **named)


@pytest.mark.parametrize("role", ["queue-runner", "injector"])
async def test_run_role_ends_a_role_whose_database_hangs_and_reports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    monkeypatch.setattr(QueueRunners, "drain_timeout", 0.05)
    monkeypatch.setattr(Injector, "drain_timeout", 0.05)
    async with system(tmp_path) as queue:
        if role == "queue-runner":
            # On a busy machine its first pass may not have ended either.
            monkeypatch.setattr(Schedulers, "start", lambda *_: [])
            gate = Gate(Database.lanes)
            monkeypatch.setattr(Database, "lanes", lambda *arguments: gate(*arguments))
            stop = queue.start_queue_runner()
        else:
            gate = Gate(Shards.insert)
            monkeypatch.setattr(Shards, "insert", lambda *arguments: gate(*arguments))
            stop = queue.start_injector()
            client = Client(queue.address)
            call = asyncio.create_task(client.run(Submission(b"inject_jobs", b'{"funcname":"f"}')))
        try:
            await queue.call(gate.reached.wait, PATIENCE)
            stop.set()
            (left,) = await queue.seen.wait("role.drain_incomplete")
            assert left == {"role": role, "left": 1, "seconds": 0.05}
        finally:
            gate.opened.set()
        if role == "injector":
            call.cancel()
            await client.close()
