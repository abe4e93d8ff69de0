"""Changes the rows of jobs that this process holds and does not run."""

from collections.abc import Callable, Collection
from typing import Protocol

from garivini.keeper.batch_writer import BATCH, BatchWriter, is_unfit
from garivini.keeper.execution import Execution, jobid_of
from garivini.keeper.inbox import Inbox
from garivini.keeper.recognition import Recognition
from garivini.model.job import Handle


class Change(Protocol):
    """A call of the database that changes the rows of some handles."""

    def __call__(self, handles: Collection[Handle], *, locked: set[int] | None = None) -> None:
        """Change rows in one transaction; ``locked``: see ``Write``."""


class RowChanges:
    """Executions that were not started, until their rows are changed: given back, or marked as leased again.

    Args:
        writer: writes to the database.
        change: changes their rows.
        recognition: decides which rows still belong to their jobs.
        monotonic: returns the monotonic time.
        on_written: called in the keeper's thread with the executions whose rows are changed.

    """

    def __init__(
        self,
        writer: BatchWriter,
        change: Change,
        recognition: Recognition,
        monotonic: Callable[[], float],
        on_written: Callable[[list[Execution]], None] = lambda executions: None,
    ) -> None:
        self._writer = writer
        self._change = change
        self._recognition = recognition
        self._monotonic = monotonic
        self._on_written = on_written
        self._inbox: Inbox[Execution] = Inbox()

    def add(self, execution: Execution) -> None:
        """Change the row of an execution in the next round."""
        self._inbox.put(execution)

    def step(self) -> None:
        """Change the rows of a batch. Executions that fail each time (see ``is_unfit``) are dropped."""
        now = self._monotonic()
        batch = self._inbox.take_batch(now, BATCH)
        if not batch:
            return
        try:
            failed = self._writer.write(batch, self._write, jobid_of)
        except Exception:
            self._inbox.put_back(batch)
            raise
        self._inbox.close_batch(batch, failed, now, is_final=is_unfit)
        unwritten = {id(execution) for execution, _ in failed}
        if written := [execution for execution in batch if id(execution) not in unwritten]:
            self._on_written(written)

    def _write(self, executions: list[Execution], locked: set[int] | None) -> None:
        unrecognised = self._recognition.unrecognised(execution.job for execution in executions)
        handles = [it.job.handle for it in executions if id(it.job) not in unrecognised]
        self._change(handles, locked=locked)

    def next_due(self) -> float:
        """Return when the first deferred execution is due."""
        return self._inbox.next_due()
