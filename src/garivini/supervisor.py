"""A parent process and its children: started, started again when they die, drained on a signal.

The parent has neither a loop nor threads, so that it can fork at any time, and it imports nothing of the
user's: a child does, after the fork.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Final

from garivini import events
from garivini.gearman.servers import Backoff

#: Exit status of a child that starting again cannot help: the parent ends too, with the same.
CONFIGURATION_ERROR: Final = 78
#: A child that lived so many seconds is started again at once.
_LONG_LIFE: Final = 10.0


class Supervisor:
    """Keeps a number of child processes running.

    Args:
        child: called in each child, with a file descriptor that reaches its end when the parent dies. Its
            return ends the child with status 0.
        processes: how many.

    """

    def __init__(self, child: Callable[[int], None], processes: int) -> None:
        self._child = child
        self._processes = processes
        self._children: dict[int, float] = {}  # pid: monotonic time of its start
        self._backoff = Backoff(first=0.1, longest=5.0)
        self._start_at = 0.0
        self._stopping = False
        self._status = 0

    def run(self) -> int:
        """Run until SIGTERM or SIGINT, which drain the children; return the exit status.

        A second signal ends the children at once.
        """
        lifeline, self._keep_open = os.pipe()
        wake, signalled = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(signalled, False)
        before = {
            number: signal.signal(number, lambda *_: None)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
        }
        wakeup = signal.set_wakeup_fd(signalled)
        self._inherited = (lifeline, wake, signalled)
        try:
            while self._children or not self._stopping:
                self._start_missing()
                select.select([wake], [], [], self._until_start())
                self._signals(wake)
                self._reap()
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            for descriptor in (lifeline, self._keep_open, wake, signalled):
                os.close(descriptor)
        return self._status

    def _until_start(self) -> float | None:
        if self._stopping or len(self._children) == self._processes:
            return None
        return max(0.0, self._start_at - time.monotonic())

    def _start_missing(self) -> None:
        while not self._stopping and len(self._children) < self._processes:
            if time.monotonic() < self._start_at:
                return
            sys.stdout.flush()
            sys.stderr.flush()
            pid = os.fork()
            if pid == 0:
                self._be_child()
            self._children[pid] = time.monotonic()
            events.emit("worker.child_started", pid=pid)

    def _be_child(self) -> None:
        """Never returns."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            # A terminal sends ^C to parent and children alike; the parent passes it on as SIGTERM.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            lifeline, wake, signalled = self._inherited
            for descriptor in (self._keep_open, wake, signalled):
                os.close(descriptor)
            self._child(lifeline)
            status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _signals(self, wake: int) -> None:
        try:
            numbers = os.read(wake, 4096)
        except BlockingIOError:
            return
        for number in numbers:
            if number in (signal.SIGTERM, signal.SIGINT):
                # The first lets a child drain, the second ends it: it counts itself.
                self._stop()

    def _stop(self) -> None:
        self._stopping = True
        for pid in self._children:
            os.kill(pid, signal.SIGTERM)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            started = self._children.pop(pid, None)
            if started is None or self._stopping:
                continue
            code = os.waitstatus_to_exitcode(status)
            events.emit("worker.child_died", pid=pid, status=code)
            if code == CONFIGURATION_ERROR:
                self._status = code
                self._stop()
            elif time.monotonic() - started > _LONG_LIFE:
                self._backoff.succeeded()
                self._start_at = 0.0
            else:
                self._start_at = time.monotonic() + self._backoff.failed()
