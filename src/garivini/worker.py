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
import ssl
import time
import types
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, TypeVar

from garivini import events
from garivini.client import Client, failure
from garivini.errors import UsageError
from garivini.gearman import aio
from garivini.gearman.servers import parse_addresses
from garivini.job import Job, decode_payload, new_job
from garivini.keeper import Keeper, Run
from garivini.policy import FunctionPolicy, Offset, next_prefetch, parse_delay
from garivini.store.database import Setback
from garivini.supervisor import Child

Function = Callable[[Job], Any]
_F = TypeVar("_F", bound=Function)

#: Seconds that the pump runs jobs before it lets the loop read and write.
_SLICE: Final = 0.005
#: Seconds from which on a function counts as slow.
_SLOW: Final = 0.05
#: Seconds between two looks whether a slow function may start, and until it does all the same.
_ANSWER: Final = 0.001
_ANSWERS: Final = 2.0


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


@dataclass(frozen=True, slots=True)
class Registered:
    """A function of a worker, and what was set for it."""

    function: Function
    policy: FunctionPolicy
    #: Seconds that it may run; None: any.
    timeout: float | None
    is_async: bool


class Worker:
    """Runs registered functions on the jobs of some Gearman servers.

    Constructing it and registering functions does no I/O, so other code may import the module that does it.

    Args:
        client: whose databases the jobs are in.
        job_servers: Gearman servers as ``host:port``; all of them are served.
        concurrency: ``async def`` jobs that run at a time in one process.
        tls: how to encrypt the connections to the servers; they are plain without it.

    """

    def __init__(
        self,
        client: Client,
        job_servers: str | Iterable[str] = "127.0.0.1:4730",
        *,
        concurrency: int = 32,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.tls = tls
        self.client = client
        self.job_servers = parse_addresses(job_servers)
        self.concurrency = concurrency
        self.functions: dict[str, Registered] = {}

    def function(
        self,
        funcname: str,
        *,
        timeout: float | None = None,
        lease: int | None = None,
        max_failures: int | None = None,
    ) -> Callable[[_F], _F]:
        """Register the decorated ``def`` or ``async def`` under this name; it is called with a ``Job``.

        What it returns completes the job; an exception fails it with backoff; ``Retry`` and ``Discard`` say
        otherwise.

        Args:
            funcname: the function's name in Gearman.
            timeout: seconds that a job may run. Then it has failed. An ``async def`` is cancelled; to stop
                a ``def``, the process is ended and started again, which needs ``garivini worker``.
            lease: seconds that a job is this worker's without a sign of life, where 60 does not fit.
            max_failures: failures after which a job is dead, where 25 does not fit.

        Raises:
            UsageError: the name cannot be a function's, or has been registered, or a number is out of range.

        """
        new_job(funcname, b"")
        policy = FunctionPolicy(lease=lease, max_failures=max_failures, renews=True)
        if timeout is not None and timeout <= 0:
            raise UsageError(f"a timeout is above 0 seconds, not {timeout}")

        def register(function: _F) -> _F:
            if funcname in self.functions:
                raise UsageError(f"function {funcname!r} is registered twice")
            is_async = inspect.iscoroutinefunction(function)
            self.functions[funcname] = Registered(function, policy, timeout, is_async)
            return function

        return register

    def run(self, child: Child | None = None) -> None:
        """Run jobs in this process until SIGTERM or SIGINT, which drains; a second one ends it at once.

        ``child``: what ``garivini worker`` gives to each of its processes.
        """
        if not self.functions:
            raise UsageError('no function is registered: decorate one with @worker.function("name")')
        asyncio.run(self._run_until_signal(child))

    async def _run_until_signal(self, child: Child | None) -> None:
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
            assert child is not None
            loop.remove_reader(child.lifeline)
            stop.set()

        if child is not None:
            loop.add_reader(child.lifeline, on_end_of_parent)
        before = {
            number: signal.signal(number, on_signal)
            for number in (signal.SIGTERM, signal.SIGINT)
            # A parent that passes ^C on itself has it ignored here.
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        try:
            await self.serve(stop, child)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def serve(self, stop: asyncio.Event, child: Child | None = None) -> None:
        """Run jobs in this loop until ``stop`` is set; then finish what is held, commit it and close."""
        await _Serving(self, child).run(stop)


class _Serving:
    """A worker at work in one loop."""

    def __init__(self, worker: Worker, child: Child | None) -> None:
        self._functions = {name.encode(): entry for name, entry in worker.functions.items()}
        self._child = child
        self._slot = child.slot if child is not None else None
        self._loop = asyncio.get_running_loop()
        policies = {name: entry.policy for name, entry in worker.functions.items()}
        self._keepers = {
            database.dbid: Keeper(
                database,
                on_committed=lambda runs: self._threadsafe(self._committed, runs),
                on_checked=self._checked,
                take_back=self._take_back,
                on_given_back=lambda runs: self._threadsafe(self._given_back, runs),
                functions=policies,
                child=child,
            )
            for database in worker.client.shards
        }
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        has_async = any(entry.is_async for entry in worker.functions.values())
        self._least = worker.concurrency if has_async else 1
        self._prefetch = self._least
        #: Jobs that have run and are being committed, by database.
        self._ending = dict.fromkeys(self._keepers, 0)
        # Filled and emptied from all threads: a keeper adds what it has checked and takes back what waits
        # too long. Each takes a run with one atomic call, so none is both run and given back.
        self._queue: deque[Run] = deque()
        self._pumping = False
        self._waits_until: float | None = None  # monotonic; None while no function waits for its start
        self._took: dict[bytes, float] = {}  # seconds of each function's last run
        self._tasks: dict[asyncio.Task[None], Run] = {}
        self._closing = False
        self._links = [
            aio.Worker(
                address,
                self._functions,
                self._arrived,
                slots=self._prefetch,
                client_id=self.name.encode(),
                tls=worker.tls,
            )
            for address in worker.job_servers
        ]

    async def run(self, stop: asyncio.Event) -> None:
        for keeper in self._keepers.values():
            keeper.start()
        running = [asyncio.create_task(link.run()) for link in self._links]
        names = sorted(name.decode() for name in self._functions)
        events.emit("worker.started", worker=self.name, functions=names)
        try:
            await stop.wait()
            events.emit("worker.draining", worker=self.name)
            async with asyncio.timeout(self._child.drain if self._child is not None else None):
                await asyncio.gather(*(link.drain() for link in self._links))
        except TimeoutError:
            # The server gives what is unfinished to another worker.
            events.emit("worker.drain_incomplete", worker=self.name, jobs=len(self._tasks))
        finally:
            self._closing = True
            for link in self._links:
                link.abort()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*running, *self._tasks, return_exceptions=True)
            for keeper in self._keepers.values():
                await self._loop.run_in_executor(None, keeper.stop)
            events.emit("worker.stopped", worker=self.name)

    def _threadsafe(self, call: Callable[..., None], *arguments: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)

    # ---- a job's way

    def _arrived(self, held: aio.Held) -> None:
        try:
            job = decode_payload(held.job.data)
            if job.dbid not in self._keepers:
                raise UsageError(f"database {job.dbid} is not one of this worker's")
        except UsageError as error:
            # Not ours to judge: without a handle there is no row to write to, and if there is one its
            # lease will bring it back.
            events.emit("job.dropped", function=held.job.function.decode(errors="replace"), error=str(error))
            held.fail()
            return
        run = Run(job, held, self.name)
        # A copy of a later attempt, or one that waited past its lease, may have been replaced meanwhile.
        # One without an attempt comes from a QueueRunner of the original, and needs one of ours.
        keeper = self._keepers[job.dbid]
        if job.attempt is None or job.attempt > 1 or keeper.lapsed(job):
            keeper.check(run)
        else:
            self._start(run)

    def _checked(self, run: Run, mine: bool) -> None:
        """Take the answer to a start check, in the keeper's thread.

        What is ours is held and queued here at once: a function may block the loop for longer than a lease,
        and meanwhile the run must be renewed or given back like any other that waits.
        """
        if not mine:
            self._threadsafe(self._drop_stale, run)
        elif self._registered(run).is_async:
            self._keeper_of(run).hold(run)
            self._threadsafe(self._start_task, run)
        else:
            self._keeper_of(run).hold(run)
            self._queue.append(run)
            self._threadsafe(self._start_pump)

    def _drop_stale(self, run: Run) -> None:
        events.emit("job.stale", jobid=run.job.jobid, dbid=run.job.dbid, attempt=run.job.attempt)
        run.held.complete()

    def _start(self, run: Run) -> None:
        self._keeper_of(run).hold(run)
        if self._registered(run).is_async:
            self._start_task(run)
        else:
            self._queue.append(run)
            self._start_pump()

    def _start_task(self, run: Run) -> None:
        if run.held.lost:  # since it was checked; see _pump
            self._keeper_of(run).drop(run)
            return
        task = self._loop.create_task(self._run_async(run))
        self._tasks[task] = run
        task.add_done_callback(self._task_done)
        self._note_task()

    def _start_pump(self) -> None:
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _keeper_of(self, run: Run) -> Keeper:
        return self._keepers[run.job.dbid]

    def _registered(self, run: Run) -> Registered:
        return self._functions[run.held.job.function]

    def _take_back(self, run: Run) -> bool:
        try:
            self._queue.remove(run)
        except ValueError:
            return False
        return True

    def _given_back(self, runs: list[Run]) -> None:
        for run in runs:
            run.held.complete()
        # It was too much for this process: from now on no more than it can start.
        self._prefetch = self._least

    def _pump(self) -> None:
        """Run ``def`` functions until there are none or the time slice is over."""
        began = now = time.monotonic()
        ran = 0
        waits = False
        while self._queue and now - began < _SLICE:
            waits = self._should_wait(now)
            if waits:
                break
            try:
                run = self._queue.popleft()
            except IndexError:
                break  # the keeper took back the last one
            if run.held.lost:
                # The server gives this copy to another worker, or has died and the lease brings it back.
                # It has not started, so running it here would only make it run twice.
                self._keeper_of(run).drop(run)
                continue
            ran += 1
            self._run_inline(run)
            before, now = now, time.monotonic()
            self._took[run.held.job.function] = now - before
        if ran:
            if self._slot is not None:
                self._slot.clear()
            self._prefetch = max(self._least, next_prefetch(self._prefetch, (now - began) / ran))
            self._offer()
        if waits:
            self._loop.call_later(_ANSWER, self._pump)
        elif self._queue:
            self._loop.call_soon(self._pump)
        else:
            self._pumping = False

    def _should_wait(self, now: float) -> bool:
        """Whether the next function should not start yet, because it may block the loop for long.

        Meanwhile a server would not hear of jobs that have been committed, and give them to another worker
        if this process died; and a copy that arrives would lie unread, neither renewed nor given back. Where
        the function was quick when it last ran, that is the smaller evil. So it is while a database or a
        server does not answer.
        """
        try:
            function = self._queue[0].held.job.function
        except IndexError:
            return False
        if self._took.get(function, _SLOW) < _SLOW:
            self._waits_until = None
            return False
        settled = all(link.settled for link in self._links) and not any(
            ending and not self._keepers[dbid].in_trouble for dbid, ending in self._ending.items()
        )
        if self._waits_until is None:
            self._waits_until = now + _ANSWERS
        if settled or now > self._waits_until:
            self._waits_until = None
            return False
        return True

    def _run_inline(self, run: Run) -> None:
        entry = self._registered(run)
        keeper = self._keeper_of(run)
        # Current first: the keeper, woken for the limit, must find the run that it is of.
        keeper.current = run
        if entry.timeout is not None:
            keeper.limit(run, entry.timeout)
        if self._slot is not None:
            self._slot.set(run.job.handle, run.deadline)
        try:
            result = entry.function(run.job)
            if inspect.iscoroutine(result):
                result.close()
                raise UsageError("the function returned a coroutine: register an async def, or await it")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too: a job must not take the worker with it
            run.setback = self._setback(run, error)
        keeper.current = None
        self._end(run)  # the pump clears the slot and offers what is free, once for all that it ran

    async def _run_async(self, run: Run) -> None:
        entry = self._registered(run)
        limit = asyncio.timeout(entry.timeout)
        try:
            async with limit:
                await entry.function(run.job)
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            if self._closing and isinstance(error, asyncio.CancelledError):
                raise  # not the job's own: the server gives it to another worker
            run.setback = self._setback(run, error)
            if limit.expired():
                message = f"ran longer than {entry.timeout:g} s"
                run.setback = replace(run.setback, error="TimeLimit", message=message)
        self._end(run)
        self._offer()

    def _task_done(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self._note_task()

    def _note_task(self) -> None:
        """Let the parent know the job, if it is the only one: of several none can be blamed for a death."""
        if self._slot is not None:
            if len(self._tasks) == 1:
                (run,) = self._tasks.values()
                self._slot.set(run.job.handle)
            else:
                self._slot.clear()

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
        self._ending[run.job.dbid] += 1
        self._keeper_of(run).end(run)

    def _committed(self, runs: list[Run]) -> None:
        for run in runs:
            if run.setback is None:
                run.held.complete()
            else:
                run.held.fail()
            self._ending[run.job.dbid] -= 1
        self._offer()

    def _offer(self) -> None:
        """Let the servers know the free slots. What is only being committed takes none."""
        for link in self._links:
            if link.slots:
                link.slots = self._prefetch + sum(self._ending.values())
