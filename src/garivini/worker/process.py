"""A process that only runs a worker: ``def`` functions in the main thread, the loop in another thread."""

import asyncio
import os
import signal
import sys
import threading
import types

# ``signal.getsignal`` takes several times as long as this one: it tries to make an enum of the handler.
from _signal import getsignal  # type: ignore[import-not-found]

from garivini.keeper.supervised_child import SupervisedChild
from garivini.worker import forks
from garivini.worker.serving import Served, Serving


class Process:
    """The threads and signal handlers of a process that only runs a worker.

    Args:
        worker: the worker to run.
        child: the state that the process shares with its supervisor.

    """

    def __init__(self, worker: Served, child: SupervisedChild | None) -> None:
        self._child = child
        self._lifespans = worker.lifespans
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._stopping = False
        self._failure: BaseException | None = None
        drain = child.drain if child is not None else None
        self._serving = Serving(worker, self._loop, drain, child, after_batch=self._keep_signals)
        # At ^C, a parent sends SIGTERM to its children, so they handle only SIGTERM. A signal that was
        # ignored before the start (nohup) stays ignored.
        numbers = (signal.SIGTERM,) if child is not None else (signal.SIGTERM, signal.SIGINT)
        self._numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
        self._on_signal = self.on_signal  # bound once, so that handlers can be compared

    def run(self) -> None:
        """Run jobs until a signal, then drain.

        Raises:
            Exception: the loop has failed, which is a defect.

        """
        thread = threading.Thread(target=self._serve, name="garivini-loop", daemon=True)
        before = {number: signal.signal(number, self._on_signal) for number in self._numbers}
        try:
            with self._lifespans.entered(), forks.watched(self._serving.descriptors):
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
            except KeyboardInterrupt:  # a function has restored Python's own handler
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
            if getsignal(number) is not self._on_signal:
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
                # The main thread is in a function that does not end, so only this call can end the process.
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(1)
            self._serving.blocking.stop()

    async def _serve_until_stopped(self) -> None:
        if self._child is not None:
            self._loop.add_reader(self._child.lifeline, self._parent_died)
        async with self._lifespans.entered_async():
            await self._serving.run(self._stop)

    def _parent_died(self) -> None:
        assert self._child is not None
        self._loop.remove_reader(self._child.lifeline)
        self._stop.set()
