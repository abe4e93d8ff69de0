"""Serves a worker: makes its parts, runs them until a stop, and drains them."""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, Protocol

from garivini import events
from garivini.client import Client
from garivini.clock import SYSTEM_CLOCK, Clock
from garivini.events import throttle
from garivini.gearman.aio import Worker as Connection
from garivini.keeper.declared_schedules import DeclaredSchedules
from garivini.keeper.execution import Execution
from garivini.keeper.keeper import STOP_TIMEOUT, Keeper
from garivini.keeper.supervised_child import ReplaceWhen, SupervisedChild
from garivini.model.job import Job
from garivini.model.schedule import Schedule
from garivini.worker import joblog
from garivini.worker.async_jobs import AsyncJobs
from garivini.worker.blocking import BlockingRunner
from garivini.worker.def_jobs import DefJobs
from garivini.worker.functions import Registered
from garivini.worker.held_jobs import HeldJobs
from garivini.worker.lifespans import Lifespans
from garivini.worker.live_settings import LiveSettings
from garivini.worker.replacement import Replacement
from garivini.worker.shared import Shared
from garivini.worker.waker import Waker

#: Maximum seconds for the last commits after an incomplete drain. The parent kills this process two seconds
#: after the end of the drain.
_LAST_COMMITS: Final = 1.0
#: Maximum unfinished jobs that an event names.
_NAMED: Final = 10


class Served(Protocol):
    """The attributes of a ``Worker`` that ``Serving`` uses. ``Worker`` itself imports this module."""

    functions: dict[str, Registered]
    schedules: dict[str, Schedule]
    client: Client
    job_servers: list[str]
    tls: ssl.SSLContext | None
    concurrency: int
    lifespans: Lifespans


class Serving:
    """A worker that is served.

    Copies of jobs arrive in the loop and run there, or in the thread of ``blocking``. The keepers, each in
    its own thread, commit the outcomes of jobs, which are then reported to the Gearman servers.

    Args:
        worker: has the functions, the client and the addresses of the servers.
        loop: where ``run`` is awaited.
        drain: maximum seconds from the stop until all jobs of the worker have ended; None: no limit.
        child: the state that the worker shares with its supervisor.
        after_batch: called in the blocking thread after each batch of jobs.
        clock: the clock of its threads.
        connection: the class of its connections to Gearman servers.

    """

    def __init__(
        self,
        worker: Served,
        loop: asyncio.AbstractEventLoop,
        drain: float | None = None,
        child: SupervisedChild | None = None,
        *,
        after_batch: Callable[[], None] = lambda: None,
        clock: Clock = SYSTEM_CLOCK,
        connection: Callable[..., Connection] = Connection,
    ) -> None:
        self._loop = loop
        self._drain_timeout = drain
        name = f"{socket.gethostname()}:{os.getpid()}"
        functions = {name.encode(): joblog.wrap(entry) for name, entry in worker.functions.items()}
        slot = child.slot if child is not None else None
        self._shared = shared = Shared(name, functions, loop, slot, clock)
        self._def_jobs = DefJobs(shared, self._give_up, after_batch)
        self._async_jobs = AsyncJobs(shared, worker.concurrency, self._give_up)
        self._held_jobs = HeldJobs(shared, self._def_jobs, self._async_jobs)
        self._replacement: Replacement | None = None
        if child is not None and child.replace_when != ReplaceWhen():
            self._replacement = self._held_jobs.replacement = Replacement(child, name)
        #: Runs the ``def`` functions, in the thread that calls its ``run``.
        self.blocking: BlockingRunner = self._def_jobs.runner
        #: Whether the drain was incomplete because of a ``def`` function, which is still running.
        self.abandoned: bool = False
        self._schedules = (
            DeclaredSchedules(worker.client.shards, worker.schedules, clock) if worker.schedules else None
        )
        self._add_keepers(worker, child)
        self._add_links(worker, connection)

    def _add_keepers(self, worker: Served, child: SupervisedChild | None) -> None:
        in_loop, held_jobs = self._shared.call_in_loop, self._held_jobs
        policies = {name: entry.policy for name, entry in worker.functions.items()}
        live = LiveSettings(self._shared.functions, self._def_jobs.links, self._shared.clock.monotonic)
        databases = [database.dbid for database in worker.client.shards]
        wakes = bool(worker.client.job_servers)
        waker = Waker(self._loop, worker.client.wake)
        for database in worker.client.shards:
            keeper = self._shared.keepers[database.dbid] = Keeper(
                database,
                on_committed=lambda executions: in_loop(held_jobs.committed, executions),
                on_checked=held_jobs.checked,
                take_back=held_jobs.take_back,
                on_cancelled=lambda execution: in_loop(self._async_jobs.cancel_one, execution),
                on_given_back=lambda executions: in_loop(held_jobs.given_back, executions),
                running=lambda: self._def_jobs.current,
                on_overdue=self._def_jobs.end_process,
                functions=policies,
                on_settings=partial(live.apply, database.dbid),
                child=child,
                databases=databases,
                on_inserted=lambda: in_loop(waker.wake) if wakes else None,
                clock=self._shared.clock,
            )
            keeper.job_calls.worker = self._shared.name

    def _add_links(self, worker: Served, connection: Callable[..., Connection]) -> None:
        client_id, on_lost = self._shared.name.encode(), self._held_jobs.ended.add
        connect = partial(connection, client_id=client_id, on_lost=on_lost, tls=worker.tls)
        # Each kind of function has its own connections: a def that blocks does not delay any async def.
        for links, is_async in ((self._def_jobs.links, False), (self._async_jobs.links, True)):
            links.add(
                worker.job_servers,
                [name for name, entry in self._shared.functions.items() if entry.is_async is is_async],
                self._held_jobs.arrived,
                connect,
            )

    @property
    def _connections(self) -> list[Connection]:
        return [*self._def_jobs.links.connections, *self._async_jobs.links.connections]

    def descriptors(self) -> Iterable[int]:
        """Return the descriptors of the open connections to Gearman servers."""
        return [number for connection in self._connections if (number := connection.fileno()) is not None]

    async def run(self, stop: asyncio.Event) -> list[Job]:
        """Run jobs until ``stop`` is set, then finish those that the worker holds.

        Returns:
            The jobs that were still running at the end of the drain. The event ``worker.drain_incomplete``
            names them. The servers give them to another worker.

        """
        throttle.install()
        for keeper in self._shared.keepers.values():
            keeper.start()
        if self._schedules is not None:
            self._schedules.start()
        links = [asyncio.create_task(connection.run()) for connection in self._connections]
        functions = sorted(name.decode() for name in self._shared.functions)
        events.emit("worker.started", worker=self._shared.name, functions=functions)
        unfinished: list[Job] = []
        last_commits = STOP_TIMEOUT
        try:
            await (self._replacement.until_due(stop) if self._replacement is not None else stop.wait())
            self.note_stopping()
            events.emit("worker.draining", worker=self._shared.name)
            await self._drain(stop)
        except TimeoutError:
            last_commits = _LAST_COMMITS
            unfinished = self._report_unfinished()
        finally:
            await self._close(links, last_commits)
        return unfinished

    def note_stopping(self) -> None:
        """Let functions read in ``job.stopping`` that the process ends. Any thread may call it."""
        for keeper in self._shared.keepers.values():
            keeper.job_calls.stopping = True

    async def _drain(self, stop: asyncio.Event) -> None:
        """Finish the jobs that the worker holds. The time limit, a TimeoutError, counts from ``stop``."""
        async with asyncio.timeout(self._drain_timeout if stop.is_set() else None) as limit:
            limiting = None if stop.is_set() else asyncio.create_task(self._limit_drain(stop, limit))
            try:
                await asyncio.gather(*(connection.drain() for connection in self._connections))
                await self._held_jobs.until_empty()  # including jobs whose connection is lost
            finally:
                if limiting is not None:
                    limiting.cancel()

    async def _limit_drain(self, stop: asyncio.Event, limit: asyncio.Timeout) -> None:
        await stop.wait()
        if self._drain_timeout is not None:
            limit.reschedule(self._loop.time() + self._drain_timeout)

    def _report_unfinished(self) -> list[Job]:
        executions = list(self._async_jobs.tasks.values())
        if (current := self._def_jobs.current) is not None:
            self.abandoned = True
            executions.append(current)
        jobs = [execution.job for execution in executions]
        events.emit("worker.drain_incomplete", worker=self._shared.name, jobs=len(jobs), running=_names(jobs))
        return jobs

    async def _close(self, links: list[asyncio.Task[None]], timeout: float) -> None:
        """Close connections, cancel tasks and stop the keepers.

        ``timeout``: maximum seconds of each keeper's stop; the tasks have half of it.
        """
        if self._schedules is not None:
            self._schedules.stop()
        tasks = self._async_jobs.cancel()
        for connection in self._connections:
            connection.abort()
        for link in links:  # a link may still be connecting, which abort does not end
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)
        if tasks:
            await self._until_cancelled(tasks, timeout / 2)
        stops = [partial(keeper.stop, timeout) for keeper in self._shared.keepers.values()]
        # All threads of the loop's own executor may be busy with calls of cancelled functions.
        threads = ThreadPoolExecutor(len(stops), "garivini-stop")
        await asyncio.gather(*(self._loop.run_in_executor(threads, stop) for stop in stops))
        threads.shutdown(wait=False)
        throttle.emit_held()
        events.emit("worker.stopped", worker=self._shared.name)

    async def _until_cancelled(self, tasks: list[asyncio.Task[None]], timeout: float) -> None:
        """Wait until cancelled tasks have ended; emit an event about those that ignore the cancellation."""
        _, left = await asyncio.wait(tasks, timeout=timeout)
        if left:
            jobs = [self._async_jobs.tasks[task].job for task in left]
            events.emit("worker.uncancelled", worker=self._shared.name, jobs=len(jobs), running=_names(jobs))

    def _give_up(self, execution: Execution) -> None:
        self._held_jobs.give_up(execution)


def _names(jobs: list[Job]) -> list[str]:
    """Return the names of the first jobs for an event."""
    return [f"{job.funcname} {job.id}" for job in jobs[:_NAMED]]
