"""Ends a process whose main thread runs a job beyond its time limit, or too long after its cancel."""

import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace

from garivini import events
from garivini.keeper.execution import Execution
from garivini.keeper.functions import Functions
from garivini.keeper.recognition import Recognition
from garivini.keeper.setback_writer import SetbackWriter
from garivini.keeper.shared_copy import executions_of
from garivini.keeper.step import NOT_DUE
from garivini.keeper.wakeup import Wakeup
from garivini.model.outcome import Setback
from garivini.model.policy import NO_POLICY


class TimeLimit:
    """The time limit of the job in the main thread, and the grace time after its cancel.

    Args:
        dbid: the id of the database.
        setbacks: writes the failure to the database.
        recognition: decides whether the row still belongs to the job.
        functions: has the grace times of functions.
        wakeup: wakes the keeper's thread.
        running: returns what the main thread runs now.
        on_overdue: called in the keeper's thread, after the failure of an uncancelled job is committed; ends
            the process.
        monotonic: returns the monotonic time.
        ends_process: whether the process may be ended, because a supervisor starts another one. Otherwise
            the event ``job.overdue`` is emitted, and the job continues.

    """

    def __init__(
        self,
        dbid: int,
        setbacks: SetbackWriter,
        recognition: Recognition,
        functions: Functions,
        wakeup: Wakeup,
        running: Callable[[], Execution | None],
        on_overdue: Callable[[Execution], None],
        monotonic: Callable[[], float],
        *,
        ends_process: bool,
    ) -> None:
        self._dbid = dbid
        self._setbacks = setbacks
        self._recognition = recognition
        self._functions = functions
        self._wakeup = wakeup
        self._running = running
        self._ends_process = ends_process
        self._on_overdue = on_overdue
        self._monotonic = monotonic

    def limit(self, execution: Execution, seconds: float) -> None:
        """Limit the time of an execution that starts now. ``running`` must return it already."""
        execution.limit = seconds
        execution.deadline = self._monotonic() + seconds
        if execution.deadline < self._wakeup.until:
            self._wakeup.set()

    def limit_cancelled(self, execution: Execution) -> None:
        """Limit the remaining time of a cancelled job, if its function has a grace time.

        For the keeper's thread. If the job's own time limit ends earlier, that applies.
        """
        policies = self._functions.stored or {}
        grace = policies.get(execution.job.funcname, NO_POLICY).cancel_grace
        if grace is None:
            return
        end = self._monotonic() + grace
        if not execution.deadline or end < execution.deadline:
            execution.limit, execution.deadline = grace, end

    def step(self) -> None:
        """End the process because the main thread's job runs too long.

        Its failure is recorded first, unless it was cancelled: the row of a cancelled job has its record.
        """
        execution = self._limited()
        if execution is None or self._monotonic() < execution.deadline:
            return
        job = execution.job
        if not self._ends_process:
            execution.deadline = 0.0
            events.emit("job.overdue", jobid=job.jobid, seconds=execution.limit)
            return
        if not job.cancelled:
            self._record(execution)
        if self._running() is execution:
            self._on_overdue(execution)

    def _record(self, execution: Execution) -> None:
        """Record the failure of an execution that has reached its time limit."""
        job = execution.job
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        setback = Setback(
            handle=job.handle,
            kind="failed",
            error="TimeLimit",
            message=f"ran longer than {execution.limit:g} s",
            trace="".join(traceback.format_stack(frame)),
            worker=execution.worker,
        )
        for it in executions_of(execution):
            if self._recognition.unrecognised([it.job]):
                self._recognition.report(1)
            else:
                self._setbacks.settle(replace(setback, handle=it.job.handle))

    def next_due(self) -> float:
        """Return the deadline of the main thread's job."""
        execution = self._limited()
        return NOT_DUE if execution is None else execution.deadline

    def _limited(self) -> Execution | None:
        """Return what the main thread runs, if it is a job of this database and has a limit."""
        execution = self._running()
        if execution is None or execution.job.dbid != self._dbid or not execution.deadline:
            return None
        return execution
