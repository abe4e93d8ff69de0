"""The table of a Controller's calls: their phases, the copies of their jobs, and free calls. Pure."""

from enum import IntEnum
from typing import Final, Literal, TypeAlias

import msgspec

from garivini.gearman.aio import Client
from garivini.keeper.execution import Execution
from garivini.model.lease import DEADLINE


class Phase(IntEnum):
    """The phase of a call. A call passes the first three in order, and ends in one of the others."""

    #: The call is not submitted yet: its start check may be under way.
    STARTING = 1
    #: The call is submitted, and the Gearman server has not acknowledged it.
    SUBMITTED = 2
    #: A Gearman server has it: it waits for a worker or runs.
    CREATED = 3

    #: The job has succeeded. In this phase and the next three, the outcome is still to be committed.
    SUCCEEDED = 4
    #: The job has failed, asked for another time, or cannot be submitted.
    SET_BACK = 5
    #: The call ended without an outcome, so the job waits in its database again.
    RETURNED = 6
    #: As RETURNED, because a server has refused the call. It would probably refuse the next call too.
    REFUSED = 7
    #: The call was not made: the copy is stale, or its connection was lost. Nothing is to be committed.
    DROPPED = 8


#: A call in a lower phase than this is in flight. A constant, because enum members are slow to look up.
ENDED: Final = Phase.SUCCEEDED
#: The phases that end a call.
End: TypeAlias = Literal[Phase.SUCCEEDED, Phase.SET_BACK, Phase.RETURNED, Phase.REFUSED, Phase.DROPPED]


class Call(msgspec.Struct, eq=False):
    """A job in a Controller, from its start until its outcome is committed. Times are monotonic."""

    execution: Execution
    phase: Phase = Phase.STARTING
    #: The client of the server, from phase SUBMITTED on, and the handle there, from phase CREATED on.
    client: Client | None = None
    handle: bytes = b""
    #: Seconds that the call may take. Then three times: when it was submitted, since when it is known to run,
    #: and when to ask the server about it next.
    deadline: float = DEADLINE
    submitted_at: float = 0.0
    running_since: float | None = None
    ask_at: float = 0.0
    #: Whether its job is kept after success, so that its time is measured.
    keeps: bool = False
    #: Lines of data and warnings that the worker has sent.
    lines: int = 0
    #: The execution of a copy of a later attempt, or None. The copy is started, or completed, when this call
    #: leaves the table.
    later: Execution | None = None


class Calls(dict[tuple[int, int], Call]):
    """All calls of a Controller, by database and job.

    A function may use as many calls as are free. So one slow function uses half of all calls, two slow
    functions use a third each, and there is always a free call for another function.

    Args:
        limit: maximum calls in flight.

    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        #: Number of calls in flight, of all functions together and of each function.
        self.in_flight: int = 0
        self._active: dict[str, int] = {}

    def may_start(self, funcname: str) -> bool:
        """Return whether a function may start another call."""
        return self._active.get(funcname, 0) < self._limit - self.in_flight

    def start(self, execution: Execution) -> Call:
        """Add a call, in phase STARTING."""
        job = execution.job
        call = self[job.dbid, job.jobid] = Call(execution)
        self._active[job.funcname] = self._active.get(job.funcname, 0) + 1
        self.in_flight += 1
        return call

    def attach(self, call: Call, execution: Execution) -> Execution | None:
        """Attach another copy of a job to its call, because one call is enough for all copies.

        If the copy is of a later attempt and a server has acknowledged the call, the copy's execution takes
        over the call. If the server has not, the call keeps the execution for later.

        Returns:
            The execution whose copy is not needed any more and is to be completed, if there is one.

        """
        current = call.execution
        if _attempt(execution) <= _attempt(current):
            # The server has sent the copy again, usually because the connection of the first one was lost.
            if not current.held.disconnected:
                return execution
            current.held = execution.held
            return None
        if call.phase is Phase.CREATED:
            # The earlier attempt is superseded. The outcome of the call counts for the later attempt.
            execution.started_at = current.started_at
            call.execution = execution
            return current
        if call.later is not None and _attempt(execution) < _attempt(call.later):
            return execution
        replaced, call.later = call.later, execution
        return replaced

    def end(self, call: Call, phase: End) -> None:
        """End a call that is in flight. It stays in the table until its outcome is committed."""
        assert call.phase < ENDED, call.phase
        call.phase = phase
        self.in_flight -= 1
        funcname = call.execution.job.funcname
        active = self._active[funcname] - 1
        if active:
            self._active[funcname] = active
        else:
            del self._active[funcname]

    def unfinished(self) -> list[Call]:
        """Return the calls in flight."""
        return [call for call in self.values() if call.phase < ENDED]


def _attempt(execution: Execution) -> int:
    return execution.job.attempt or 0
