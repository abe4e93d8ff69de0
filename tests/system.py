"""A whole queue in one event loop, for tests: embedded server, SQLite, QueueRunner, worker and Controller."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

from garivini import Client, Worker, events
from garivini.gearman.server import Server
from garivini.model.inserted import Inserted
from garivini.model.job import NewJob
from garivini.roles import controller, injector, queue_runners
from garivini.roles.controller import ControllerSettings
from garivini.roles.injector import InjectorSettings
from garivini.roles.queue_runner import QueueRunnerSettings
from garivini.store.database import Database
from tests.databases import sqlite_url
from tests.processes import PATIENCE
from tests.servers import free_port

_R = TypeVar("_R")


class Seen:
    """The events that have happened, to be waited for."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._lock = threading.Lock()
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, name: str, fields: dict[str, Any]) -> None:
        with self._lock:
            self.events.append((name, fields))
        self._loop.call_soon_threadsafe(self._changed.set)

    def of(self, name: str) -> list[dict[str, Any]]:
        """Return the fields of each event of this name so far."""
        with self._lock:
            return [fields for seen, fields in self.events if seen == name]

    async def wait(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until it has happened so often."""
        await self.until(lambda: len(self.of(name)) >= count)
        return self.of(name)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until an event makes this true."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                if not condition():
                    await self._changed.wait()


class Waking(Client):
    """A client that leaves what it inserts to a QueueRunner, and wakes it."""

    def _insert_checked(self, jobs: Sequence[NewJob], *rest: Any, **named: Any) -> list[Inserted]:
        return super()._insert_checked([replace(job, dispatch=False) for job in jobs], *rest, **named)


class System:
    """The parts, and the client's calls off the loop that the server runs on."""

    def __init__(self, url: str, address: str, server: Server, seen: Seen) -> None:
        self.url = url
        self.address = address
        self.server = server
        self.seen = seen
        self.client = Waking(url, [address])
        self._clients = [Client(url)]
        self.worker = Worker(self._clients[0], [address])
        (self.database,) = self.client.shards
        self._stops: list[asyncio.Event] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def call(self, call: Callable[..., _R], *arguments: Any, **named: Any) -> _R:
        """Run a blocking call in a thread."""
        return await asyncio.to_thread(call, *arguments, **named)

    def start_worker(self, worker: Worker | None = None) -> asyncio.Event:
        """Start the worker (or another one); the event it returns stops it."""
        return self._start(lambda stop: (worker or self.worker).serve(stop))

    def start_queue_runner(self, **settings: Any) -> asyncio.Event:
        """Start a QueueRunner; the event it returns stops it."""
        self._clients.append(Client(self.url))
        (database,) = self._clients[-1].shards
        return self._start(
            lambda stop: queue_runners.serve(
                [database], [self.address], QueueRunnerSettings(**settings), stop=stop
            )
        )

    def start_injector(self, **settings: Any) -> asyncio.Event:
        """Start an Injector; the event it returns stops it."""
        self._clients.append(Client(self.url))
        shards = self._clients[-1].shards
        return self._start(
            lambda stop: injector.serve(shards, [self.address], InjectorSettings(**settings), stop=stop)
        )

    def start_controller(self, **settings: Any) -> asyncio.Event:
        """Start a Controller; the event it returns stops it. It then waits for no call, unless told to."""
        self._clients.append(Client(self.url))
        databases = list(self._clients[-1].shards)
        return self._start(
            lambda stop: controller.serve(
                databases, [self.address], ControllerSettings(**{"drain": 0, **settings}), stop=stop
            )
        )

    def _start(self, serve: Callable[[asyncio.Event], Any]) -> asyncio.Event:
        stop = asyncio.Event()
        self._stops.append(stop)
        self._tasks.append(asyncio.create_task(serve(stop)))
        return stop

    async def gone(self, jobs: int = 0) -> None:
        """Wait until no more than so many jobs are left."""
        left, deadline = -1, 0.0
        while (now := len(await self.call(self.database.jobs, limit=100_000))) > jobs:
            if now != left:  # each job may take its time
                left, deadline = now, time.monotonic() + PATIENCE
            assert time.monotonic() < deadline, f"{left} jobs are left"
            await asyncio.sleep(0.01)  # a deleted row says nothing

    async def close(self) -> None:
        for stop in self._stops:
            stop.set()
        await asyncio.gather(*self._tasks)
        for client in (self.client, *self._clients):
            await asyncio.to_thread(client.close)


@asynccontextmanager
async def system(folder: Path, url: str | None = None, address: str | None = None) -> AsyncIterator[System]:
    """Start the server; the rest is started by the test.

    ``url``: of an empty database or one with the tables, if it shall not be a new SQLite file.
    ``address``: of another Gearman server that the parts shall use.
    """
    made = sqlite_url(folder) if url is None else None  # a copy that has the tables
    seen = Seen()
    unlisten = events.listen(seen)
    try:
        async with Server(port=free_port()) as server:
            whole = System(made or str(url), address or server.address, server, seen)
            if made is None:
                await asyncio.to_thread(whole.database.upgrade)
            else:
                await asyncio.to_thread(whole.database.check)  # gives it its id
            try:
                yield whole
            finally:
                await whole.close()
    finally:
        unlisten()


def upgraded(url: str) -> Database:
    """Return the database of a URL with its tables made."""
    (database,) = Client(url).shards
    database.upgrade()
    return database
