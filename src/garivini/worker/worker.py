"""A worker process: the main thread runs ``def`` functions, a second thread the loop with everything else."""

import asyncio
import os
import signal
import ssl
import sys
import threading
import types
from collections.abc import Callable, Iterable
from typing import TypeVar

from garivini import settings
from garivini.client import Client
from garivini.errors import UsageError
from garivini.gearman.servers import parse_addresses
from garivini.keeper.child import Child
from garivini.model.new_jobs import new_job
from garivini.model.policy import FunctionPolicy
from garivini.worker import forks
from garivini.worker.functions import Function, Registered, registered
from garivini.worker.serving import Serving

_F = TypeVar("_F", bound=Function)


class Worker:
    """Runs registered functions on the jobs of some Gearman servers.

    Constructing it and registering functions connects to nothing, so other code may import the module that
    does it.

    Args:
        client: whose databases the jobs are in; without one, a ``Client()`` with the settings of the
            commands.
        job_servers: Gearman servers as ``host:port``; all of them are served. Without, those of the client,
            or if it has none those of the settings.
        concurrency: ``async def`` jobs that run at a time in one process.
        tls: how to encrypt the connections to the servers; they are plain without it.

    """

    def __init__(
        self,
        client: Client | None = None,
        job_servers: str | Iterable[str] | None = None,
        *,
        concurrency: int = 32,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.client: Client = client if client is not None else Client()
        if job_servers is None:
            if self.client.job_servers:
                job_servers, tls = self.client.job_servers, tls or self.client.tls
            else:
                found = settings.current()
                job_servers, tls = found.job_servers(), tls or found.tls()
        self.tls = tls
        self.job_servers: list[str] = parse_addresses(job_servers)
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

        A ``def`` runs in the process's main thread, one at a time, as in any Python program; an ``async def``
        is a task of the event loop, which has a thread of its own. The return value completes the job; any
        other exception than ``Retry`` and ``Discard`` fails it with backoff.

        Args:
            funcname: the function's name in Gearman.
            timeout: seconds that a job may run. Then it has failed. An ``async def`` is cancelled; to stop
                a ``def``, the process is ended and started again, which needs ``garivini worker``.
            lease: seconds that a job is this worker's without a sign of life, where 60 does not fit.
            max_failures: failures after which a job is dead, where 25 does not fit.

        Raises:
            UsageError: the name cannot be a function's, or has been registered, or a number is out of range,
                or the function cannot be called with a job, or is a generator.

        """
        new_job(funcname, b"")
        policy = FunctionPolicy(lease=lease, max_failures=max_failures, renews=True)
        if timeout is not None and timeout <= 0:
            raise UsageError(f"a timeout is above 0 seconds, not {timeout}")

        def register(function: _F) -> _F:
            if funcname in self.functions:
                raise UsageError(f"function {funcname!r} is registered twice")
            self.functions[funcname] = registered(funcname, function, policy, timeout)
            return function

        return register

    def run(self, child: Child | None = None) -> None:
        """Run jobs in this process until SIGTERM or SIGINT, which drains; a second one ends it at once.

        Blocks the main thread, which runs the ``def`` functions and handles the signals.

        ``child``: the state that ``garivini worker`` shares with each of its processes.

        Raises:
            UsageError: no function is registered, or this is not the main thread.

        """
        if not self.functions:
            raise UsageError('no function is registered: decorate one with @worker.function("name")')
        if threading.current_thread() is not threading.main_thread():
            raise UsageError(
                "run() handles signals, which needs the main thread: elsewhere await serve(stop)"
            )
        _Process(self, child).run()

    async def serve(self, stop: asyncio.Event) -> None:
        """Run jobs until ``stop`` is set; then finish what is held, commit it and close.

        ``async def`` functions are tasks of this loop; ``def`` functions run in a thread of their own.
        """
        serving = Serving(self, asyncio.get_running_loop())
        threading.Thread(target=serving.blocking.run, name="garivini-functions", daemon=True).start()
        try:
            await serving.run(stop)
        finally:
            serving.blocking.stop()


class _Process:
    """The threads of a process that only runs a worker."""

    def __init__(self, worker: Worker, child: Child | None) -> None:
        self._child = child
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._stopping = False
        self._failure: BaseException | None = None
        self._serving = Serving(worker, self._loop, child, after_batch=self._keep_signals)
        # A child's parent passes ^C on as SIGTERM. One that is ignored from outside (nohup) stays so.
        numbers = (signal.SIGTERM,) if child is not None else (signal.SIGTERM, signal.SIGINT)
        self._numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
        self._on_signal = self.on_signal  # one object, for comparison

    def run(self) -> None:
        thread = threading.Thread(target=self._serve, name="garivini-loop", daemon=True)
        before = {number: signal.signal(number, self._on_signal) for number in self._numbers}
        try:
            with forks.watched(self._serving.descriptors):
                thread.start()
                self._run_functions()
                thread.join()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._failure is not None:
            raise self._failure

    def _run_functions(self) -> None:
        while True:
            try:
                return self._serving.blocking.run()
            except KeyboardInterrupt:  # a function has put Python's own handler back
                self.on_signal(signal.SIGINT, None)

    def on_signal(self, number: int, frame: types.FrameType | None) -> None:
        """Drain at the first signal, end the process at the second."""
        if self._stopping:
            os._exit(128 + number)
        self._stopping = True
        self._request_stop()

    def _request_stop(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)

    def _keep_signals(self) -> None:
        """Restore the handlers that a function has replaced."""
        for number in self._numbers:
            if signal.getsignal(number) is not self._on_signal:
                signal.signal(number, self._on_signal)

    def _serve(self) -> None:
        """Run the loop, in its thread."""
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve_until_stopped())
        except BaseException as error:
            self._failure = error
        finally:
            if self._serving.abandoned:
                # The main thread is in a function that does not end: only this can end the process.
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(1)
            self._serving.blocking.stop()

    async def _serve_until_stopped(self) -> None:
        if self._child is not None:
            self._loop.add_reader(self._child.lifeline, self._parent_died)
        await self._serving.run(self._stop)

    def _parent_died(self) -> None:
        assert self._child is not None
        self._loop.remove_reader(self._child.lifeline)
        self._stop.set()
