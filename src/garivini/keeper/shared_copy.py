"""A copy in Gearman that carries several jobs, each with an execution of its own."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from garivini.gearman.aio import Held
from garivini.gearman.protocol import Assigned
from garivini.keeper.copies import Copy
from garivini.model.job import Job

if TYPE_CHECKING:
    from garivini.keeper.execution import Execution


class SharedCopy:
    """The copy of a bundle. It has the calls of ``Held``, and ends when each of its jobs has ended.

    It is used in the loop, except where a method says otherwise.

    Args:
        held: the copy as the server has assigned it.
        job: the first job, with its members.
        copy: the name of the copy.
        on_end: called with this object when all jobs have ended, and whether the server has the report.

    """

    def __init__(
        self, held: Held, job: Job, copy: Copy, on_end: Callable[["SharedCopy", bool], None]
    ) -> None:
        self.held: Held = held
        #: The job as the server knows it.
        self.job: Assigned = held.job
        self.copy: Copy = copy
        #: Number of jobs that have not ended.
        self.left: int = len(job.bundle)
        #: The executions of the jobs that this process holds, in order. It is emptied when they have run,
        #: because an execution must not be in a cycle when its job has ended.
        self.executions: list[Execution] = []
        #: Executions whose start checks are not finished.
        self.unchecked: int = 0
        self._on_end = on_end

    @property
    def disconnected(self) -> bool:
        """Whether the connection was lost. Any thread may use this."""
        return self.held.disconnected

    @property
    def reopened_at(self) -> float | None:
        """As for ``Held``."""
        return self.held.reopened_at

    def complete(self, data: bytes = b"", *, note: Any = None) -> bool:
        """End one of the jobs; after the last one, report success to the server."""
        self.left -= 1
        if not self.left:
            self._on_end(self, self.held.complete(data, note=self.copy))
        return True

    def fail(self, *, note: Any = None) -> bool:
        """End one of the jobs. Without a note, all of them: the failure is reported at once."""
        if note is None:
            return self.held.fail()
        return self.complete()


def executions_of(execution: "Execution") -> "list[Execution]":
    """Return the executions that end with this one: those of its bundle, or only itself."""
    held = execution.held
    return list(held.executions) if isinstance(held, SharedCopy) else [execution]
