"""The data that a child of ``garivini worker`` and its parent share: the running job, and obituaries."""

import mmap
import os
import signal
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from garivini.model.job import Handle, Job
from garivini.model.policy import MAX_BUNDLE

#: Exit status of a child whose restart would not help. The parent ends too, with the same status.
CONFIGURATION_ERROR: Final = 78
#: Exit status of a child that ended itself because a job ran too long.
TIME_LIMIT: Final = 79


class Slot:
    """Shared memory with the job that a child is running: written by the child, read by the parent."""

    # Three threads of the child write this memory, so each has fields of its own. The main thread writes the
    # job of a def function: jobid (0: none), dbid, attempt, incarnation (-1: none) and the monotonic time by
    # which the job must end (0: no limit).
    # The loop's thread writes the job of an async def function in the same way. A keeper writes whether the
    # obituaries are recorded. A keeper that ends the process sets the jobid of the main thread to -1, which
    # means that no job has caused the end.
    # The loop writes whether the process leaves. The parent writes whether it has to stay for now.
    _JOB: Final = struct.Struct("qqqqd")
    _FLAG: Final = struct.Struct("q")
    _RECORDED, _LEAVING, _STAYS = range(3)
    # The other jobs of a bundle in the main thread: the jobid and the attempt of its first job, their number,
    # and for each its jobid and its attempt. They count only while the main thread has noted that first job.
    _BUNDLE: Final = struct.Struct("qqq")
    _MEMBER: Final = struct.Struct("qq")

    _BUNDLE_AT: Final = 2 * _JOB.size + 3 * _FLAG.size

    def __init__(self) -> None:
        # Anonymous: shared with children, without a file.
        self._memory = mmap.mmap(-1, self._BUNDLE_AT + self._BUNDLE.size + MAX_BUNDLE * self._MEMBER.size)

    def _set_flag(self, flag: int, value: bool) -> None:
        self._FLAG.pack_into(self._memory, 2 * self._JOB.size + flag * self._FLAG.size, value)

    def _flag(self, flag: int) -> bool:
        (value,) = self._FLAG.unpack_from(self._memory, 2 * self._JOB.size + flag * self._FLAG.size)
        return bool(value)

    def set(self, job: Job, deadline: float = 0.0) -> None:
        """Record that this job, with those of its bundle, is running in the main thread."""
        if job.members:
            self._set_members(job)
        incarnation = -1 if job.incarnation is None else job.incarnation
        self._JOB.pack_into(self._memory, 0, job.jobid, job.dbid, job.attempt or 0, incarnation, deadline)

    def _set_members(self, job: Job) -> None:
        members = job.members[:MAX_BUNDLE]
        where = self._BUNDLE_AT
        self._BUNDLE.pack_into(self._memory, where, job.jobid, job.attempt or 0, len(members))
        for number, member in enumerate(members):
            at = where + self._BUNDLE.size + number * self._MEMBER.size
            self._MEMBER.pack_into(self._memory, at, member.jobid, member.attempt or 0)

    def _members(self, first: Handle) -> tuple[Handle, ...]:
        where = self._BUNDLE_AT
        jobid, attempt, number = self._BUNDLE.unpack_from(self._memory, where)
        if (jobid, attempt) != (first.jobid, first.attempt):
            return ()
        start = where + self._BUNDLE.size
        found = self._MEMBER.iter_unpack(self._memory[start : start + number * self._MEMBER.size])
        return tuple([Handle(jobid, first.dbid, attempt) for jobid, attempt in found])

    def clear(self) -> None:
        """Record that no job is running in the main thread."""
        self._JOB.pack_into(self._memory, 0, 0, 0, 0, 0, 0.0)

    def acquit(self) -> None:
        """Record that no job is to be recorded as the cause of the end of this process."""
        self._JOB.pack_into(self._memory, 0, -1, 0, 0, 0, 0.0)

    def set_task(self, job: Job) -> None:
        """Record that this job, and no other, is a task of the loop."""
        incarnation = -1 if job.incarnation is None else job.incarnation
        where = self._JOB.size
        self._JOB.pack_into(self._memory, where, job.jobid, job.dbid, job.attempt or 0, incarnation, 0.0)

    def clear_task(self) -> None:
        """Record that no job, or several, are tasks of the loop."""
        self._JOB.pack_into(self._memory, self._JOB.size, 0, 0, 0, 0, 0.0)

    def note_recorded(self) -> None:
        """Record that the obituaries of this child are in the database."""
        self._set_flag(self._RECORDED, True)

    def note_leaving(self) -> None:
        """Record that this process accepts no more jobs, and is to be replaced."""
        self._set_flag(self._LEAVING, True)

    @property
    def leaving(self) -> bool:
        """Whether the child has recorded that it is to be replaced."""
        return self._flag(self._LEAVING)

    @property
    def may_leave(self) -> bool:
        """Whether the parent would replace this child now."""
        return not self._flag(self._STAYS)

    @may_leave.setter
    def may_leave(self, may: bool) -> None:
        self._set_flag(self._STAYS, not may)

    def read(self) -> "Noted":
        """Return what the child has recorded.

        A job of the main thread comes before one of the loop, because a process usually dies in the main
        thread.
        """
        jobid, dbid, attempt, incarnation, deadline = self._JOB.unpack_from(self._memory)
        members = self._members(Handle(jobid, dbid, attempt)) if jobid > 0 else ()
        if not jobid:
            jobid, dbid, attempt, incarnation, deadline = self._JOB.unpack_from(self._memory, self._JOB.size)
        handle = Handle(jobid, dbid, attempt) if jobid > 0 else None
        recorded = self._flag(self._RECORDED)
        return Noted(handle, deadline, recorded, None if incarnation < 0 else incarnation, members)


class Noted(NamedTuple):
    """What a child has recorded for its parent."""

    #: The job that runs, and the monotonic time by which it must end; 0: no limit.
    handle: Handle | None
    deadline: float
    #: Whether the obituaries that the child was given are recorded.
    recorded: bool
    #: The incarnation of the job's database; None: none is known.
    incarnation: int | None
    #: The other jobs of the bundle that runs.
    members: tuple[Handle, ...] = ()


@dataclass(frozen=True, slots=True)
class Obituary:
    """A job whose process died while it ran."""

    handle: Handle
    #: ``failed`` if the parent ended the process because of the job's time limit, otherwise ``crashed``.
    kind: Literal["crashed", "failed"]
    message: str
    #: The incarnation of the database that gave the attempt; None: it is not known.
    incarnation: int | None = None


@dataclass(frozen=True, slots=True)
class ReplaceWhen:
    """When a child process is replaced by a new one."""

    #: The number of jobs after which it is replaced; None: no limit.
    jobs: int | None = None
    #: The bytes of its memory in RAM beyond which it is replaced; None: no limit.
    memory: int | None = None
    #: Whether it is replaced when a file of a module that it has imported changes.
    files: bool = False


@dataclass(slots=True)
class SupervisedChild:
    """The data that a child process receives from its supervisor."""

    #: File descriptor of a pipe that reaches its end when the parent dies.
    lifeline: int
    slot: Slot
    obituaries: list[Obituary]
    #: Maximum seconds from the first signal until the child has finished the jobs that it holds.
    drain: float
    #: When to replace it.
    replace_when: ReplaceWhen = ReplaceWhen()
    #: When it was started, in nanoseconds of unix time. Files that have changed since then may not be loaded.
    started_ns: int = 0

    def leave(self) -> None:
        """Have the parent start another process in place of this one, which ends by itself."""
        self.slot.note_leaving()
        with suppress(PermissionError):  # the parent has died, and its place was taken by one of another user
            os.kill(os.getppid(), signal.SIGCHLD)  # wakes it
