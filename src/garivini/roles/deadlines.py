"""Ends the calls of a Controller that have used up their time. It asks the servers which calls run."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from garivini import events
from garivini.errors import GariviniError, RefusedError
from garivini.gearman.aio import Client
from garivini.gearman.protocol import JobStatus
from garivini.roles.calls import Call, Phase

#: Seconds from a call's submit until the server is asked about it the first time.
_FIRST_CHECK: Final = 1.0
#: A call whose server answers within this number of seconds after the submit that the call is running counts
#: as running since the submit.
_YOUNG: Final = 3.0


def begin(call: Call, seconds: float, now: float) -> None:
    """Record that a call is submitted now and may take the given number of seconds."""
    call.deadline = seconds
    call.submitted_at = now
    call.ask_at = now + _FIRST_CHECK


def is_over(call: Call, *, running: bool, now: float) -> bool:
    """Return whether a call has used up its time; otherwise set when to ask about it again.

    The time counts from the start of the function. A call that is running soon after its submit counts
    as running since its submit. Otherwise the time of its start is unknown, and the time of the check that
    first finds it running is used instead.
    """
    if running and call.running_since is None:
        call.running_since = call.submitted_at if now - call.submitted_at < _YOUNG else now
    began = call.submitted_at if call.running_since is None else call.running_since
    call.ask_at = began + call.deadline
    return now >= call.ask_at


def due(calls: Iterable[Call], now: float) -> dict[Client, list[Call]]:
    """Return the calls whose servers are to be asked now, grouped by the client of the server."""
    found: dict[Client, list[Call]] = {}
    for call in calls:
        if call.phase is Phase.CREATED and call.ask_at <= now and call.client is not None:
            found.setdefault(call.client, []).append(call)
    return found


class Deadlines:
    """Asks the servers about calls: once while they are young, and then at their deadlines.

    Args:
        on_overdue: called with a call that has run for too long.
        on_unstarted: called with a call that no worker has started in time.
        monotonic: returns the monotonic time.

    """

    def __init__(
        self,
        on_overdue: Callable[[Call], None],
        on_unstarted: Callable[[Call], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._monotonic = monotonic
        self._on_overdue = on_overdue
        self._on_unstarted = on_unstarted

    async def check(self, calls: Iterable[Call]) -> None:
        """Ask the servers about the calls whose check is due, and end those that have used up their time."""
        parts = due(calls, self._monotonic())
        await asyncio.gather(*(self._check(client, part) for client, part in parts.items()))

    async def _check(self, client: Client, calls: Sequence[Call]) -> None:
        try:
            statuses = await client.statuses_of([call.handle for call in calls])
        except GariviniError:
            return  # the connection was lost, and the calls have ended
        now = self._monotonic()
        for call, status in zip(calls, statuses, strict=True):
            # The call may have ended while the server was being asked, or while an earlier call of this loop
            # was being cancelled.
            if call.phase is Phase.CREATED and is_over(call, running=status.running, now=now):
                with suppress(GariviniError):
                    await self._end(client, call, status)

    async def _end(self, client: Client, call: Call, status: JobStatus) -> None:
        if status.running:
            self._on_overdue(call)
            return
        # The job is not at fault. If its call stayed in the queue, it would run beside the next call.
        events.emit("call.cancelled", function=call.execution.job.funcname, seconds=call.deadline)
        self._on_unstarted(call)
        with suppress(RefusedError):
            await client.command(b"cancel job " + call.handle, block=False)
