"""Commits the outcomes of executions in batches, and defers those that cannot be written."""

from collections.abc import Callable
from typing import Final

from garivini import events
from garivini.errors import ConflictError
from garivini.keeper.batch_writer import BATCH, is_unfit
from garivini.keeper.execution import Execution
from garivini.keeper.inbox import Inbox
from garivini.keeper.leases import Failed
from garivini.keeper.outcome_writer import OutcomeWriter
from garivini.keeper.reports import Reports
from garivini.keeper.setback_writer import emit_dropped
from garivini.keeper.wakeup import Wakeup
from garivini.model.pacing import BatchGate

#: Tries after which an outcome that does not fit the database is dropped.
_TRIES: Final = 10


class OutcomeQueue:
    """Executions that have ended, until their outcomes are committed.

    The outcomes that arrive during a commit are the next batch, so a batch is small when the worker is idle
    and large when it is busy.

    Args:
        dbid: the id of the database.
        writer: writes outcomes to it.
        reports: writes the reports of the same jobs before their outcomes.
        wakeup: wakes the keeper's thread.
        on_committed: called in the keeper's thread with the executions whose outcome is committed or dropped.
        monotonic: returns the monotonic time.

    """

    def __init__(
        self,
        dbid: int,
        writer: OutcomeWriter,
        reports: Reports,
        wakeup: Wakeup,
        on_committed: Callable[[list[Execution]], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._dbid = dbid
        self._writer = writer
        self._reports = reports
        self._wakeup = wakeup
        self._on_committed = on_committed
        self._monotonic = monotonic
        self._inbox: Inbox[Execution] = Inbox()
        #: Number of outcomes in the transaction that runs now.
        self._writing = 0
        self._gate = BatchGate()
        #: A new outcome wakes the thread only if at least this many outcomes wait, the new one included. With
        #: fewer, the thread wakes by itself when its wait for a larger batch is over.
        self._enough = 0
        #: Whether the database has refused some of the deferred outcomes.
        self.refused: bool = False

    def end(self, execution: Execution) -> None:
        """Commit the outcome of an execution: its setback, or success if it has none and is not returned."""
        if execution.started_at:
            execution.ended_at = self._monotonic()
        self._inbox.put(execution)
        if not self._wakeup.is_set() and self._inbox.count() >= self._enough:  # neither call takes a lock
            self._wakeup.set()

    @property
    def unwritten(self) -> int:
        """Count the outcomes that are not committed, or whose commit the database has not answered."""
        return self._writing + len(self._inbox) + self._inbox.deferred

    def hasten(self) -> None:
        """Retry all deferred outcomes now."""
        self._inbox.hasten(self._monotonic())

    def step(self) -> None:
        """Commit the deferred outcomes that are due, then the others in batches until none or few wait."""
        if due := self._inbox.take_due(self._monotonic(), BATCH):
            self._commit(due)
        while self._inbox:
            began = self._monotonic()
            if self._gate.waits(len(self._inbox), began):
                return
            batch = self._inbox.take(BATCH)
            ended = self._write(batch)
            self._gate.stored(len(batch) + len(self._inbox), began, self._monotonic())
            self._finish(ended)

    def next_due(self) -> float:
        """Return when a deferred outcome is due, or the wait for a larger batch is over."""
        due = self._inbox.next_due()
        waits = self._monotonic() < self._gate.until
        self._enough = self._gate.expected if waits else 0
        return min(due, self._gate.until) if self._inbox or waits else due

    def _commit(self, executions: list[Execution]) -> None:
        self._finish(self._write(executions))

    def _finish(self, executions: list[Execution]) -> None:
        for execution in executions:
            execution.renews = False
        if executions:
            self._on_committed(executions)

    def _write(self, executions: list[Execution]) -> list[Execution]:
        """Write outcomes and defer those that failed; return the executions that are written or dropped.

        Raises:
            GariviniError: one that concerns all writes; the executions are in the inbox again.

        """
        self._writing = len(executions)
        try:
            # These jobs have ended, so all their reports have been added. The reports are written now. A job
            # that ends from here on may have later reports, so its outcome must not be part of this batch.
            self._reports.step()
            failed = self._writer.write(executions)
            deferred = self._defer(failed) if failed else set()
        except Exception:
            self._inbox.put_back(executions)
            raise
        finally:
            self._writing = 0
        ended = [it for it in executions if id(it) not in deferred] if deferred else executions
        self._inbox.forget(ended)
        self.refused = self.refused and self._inbox.deferred > 0
        return ended

    def _defer(self, failed: Failed) -> set[int]:
        """Defer or drop executions that cannot be written even in part; return the deferred ones' ``id``."""
        rest: Failed = []
        for execution, error in failed:
            if not isinstance(error, ConflictError) and self._writer.write_reduced(execution, error):
                continue
            if is_unfit(error) and self._inbox.tries(execution) >= _TRIES:
                emit_dropped(execution.job.handle, error)
                continue
            rest.append((execution, error))
        if first_errors := [error for execution, error in rest if not self._inbox.tries(execution)]:
            error = first_errors[0]
            events.emit("outcomes.put_aside", dbid=self._dbid, outcomes=len(first_errors), error=str(error))
        for execution, error in rest:  # last, because after an error ``_write`` puts all executions back
            self._inbox.defer(execution, error, self._monotonic())
            self.refused = self.refused or not isinstance(error, ConflictError)
        return {id(execution) for execution, _ in rest}
