"""Functions as jobs: a worker process that takes jobs from Gearman, runs them, and records what came of it.

``def`` functions run inline in the main thread: a thread hop a job costs many times what a small job does;
for parallelism there are several processes. ``async def`` functions are tasks of the loop. The keeper
thread commits outcomes in groups, and Gearman hears of an end only after its commit.
"""

import asyncio
import inspect
import os
import signal
import socket
import time
import types
from collections import deque
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Final, TypeVar

from garivini import events
from garivini.client import Client, failure
from garivini.errors import UsageError
from garivini.gearman import aio
from garivini.gearman.servers import parse_addresses
from garivini.job import Job, decode_payload, new_job
from garivini.keeper import Keeper, Run
from garivini.policy import Offset, next_prefetch, parse_delay
from garivini.store.database import Setback

Function = Callable[[Job], Any]
_F = TypeVar("_F", bound=Function)

#: Seconds that the pump runs jobs before it lets the loop read and write.
_SLICE: Final = 0.005


class Retry(Exception):
    """Raise it in a function: the job runs again after so many seconds. It does not count as a failure."""

    def __init__(self, after: float | timedelta, reason: str = "") -> None:
        super().__init__(reason)
        self.after = parse_delay(after)
        self.reason = reason


class Discard(Exception):
    """Raise it in a function: the job is dead at once, kept with this reason until a person retries it."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class Worker:
    """Runs registered functions on the jobs of some Gearman servers.

    Constructing it and registering functions does no I/O, so other code may import the module that does it.

    Args:
        client: whose databases the jobs are in.
        job_servers: Gearman servers as ``host:port``; all of them are served.
        concurrency: ``async def`` jobs that run at a time in one process.

    """

    def __init__(
        self, client: Client, job_servers: str | Iterable[str] = "127.0.0.1:4730", *, concurrency: int = 32
    ) -> None:
        self.client = client
        self.job_servers = parse_addresses(job_servers)
        self.concurrency = concurrency
        self.functions: dict[str, Function] = {}

    def function(self, funcname: str) -> Callable[[_F], _F]:
        """Register the decorated ``def`` or ``async def`` under this name; it is called with a ``Job``.

        What it returns completes the job; an exception fails it with backoff; ``Retry`` and ``Discard`` say
        otherwise.

        Raises:
            UsageError: the name cannot be a function's, or has been registered.

        """
        new_job(funcname, b"")

        def register(function: _F) -> _F:
            if funcname in self.functions:
                raise UsageError(f"function {funcname!r} is registered twice")
            self.functions[funcname] = function
            return function

        return register

    def run(self, *, lifeline: int | None = None) -> None:
        """Run jobs in this process until SIGTERM or SIGINT, which drains; a second one ends it at once.

        ``lifeline``: a file descriptor whose end of file drains too, as when a parent process dies.
        """
        if not self.functions:
            raise UsageError('no function is registered: decorate one with @worker.function("name")')
        asyncio.run(self._run_until_signal(lifeline))

    async def _run_until_signal(self, lifeline: int | None) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()

        def on_signal(number: int, frame: types.FrameType | None) -> None:
            # Not loop.add_signal_handler: a function that computes keeps the loop from running, and the
            # second signal must end the process even then.
            if stop.is_set():
                os._exit(128 + number)
            stop.set()
            loop.call_soon_threadsafe(lambda: None)

        def on_end_of_parent() -> None:
            loop.remove_reader(lifeline or 0)
            stop.set()

        if lifeline is not None:
            loop.add_reader(lifeline, on_end_of_parent)
        before = {
            number: signal.signal(number, on_signal)
            for number in (signal.SIGTERM, signal.SIGINT)
            # A parent that passes ^C on itself has it ignored here.
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        try:
            await self.serve(stop)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def serve(self, stop: asyncio.Event) -> None:
        """Run jobs in this loop until ``stop`` is set; then finish what is held, commit it and close."""
        await _Serving(self).run(stop)


class _Serving:
    """A worker at work in one loop."""

    def __init__(self, worker: Worker) -> None:
        self._functions = worker.functions
        self._loop = asyncio.get_running_loop()
        self._keeper = Keeper(
            worker.client.shards,
            lambda runs: self._threadsafe(self._committed, runs),
            lambda run, mine: self._threadsafe(self._checked, run, mine),
        )
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._dbids = {database.dbid for database in worker.client.shards}
        has_async = any(map(inspect.iscoroutinefunction, worker.functions.values()))
        self._least = worker.concurrency if has_async else 1
        self._prefetch = self._least
        self._ending = 0  # jobs that have run and are being committed
        self._queue: deque[Run] = deque()
        self._pumping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._links = [
            aio.Worker(
                address,
                [name.encode() for name in worker.functions],
                self._arrived,
                slots=self._prefetch,
                client_id=self.name.encode(),
            )
            for address in worker.job_servers
        ]

    async def run(self, stop: asyncio.Event) -> None:
        self._keeper.start()
        running = [asyncio.create_task(link.run()) for link in self._links]
        events.emit("worker.started", worker=self.name, functions=sorted(self._functions))
        try:
            await stop.wait()
            events.emit("worker.draining", worker=self.name)
            await asyncio.gather(*(link.drain() for link in self._links))
        finally:
            for link in self._links:
                link.abort()
            await asyncio.gather(*running, return_exceptions=True)
            await self._loop.run_in_executor(None, self._keeper.stop)
            events.emit("worker.stopped", worker=self.name)

    def _threadsafe(self, call: Callable[..., None], *arguments: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)

    # ---- a job's way

    def _arrived(self, held: aio.Held) -> None:
        try:
            job = decode_payload(held.job.data)
            if job.dbid not in self._dbids:
                raise UsageError(f"database {job.dbid} is not one of this worker's")
        except UsageError as error:
            # Not ours to judge: without a handle there is no row to write to, and if there is one its
            # lease will bring it back.
            events.emit("job.dropped", function=held.job.function.decode(errors="replace"), error=str(error))
            held.fail()
            return
        run = Run(job, held)
        # A copy of a later attempt, or one that waited past its lease, may have been replaced meanwhile.
        if job.attempt is not None and (job.attempt > 1 or self._keeper.lapsed(job)):
            self._keeper.check(run)
        else:
            self._start(run)

    def _checked(self, run: Run, mine: bool) -> None:
        if mine:
            self._start(run)
        else:
            events.emit("job.stale", jobid=run.job.jobid, dbid=run.job.dbid, attempt=run.job.attempt)
            run.held.complete()

    def _start(self, run: Run) -> None:
        self._keeper.hold(run)
        if inspect.iscoroutinefunction(self._function(run)):
            task = self._loop.create_task(self._run_async(run))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        self._queue.append(run)
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _function(self, run: Run) -> Function:
        return self._functions[run.held.job.function.decode()]

    def _pump(self) -> None:
        """Run ``def`` functions until there are none or the time slice is over."""
        began = now = time.monotonic()
        ran = 0
        while self._queue and now - began < _SLICE:
            run = self._queue.popleft()
            if run.held.lost:
                # The server gives this copy to another worker, or has died and the lease brings it back.
                # It has not started, so running it here would only make it run twice.
                run.dropped = True
                continue
            ran += 1
            self._run_inline(run)
            now = time.monotonic()
        if ran:
            self._prefetch = max(self._least, next_prefetch(self._prefetch, (now - began) / ran))
        if self._queue:
            self._loop.call_soon(self._pump)
        else:
            self._pumping = False

    def _run_inline(self, run: Run) -> None:
        try:
            self._function(run)(run.job)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too: a job must not take the worker with it
            run.setback = self._setback(run, error)
        self._end(run)

    async def _run_async(self, run: Run) -> None:
        try:
            await self._function(run)(run.job)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            run.setback = self._setback(run, error)
        self._end(run)

    def _setback(self, run: Run, error: BaseException) -> Setback:
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

    def _end(self, run: Run) -> None:
        self._ending += 1
        self._offer()
        self._keeper.end(run)

    def _committed(self, runs: list[Run]) -> None:
        for run in runs:
            if run.setback is None:
                run.held.complete()
            else:
                run.held.fail()
        self._ending -= len(runs)
        self._offer()

    def _offer(self) -> None:
        """Let the servers know the free slots. What is only being committed takes none."""
        for link in self._links:
            if link.slots:
                link.slots = self._prefetch + self._ending
