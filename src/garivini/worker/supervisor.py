"""A parent process and its children: it starts them, restarts those that die, and drains them on a signal.

The parent has neither a loop nor threads, so that it can fork at any time. It does not import the user's
module; each child does, after the fork. The parent reads from shared memory which job a child is running. So
the parent can end a job that runs too long, and knows which job a child was running when the child died. The
next child records that job's crash or failure.
"""

import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from garivini import events
from garivini.backoff import Backoff
from garivini.keeper.supervised_child import CONFIGURATION_ERROR, TIME_LIMIT, Obituary, Slot, SupervisedChild

#: Seconds beyond a job's time limit after which the parent ends a child that has not ended itself.
TIME_LIMIT_GRACE: Final = 5.0
#: A child that has lived for this many seconds is restarted immediately.
_LONG_LIFE: Final = 10.0
#: Maximum seconds between two checks of the children.
_WATCH: Final = 1.0
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


@dataclass(slots=True)
class _Process:
    started: float
    slot: Slot
    obituaries: list[Obituary]
    #: The limit that the child exceeded, if the parent has killed it for that.
    killed_for: Literal["", "TimeLimit", "Drain"] = ""


class Supervisor:
    """Keeps a number of child processes running.

    A child that is leaving is replaced immediately, while it finishes its jobs. At most as many are leaving
    at a time as there are others.

    Args:
        child: called in each child. When it returns, the child ends with status 0.
        processes: the number of children.
        drain: maximum seconds from the first signal until a child has finished its jobs. A child that still
            runs two seconds later is killed.

    """

    def __init__(
        self, child: Callable[[SupervisedChild], None], processes: int, *, drain: float = 30.0
    ) -> None:
        self._child = child
        self._processes = processes
        self._drain = drain
        self._children: dict[int, _Process] = {}
        self._obituaries: list[Obituary] = []
        self._backoff = Backoff(first=0.1, longest=5.0)
        self._start_at = 0.0
        self._stop_by: float | None = None  # monotonic time; None while not stopping
        self._status = 0

    def run(self) -> int:
        """Run until SIGTERM or SIGINT, which drain the children; return the exit status.

        A second signal ends the children at once.
        """
        lifeline, self._keep_open = os.pipe()
        wake, signalled = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(signalled, False)
        before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
        wakeup = signal.set_wakeup_fd(signalled)
        self._inherited = (lifeline, wake, signalled)
        try:
            while self._children or self._stop_by is None:
                self._start_missing()
                select.select([wake], [], [], self._until_next())
                self._signals(wake)
                self._reap()
                self._watch()
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            for descriptor in (lifeline, self._keep_open, wake, signalled):
                os.close(descriptor)
        return self._status

    @property
    def _staying(self) -> int:
        return sum(not process.slot.leaving for process in self._children.values())

    @property
    def _may_leave(self) -> bool:
        return len(self._children) - self._staying < self._processes

    def _until_next(self) -> float:
        if self._stop_by is None and self._staying < self._processes:
            return min(_WATCH, max(0.0, self._start_at - time.monotonic()))
        return _WATCH

    def _start_missing(self) -> None:
        while self._stop_by is None and self._staying < self._processes:
            if time.monotonic() < self._start_at:
                return
            obituaries, self._obituaries = self._obituaries, []
            process = _Process(time.monotonic(), Slot(), obituaries)
            process.slot.may_leave = self._may_leave
            sys.stdout.flush()
            sys.stderr.flush()
            # Before a child has handlers of its own, a signal to it would go to the parent through the pipe
            # that both share, and the parent would handle it as a signal to itself.
            unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            pid = os.fork()
            if pid == 0:
                self._be_child(process, unblocked)
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            self._children[pid] = process
            events.emit("worker.child_started", pid=pid)

    def _be_child(self, process: _Process, unblocked: set[int]) -> None:
        """Run the child. It never returns. ``unblocked``: the signal mask before the fork."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            # A terminal sends ^C to the parent and to its children, and the parent sends them SIGTERM then.
            # So ^C does nothing here. The signal is handled, not ignored, because programs that a function
            # starts would inherit an ignored signal.
            signal.signal(signal.SIGINT, lambda *_: None)
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            lifeline, wake, signalled = self._inherited
            for descriptor in (self._keep_open, wake, signalled):
                os.close(descriptor)
            # Full garbage collections would visit all imported modules, and so copy memory that is shared
            # with the parent.
            gc.freeze()
            child = SupervisedChild(lifeline, process.slot, process.obituaries, self._drain)
            child.started_ns = time.time_ns()
            self._child(child)
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
                # The children count the signals: the first makes a child drain, the second ends it.
                self._stop()

    def _stop(self) -> None:
        if self._stop_by is None:
            # A child normally ends by itself before this time. A child that does not is killed.
            self._stop_by = time.monotonic() + self._drain + 2.0
        for pid in self._children:
            os.kill(pid, signal.SIGTERM)

    def _watch(self) -> None:
        """Kill children that exceed the time limit of their job or of the drain."""
        now = time.monotonic()
        may_leave = self._may_leave
        for pid, process in self._children.items():
            process.slot.may_leave = may_leave
            if process.killed_for:
                continue
            handle, deadline, *_ = process.slot.read()
            if handle and deadline and now > deadline + TIME_LIMIT_GRACE:
                process.killed_for = "TimeLimit"
                os.kill(pid, signal.SIGKILL)
            elif self._stop_by is not None and now > self._stop_by:
                process.killed_for = "Drain"
                running = [handle.id] if handle is not None else []
                worker = f"{socket.gethostname()}:{pid}"
                events.emit("worker.drain_incomplete", worker=worker, jobs=len(running), running=running)
                os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            process = self._children.pop(pid, None)
            if process is not None and self._stop_by is None:
                self._bury(pid, process, os.waitstatus_to_exitcode(status))

    def _bury(self, pid: int, process: _Process, code: int) -> None:
        leaving = process.slot.leaving
        # With this status, the child has reported the reason.
        if code != CONFIGURATION_ERROR and (code or not leaving):
            events.emit("worker.child_died", pid=pid, status=code)
        handle, _, recorded, incarnation, members = process.slot.read()
        if not recorded:
            self._obituaries += process.obituaries
        if handle is not None:
            kind, message = _cause(process, code)
            self._obituaries += [Obituary(it, kind, message, incarnation) for it in (handle, *members)]
        if code == CONFIGURATION_ERROR:
            self._status = code
            self._stop()
        elif leaving:
            pass  # its replacement has not failed
        elif code == TIME_LIMIT or time.monotonic() - process.started > _LONG_LIFE:
            self._backoff.succeeded()
            self._start_at = 0.0
        else:
            self._start_at = time.monotonic() + self._backoff.failed()


def _cause(process: _Process, code: int) -> tuple[Literal["crashed", "failed"], str]:
    """Return kind and message of the obituary of a job that a dead process was running."""
    if process.killed_for == "TimeLimit":
        return "failed", "ran beyond its time limit, and its process had to be killed"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
        return "crashed", f"its process was killed by signal {-code} ({name})"
    return "crashed", f"its process ended with status {code}"
