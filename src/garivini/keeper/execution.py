"""A job in this process."""

import msgspec

from garivini.gearman.aio import Held
from garivini.keeper.copies import Copy
from garivini.model.job import Job
from garivini.model.outcome import Setback


class Execution(msgspec.Struct, eq=False):
    """A job in this process: the copy from Gearman, and its outcome."""

    job: Job
    held: Held
    #: Name of the worker, for the record.
    worker: str
    #: The name of the copy, also if it gets another attempt later.
    copy: Copy = (0, 0, None)
    #: The monotonic time of the next renewal of its lease.
    renews: bool = False
    renew_at: float = 0.0
    #: How it ended, if not with success.
    setback: Setback | None = None
    #: It ended without an outcome of its own: the job waits again as it did before.
    returned: bool = False
    #: Its result, if it succeeded.
    result: bytes = b""
    #: Monotonic time by which it must end, and its time limit in seconds; 0: no limit.
    deadline: float = 0.0
    limit: float = 0.0
    #: Its copy came without an attempt, and one was assigned.
    adopted: bool = False
    #: Its start check renewed the lease.
    checked: bool = False
    #: Given up before it started: its lease is not ours to renew any more.
    dropped: bool = False


def jobid_of(run: Execution) -> int:
    """Return the id of a run's job."""
    return run.job.jobid
