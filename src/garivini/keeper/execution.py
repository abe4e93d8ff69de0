"""A job in the process that runs it."""

from typing import Literal, TypeAlias

import msgspec

from garivini.gearman.aio import Held
from garivini.keeper.copies import Copy
from garivini.keeper.shared_copy import SharedCopy
from garivini.model.job import Job
from garivini.model.outcome import KeptResult, Kind, Setback

#: How an execution ended: the kind of its setback, if it has one.
Outcome: TypeAlias = Kind | Literal["succeeded", "returned"]


# The garbage collector does not track executions: two objects per job would be most of the collector's work.
# An execution is removed from everything that refers to it when its job has ended, so it is in no cycle then.
class Execution(msgspec.Struct, eq=False, gc=False):
    """A job in the process that runs it: its copy, its lease, its time limit and its outcome."""

    job: Job
    #: Its copy; a ``SharedCopy`` if the copy carries several jobs.
    held: Held | SharedCopy
    #: The worker's name, for records.
    worker: str
    #: The name of the copy. It does not change when the copy is adopted.
    copy: Copy = (0, 0, None)
    #: Whether its lease is renewed, and the monotonic time of the next renewal.
    renews: bool = False
    renew_at: float = 0.0
    #: The setback with which the execution ended; None if it succeeded or is returned.
    setback: Setback | None = None
    #: Whether it ended without an outcome, so that the job waits again as before.
    returned: bool = False
    #: The result of a job that succeeded and is kept.
    result: bytes | KeptResult = b""
    #: The monotonic time by which the execution must end, and its time limit in seconds; 0: no limit.
    deadline: float = 0.0
    limit: float = 0.0
    #: The monotonic times of its start and end; 0: not measured, because nobody receives the events.
    started_at: float = 0.0
    ended_at: float = 0.0
    #: Whether its copy came without an attempt and was given one.
    adopted: bool = False
    #: Whether its start check has renewed the lease.
    checked: bool = False
    #: Whether it must not start, because another worker may have the job. Its lease is not renewed any more.
    dropped: bool = False

    @property
    def follows(self) -> bool:
        """Whether it has succeeded and its job has follow-ups."""
        job = self.job
        return bool(job.follow_ups) and not job.completed and self.setback is None and not self.returned

    @property
    def outcome(self) -> Outcome:
        """The outcome: how the execution has ended."""
        if self.setback is not None:
            return self.setback.kind
        return "returned" if self.returned else "succeeded"


def jobid_of(execution: Execution) -> int:
    """Return the id of an execution's job."""
    return execution.job.jobid
