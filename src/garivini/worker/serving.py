"""A worker at work: copies of jobs arrive in the loop, run there or in the blocking thread, end in a keeper.

The keepers commit outcomes in groups, each in a thread of its own, and an end is reported to Gearman only
after its commit.
"""

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec.structs import force_setattr

from garivini import events
from garivini.client import Client
from garivini.errors import UsageError
from garivini.events import throttle
from garivini.gearman import aio
from garivini.keeper.child import TIME_LIMIT, Child
from garivini.keeper.copies import EndedCopies, copy_of
from garivini.keeper.execution import Execution
from garivini.keeper.keeper import STOP_TIMEOUT, Keeper
from garivini.model.current import set_current_job
from garivini.model.outcome import Setback, failure
from garivini.model.pacing import next_prefetch
from garivini.model.payload import decode_payload
from garivini.model.when import Offset
from garivini.worker import forks, joblog
from garivini.worker.blocking import BlockingRunner
from garivini.worker.functions import Discard, Registered, Retry, check_result

if TYPE_CHECKING:
    from garivini.keeper.copies import Copy

#: Seconds to report the end of a job to a Gearman server before the process ends.
_LAST_WORD: Final = 1.0
#: Seconds for the last commits after a drain that was not done in time.
_LAST_COMMITS: Final = 1.0
#: Maximum unfinished jobs that an incomplete drain names.
_NAMED: Final = 10


class Served(Protocol):
    """A worker, as far as it is served: what runs its functions does not import it."""

    functions: dict[str, Registered]
    client: Client
    job_servers: list[str]
    tls: ssl.SSLContext | None
    concurrency: int


class Serving:
    """The copies that a worker holds, from their arrival until their end is committed and reported.

    Args:
        worker: its functions, client and servers.
        loop: where ``run`` is awaited.
        child: the state shared with the supervisor.
        after_batch: called in the blocking thread after each batch of jobs.

    """

    def __init__(
        self,
        worker: Served,
        loop: asyncio.AbstractEventLoop,
        child: Child | None = None,
        *,
        after_batch: Callable[[], None] = lambda: None,
    ) -> None:
        self._functions = {name.encode(): joblog.wrap(entry) for name, entry in worker.functions.items()}
        self._child = child
        self._slot = child.slot if child is not None else None
        self._loop = loop
        self._after_batch = after_batch
        #: Runs the ``def`` functions.
        self.blocking: BlockingRunner = BlockingRunner(self._run_blocking, self._on_batch)
        #: Whether a drain ended while a ``def`` function was running.
        self.abandoned: bool = False
        policies = {name: entry.policy for name, entry in worker.functions.items()}
        self._keepers = {
            database.dbid: Keeper(
                database,
                on_committed=lambda runs: self._threadsafe(self._committed, runs),
                on_checked=self._checked,
                take_back=self.blocking.take_back,
                on_given_back=lambda runs: self._threadsafe(self._given_back, runs),
                running=lambda: self._current,
                on_overdue=self._end_process,
                functions=policies,
                child=child,
            )
            for database in worker.client.shards
        }
        self.name: str = f"{socket.gethostname()}:{os.getpid()}"
        #: The runs that this process holds, until their ends are committed.
        self._copies: dict[Copy, Execution] = {}
        self._some_gone = asyncio.Event()
        self._ended = EndedCopies()
        self._current: Execution | None = None  # in the blocking thread
        self._seconds = 0.0  # per job of the last batch there
        self._offer_due = False
        self._tasks: dict[asyncio.Task[None], Execution] = {}
        self._closing = False
        # Each kind of function has connections of its own: a def that blocks keeps no async def waiting.
        self._blocking_links = _Links(self._link(worker, is_async=False), 1)
        self._async_links = _Links(self._link(worker, is_async=True), worker.concurrency)
        self._links = [*self._blocking_links.links, *self._async_links.links]

    def _link(self, worker: Served, *, is_async: bool) -> list[aio.Worker]:
        names = [name for name, entry in self._functions.items() if entry.is_async is is_async]
        return [
            aio.Worker(
                address,
                names,
                self._arrived,
                client_id=self.name.encode(),
                on_lost=self._ended.add,
                tls=worker.tls,
            )
            for address in worker.job_servers
            if names
        ]

    async def run(self, stop: asyncio.Event) -> None:
        """Run jobs until ``stop`` is set; then finish what is held, as far as the drain allows."""
        throttle.install()
        for keeper in self._keepers.values():
            keeper.start()
        running = [asyncio.create_task(link.run()) for link in self._links]
        names = sorted(name.decode() for name in self._functions)
        unfinished = False
        events.emit("worker.started", worker=self.name, functions=names)
        try:
            await stop.wait()
            events.emit("worker.draining", worker=self.name)
            async with asyncio.timeout(self._child.drain if self._child is not None else None):
                await asyncio.gather(*(link.drain() for link in self._links))
                await self._until_empty()
        except TimeoutError:
            unfinished = True
            self._abandon()
        finally:
            self._closing = True
            for link in self._links:
                link.abort()
            for task in (*running, *self._tasks):  # a link may be connecting, which no abort ends
                task.cancel()
            await asyncio.gather(*running, *self._tasks, return_exceptions=True)
            # After a drain that has used its time the parent waits for at most two seconds.
            stop_within = _LAST_COMMITS if unfinished else STOP_TIMEOUT
            stops = [partial(keeper.stop, stop_within) for keeper in self._keepers.values()]
            # The loop's own threads may all be in calls of functions that were cancelled.
            threads = ThreadPoolExecutor(len(stops), "garivini-stop")
            await asyncio.gather(*(self._loop.run_in_executor(threads, stop) for stop in stops))
            threads.shutdown(wait=False)
            throttle.emit_held()
            events.emit("worker.stopped", worker=self.name)

    async def _until_empty(self) -> None:
        """Wait for jobs whose connection was lost: they are still running, and no link waits for them."""
        while self._copies:
            self._some_gone.clear()
            await self._some_gone.wait()

    def _abandon(self) -> None:
        """Report the jobs that are still running. The server gives them to another worker."""
        unfinished = list(self._tasks.values())
        if (current := self._current) is not None:
            self.abandoned = True
            unfinished.append(current)
        names = [f"{run.job.funcname} {run.job.dbid}:{run.job.jobid}" for run in unfinished[:_NAMED]]
        events.emit("worker.drain_incomplete", worker=self.name, jobs=len(unfinished), running=names)

    def descriptors(self) -> Iterable[int]:
        """Return the descriptors of the open connections to Gearman servers."""
        return [number for link in self._links if (number := link.fileno()) is not None]

    def _threadsafe(self, call: Callable[..., None], *arguments: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)

    # ---- a copy's way, in the loop

    def _arrived(self, held: aio.Held) -> None:
        try:
            job = decode_payload(held.job.data)
            keeper = self._keepers.get(job.dbid)
            if keeper is None:
                raise UsageError(f"database {job.dbid} is not one of this worker's")
        except UsageError as error:
            # Without a handle there is no row to write to; if there is a row, it runs again after its lease.
            events.emit("job.dropped", function=held.job.function.decode(errors="replace"), error=str(error))
            held.fail()
            return
        copy = copy_of(job)
        run = Execution(job, held, self.name, copy)
        if copy in self._copies:
            self._attach(self._copies[copy], held)
        elif copy in self._ended and self._ended.drops(copy):
            self._drop_stale(run)
        else:
            self._copies[copy] = run
            if keeper.must_check(run):
                keeper.check(run)
            else:
                self._start(run, keeper)

    def _attach(self, run: Execution, held: aio.Held) -> None:
        """Accept a second copy of a job that this process holds: its end is reported for both."""
        if run.held.disconnected:
            run.held = held
        else:
            held.complete()

    def _checked(self, run: Execution, mine: bool) -> None:
        """Receive the answer to a start check, in the keeper's thread.

        The lease is renewed from here on, also while the loop is busy.
        """
        if not mine:
            self._threadsafe(self._drop_stale, run)
            return
        self._keepers[run.job.dbid].hold(run)
        if self._registered(run).is_async:
            self._threadsafe(self._start_task, run)
        else:
            self.blocking.put(run)

    def _drop_stale(self, run: Execution) -> None:
        events.emit("job.stale", jobid=run.job.jobid, dbid=run.job.dbid, attempt=run.job.attempt)
        self._copies.pop(run.copy, None)
        self._some_gone.set()
        run.held.complete()

    def _start(self, run: Execution, keeper: Keeper) -> None:
        keeper.hold(run)
        if self._registered(run).is_async:
            self._start_task(run)
        else:
            self.blocking.put(run)

    def _start_task(self, run: Execution) -> None:
        if run.held.disconnected:  # since it was checked
            self._give_up(run)
            return
        task = self._loop.create_task(self._run_async(run))
        self._tasks[task] = run
        task.add_done_callback(self._task_done)
        self._note_task()

    def _give_up(self, run: Execution) -> None:
        """Do not start a job whose connection is lost: the server sends the copy again, perhaps to us."""
        keeper = self._keepers[run.job.dbid]
        if run.held.disconnected:
            del self._copies[run.copy]
            self._some_gone.set()
            keeper.drop(run)
        else:
            self._start(run, keeper)  # the copy has come again meanwhile

    def _registered(self, run: Execution) -> Registered:
        return self._functions[run.held.job.function]

    def _given_back(self, runs: list[Execution]) -> None:
        for run in runs:
            del self._copies[run.copy]
            run.held.complete()
        self._some_gone.set()
        # This process holds too many: it requests no more until the blocking function has ended, and then
        # only as many as it can start.
        self._blocking_links.slots = 1
        if self._current is not None:  # otherwise no end would trigger the next request
            self._blocking_links.pause()

    # ---- in the blocking thread

    def _run_blocking(self, run: Execution) -> bool:
        """Run a job; return whether it ran."""
        held = run.held
        if held.disconnected:
            self._threadsafe(self._give_up, run)
            return False
        entry = self._functions[held.job.function]
        keeper = self._keepers[run.job.dbid]
        # Current first: the keeper, woken for the time limit, must find its run.
        self._current = run
        if entry.timeout is not None:
            keeper.limit(run, entry.timeout)
        if self._slot is not None:
            self._slot.set(run.job, run.deadline)
        force_setattr(run.job, "counter", keeper.start_counter)
        try:
            set_current_job(run.job)
            result = entry.function(run.job)
            forks.leave()
            if result is not None:
                check_result(result)
        except BaseException as error:  # SystemExit too: a job must not end the worker
            forks.leave(error)
            run.setback = self._setback(run, error)
        self._current = None
        self._blocking_links.ran += 1
        keeper.end(run)
        return True

    def _on_batch(self, ran: int, seconds: float) -> None:
        set_current_job(None)  # once per batch: between its jobs no code of the application runs
        if self._slot is not None:
            self._slot.clear()
        self._after_batch()
        if ran:
            self._seconds = seconds / ran
            if not self._offer_due:  # otherwise the loop has not run it yet
                self._offer_due = True
                self._threadsafe(self._offer_after_batch)

    def _offer_after_batch(self) -> None:
        self._offer_due = False
        links = self._blocking_links
        links.slots = next_prefetch(links.slots, self._seconds)
        links.offer()

    def _end_process(self, run: Execution) -> None:
        """End this process, whose main thread is in a function that runs too long. In the keeper's thread.

        The end is reported to the Gearman server first, which would otherwise give the copy to another worker
        at once.
        """
        assert self._slot is not None
        self._slot.acquit()
        told = threading.Event()

        def tell() -> None:
            run.held.fail()
            self._loop.call_soon(told.set)  # after the write

        self._threadsafe(tell)
        told.wait(_LAST_WORD)
        os._exit(TIME_LIMIT)

    # ---- tasks of the loop

    async def _run_async(self, run: Execution) -> None:
        entry = self._registered(run)
        limit = asyncio.timeout(entry.timeout)
        force_setattr(run.job, "counter", self._keepers[run.job.dbid].start_counter)
        try:
            set_current_job(run.job)  # in this task's own context
            async with limit:
                result = await entry.function(run.job)
            forks.leave()
            if result is not None:
                check_result(result)
        except BaseException as error:  # in any case the job ends and its slot is free
            forks.leave(error)
            if self._closing and isinstance(error, asyncio.CancelledError | GeneratorExit):
                raise  # not raised by the job: the server gives it to another worker
            run.setback = self._setback(run, error)
            if limit.expired():
                message = f"ran longer than {entry.timeout:g} s"
                run.setback = replace(run.setback, error="TimeLimit", message=message)
        self._async_links.ran += 1
        self._keepers[run.job.dbid].end(run)
        self._async_links.offer()

    def _task_done(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self._note_task()

    def _note_task(self) -> None:
        """Report the job to the parent if it is the only one: of several, none can be blamed for a death."""
        if self._slot is not None:
            if len(self._tasks) == 1:
                (run,) = self._tasks.values()
                self._slot.set_task(run.job.handle)
            else:
                self._slot.clear_task()

    # ---- ends

    def _setback(self, run: Execution, error: BaseException) -> Setback:
        handle = run.job.handle
        match error:
            case Retry():
                return Setback(
                    handle=handle,
                    kind="rescheduled",
                    error="Retry",
                    message=error.reason,
                    worker=self.name,
                    when=Offset(error.after),
                )
            case Discard():
                return Setback(
                    handle=handle, kind="discarded", error="Discard", message=error.reason, worker=self.name
                )
            case _:
                return failure(handle, error, self.name)

    def _committed(self, runs: list[Execution]) -> None:
        for run in runs:
            copy = run.copy
            del self._copies[copy]
            held = run.held
            told = held.complete(note=copy) if run.setback is None else held.fail(note=copy)
            if not told:
                self._ended.add([copy])
        self._some_gone.set()
        tasks = sum(self._registered(run).is_async for run in runs) if self._async_links.links else 0
        self._blocking_links.settle(len(runs) - tasks)
        self._async_links.settle(tasks)


class _Links:
    """The connections for one kind of function, and how many jobs each may hold.

    Args:
        links: one per Gearman server.
        slots: jobs that each may hold besides those that are being committed.

    """

    def __init__(self, links: list[aio.Worker], slots: int) -> None:
        self.links = links
        self.slots = slots
        #: Jobs that have run, counted by the thread that runs them.
        self.ran = 0
        self._settled = 0
        self._paused = False
        self.offer()

    def settle(self, jobs: int) -> None:
        """Count jobs whose outcome is committed."""
        self._settled += jobs
        if not self._paused:
            self.offer()

    def offer(self) -> None:
        """Offer the free slots to the servers. A job that is being committed does not take one."""
        self._paused = False
        self._set(self.slots + self.ran - self._settled)

    def pause(self) -> None:
        """Request no more jobs until the next offer."""
        self._paused = True
        self._set(0)

    def _set(self, slots: int) -> None:
        for link in self.links:
            link.slots = slots
