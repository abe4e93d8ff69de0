"""Leased jobs that no Gearman server has any more: their leases end at once, so that they go out again."""

import asyncio
from collections.abc import Sequence
from typing import Final

from garivini import events
from garivini.model.job import Handle
from garivini.model.lease import LEASE, Found
from garivini.model.limits import FLAGS
from garivini.roles.dispatcher import Dispatcher
from garivini.roles.job_servers import JobServers
from garivini.store.chunks import CHUNK
from garivini.store.database import Lane
from garivini.submission import function_of

#: Seconds for which a claim is left alone by sweeps: twice the time within which it is submitted.
_SWEEP_AGE: Final = 6
#: Seconds between two looks for what others have leased since, and not sent.
_WATCH: Final = 3


class Lost:
    """Finds what servers have forgotten of one database's jobs, and what was never sent."""

    def __init__(self, dispatcher: Dispatcher, job_servers: JobServers, *, watch: bool = False) -> None:
        """Do no I/O. ``watch``: whether it looks all the time for what others leased and did not send."""
        self._dispatcher = dispatcher
        self._database = dispatcher.database
        self._servers = job_servers
        # Loop times of the sweeps to come; None: before the first pass.
        self._sweeps: list[float] | None = None
        self._reconnects = 0
        self._watch = watch
        #: Up to when rows were leased that have been asked about; the database's unix time.
        self._seen = 0

    def until_sweep(self) -> list[float]:
        """When to look again for the next sweep. While a server is away there is none."""
        if not self._sweeps or not self._servers.all_connected:
            return []
        return [max(0.0, self._sweeps[0] - _now())]

    async def find(self, lanes: Sequence[Lane], clock: float) -> bool:
        """End the leases of what no server has any more; return whether there are any.

        What this process sent on a connection that was lost is known, and asked about once there is a new
        one. What others sent, or an earlier process, is found by a sweep over the leased rows: at the start
        and after a reconnect, and second by second while rows that were too young then come of age. From
        then on it looks for the rows that have come of age since: each is asked about once. A client or an
        Injector that died between its commit and its submit has left them.

        ``clock``: the database's unix time.
        """
        now = _now()
        if self._sweeps is None or self._reconnects != self._servers.reconnects:
            self._sweeps = [now, *(now + age for age in range(_SWEEP_AGE // 2, _SWEEP_AGE + 2))]
            self._reconnects = self._servers.reconnects
        dbid = b"%d:" % self._database.dbid
        lost = [_handle(unique) for unique in self._servers.take_lost(dbid)]
        found = await self._end_unknown(lost, self._dispatcher.longest_lease())
        if self._sweeps and self._sweeps[0] <= now and self._servers.all_connected:
            del self._sweeps[0]
            for lane in lanes:
                found |= await self._sweep(lane, 0)
            self._seen = int(clock) - _SWEEP_AGE
        elif self._watch and not self._sweeps and clock >= self._seen + _SWEEP_AGE + _WATCH:
            for lane in lanes:
                found |= await self._sweep(lane, self._seen)
            self._seen = int(clock) - _SWEEP_AGE
        return found

    async def _sweep(self, lane: Lane, since: int) -> bool:
        """Ask about a lane's rows that are old enough and were leased after ``since``; 0: about all."""
        found = False
        # No lease that was given since ends before. The index then spares the rows that have waited for long.
        after = since and since + min(self._dispatcher.lease(lane.funcname), LEASE)
        while True:
            page = await self._dispatcher.call(
                self._database.dispatched, lane, age=_SWEEP_AGE, since=since, after=after
            )
            handles = [handle for handle, _ in page if not since or not self._sent(lane, handle)]
            found |= await self._end_unknown(handles, self._dispatcher.longest_lease())
            # Rows that end in the same second as the last may be on both pages: asked twice, no harm. A page
            # of one second alone is as far as a sweep goes.
            if len(page) < CHUNK or page[-1][1] == after:
                return found
            after = page[-1][1]

    def _sent(self, lane: Lane, handle: Handle) -> bool:
        """Whether this was sent from here, on a connection that has held: then its server has had it."""
        unique = self._dispatcher.unique(handle.jobid, handle.attempt or 0)
        functions = {function_of(lane.funcname, flag) for flag in FLAGS}
        return any(self._servers.delivered(function, unique) for function in functions)

    async def _end_unknown(self, handles: Sequence[Handle], lease: int) -> bool:
        """Ask about attempts; end the leases of those that all servers answered not to have."""
        if not handles:
            return False
        uniques = [self._dispatcher.unique(jobid, attempt or 0) for jobid, _, attempt in handles]
        said = await self._servers.ask(b"", uniques, silence=lease)
        unknown = [handle for handle, found in zip(handles, said, strict=True) if found is Found.UNKNOWN]
        if unknown:
            events.emit("jobs.lost", dbid=self._database.dbid, jobs=len(unknown))
            await self._dispatcher.call(self._database.end_early, unknown, lease=lease, left=set())
        return bool(unknown)


def _handle(unique: bytes) -> Handle:
    dbid, jobid, attempt = map(int, unique.split(b":"))
    return Handle(jobid, dbid, attempt)


def _now() -> float:
    """Return the loop's monotonic time."""
    return asyncio.get_running_loop().time()
