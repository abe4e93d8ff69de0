"""The table of a Controller's calls: their phases, the copies of their jobs, and free calls. Pure."""

from collections.abc import Iterator
from enum import Enum
from typing import Final, Literal, TypeAlias

import msgspec

from garivini.gearman.aio import Client
from garivini.keeper.execution import Execution
from garivini.model.job import Job
from garivini.model.lease import DEADLINE


class Phase(Enum):
    """How far a call is. It passes the first three in turn, and goes from any of them to one of the rest."""

    #: It is not submitted yet: its start check may be under way.
    STARTING = "starting"
    #: It is submitted, and the Gearman server has not acknowledged it.
    SUBMITTED = "submitted"
    #: A Gearman server has it: it waits for a worker or runs.
    CREATED = "created"

    #: The job has succeeded. In this phase and the next two, its outcome is still to be committed.
    SUCCEEDED = "succeeded"
    #: The job has failed, asked for another time, or cannot be submitted.
    SET_BACK = "set back"
    #: The call ended without an outcome, so the job waits in its database again.
    RETURNED = "returned"
    #: The call was not made: the copy is stale, or its connection was lost. Nothing is to be committed.
    DROPPED = "dropped"


#: The phases before the end. A tuple, because the members of an enum are slow to hash.
IN_FLIGHT: Final = (Phase.STARTING, Phase.SUBMITTED, Phase.CREATED)
#: The phases that end a call.
End: TypeAlias = Literal[Phase.SUCCEEDED, Phase.SET_BACK, Phase.RETURNED, Phase.DROPPED]


class Call(msgspec.Struct, eq=False):
    """A job in a Controller, from its start until its outcome is committed. Times are monotonic."""

    execution: Execution
    phase: Phase = Phase.STARTING
    #: The client of the server, from phase SUBMITTED on, and the handle there, from phase CREATED on.
    client: Client | None = None
    handle: bytes = b""
    #: Seconds that the call may take, when it was submitted, since when it is known to run, and when to ask
    #: the server about it.
    deadline: float = DEADLINE
    submitted_at: float = 0.0
    running_since: float | None = None
    ask_at: float = 0.0
    #: Lines of data and warnings that the worker has sent.
    lines: int = 0
    #: A copy of a later attempt. It is started, or completed, when this call is removed.
    later: Execution | None = None


class Calls:
    """All calls of a Controller, each by its job.

    A function may use as many calls as are free. If it is the only slow one it thus uses half of them, two
    use a third each, and there is always room for the next.

    Args:
        limit: maximum calls in flight.

    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._calls: dict[tuple[int, int], Call] = {}
        #: Number of calls in flight, of all functions and of each.
        self.in_flight = 0
        self._active: dict[str, int] = {}

    def get(self, job: Job) -> Call | None:
        """Return the call of a job, of whatever attempt, or None."""
        return self._calls.get((job.dbid, job.jobid))

    def __iter__(self) -> Iterator[Call]:
        """Iterate over all calls."""
        return iter(self._calls.values())

    def may_start(self, funcname: str) -> bool:
        """Return whether a function may start another call."""
        return self._active.get(funcname, 0) < self._limit - self.in_flight

    def start(self, execution: Execution) -> Call:
        """Add a call, in phase STARTING."""
        job = execution.job
        call = self._calls[job.dbid, job.jobid] = Call(execution)
        self._active[job.funcname] = self._active.get(job.funcname, 0) + 1
        self.in_flight += 1
        return call

    def attach(self, call: Call, execution: Execution) -> Execution | None:
        """Attach another copy of its job to a call, because one call is enough for all of them.

        If it is of a later attempt, the call becomes its execution as soon as a server has acknowledged the
        call, and otherwise keeps it for later.

        Returns:
            The execution whose copy is of no use any more and is to be completed, if there is one.

        """
        current = call.execution
        if _attempt(execution) <= _attempt(current):
            # The server has sent the copy again, usually because its connection was lost.
            if not current.held.disconnected:
                return execution
            current.held = execution.held
            return None
        if call.phase is Phase.CREATED:
            # The attempt is superseded. The outcome of the call is that of the later attempt.
            call.execution = execution
            return current
        if call.later is not None and _attempt(execution) < _attempt(call.later):
            return execution
        replaced, call.later = call.later, execution
        return replaced

    def end(self, call: Call, phase: End) -> None:
        """End a call that is in flight. It stays in the table until it is removed."""
        assert call.phase in IN_FLIGHT, call.phase
        call.phase = phase
        self.in_flight -= 1
        funcname = call.execution.job.funcname
        active = self._active[funcname] - 1
        if active:
            self._active[funcname] = active
        else:
            del self._active[funcname]

    def remove(self, call: Call) -> None:
        """Remove a call that was dropped, or whose outcome is committed."""
        job = call.execution.job
        del self._calls[job.dbid, job.jobid]

    def unfinished(self) -> list[Call]:
        """Return the calls in flight."""
        return [call for call in self if call.phase in IN_FLIGHT]


def _attempt(execution: Execution) -> int:
    return execution.job.attempt or 0
