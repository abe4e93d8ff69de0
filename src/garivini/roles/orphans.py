"""Finds orphans, which are leased jobs that no Gearman server knows, and ends their leases early."""

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

#: Minimum age in seconds of a lease that a sweep asks about: twice the time within which a job is submitted.
_SWEEP_AGE: Final = 6
#: Seconds between two sweeps for rows that others have leased since the last one.
_SWEEP_INTERVAL: Final = 3


class Orphans:
    """Finds the orphans of one database.

    A server may have forgotten a job that this process submitted. Or a client, an Injector or another process
    has leased a job and died before it submitted the job.
    """

    def __init__(self, dispatcher: Dispatcher, job_servers: JobServers, *, watch: bool = False) -> None:
        """Create the search; this does no I/O. ``watch``: whether sweeps go on after those of the start."""
        self._dispatcher = dispatcher
        self._database = dispatcher.database
        self._servers = job_servers
        self._monotonic = dispatcher.monotonic
        # Monotonic times of the next full sweeps; None: before the first pass.
        self._sweeps: list[float] | None = None
        self._reconnects = 0
        self._watch = watch
        #: Unix time by the database's clock: rows that were leased before it have been asked about.
        self._seen = 0

    def until_sweep(self) -> list[float]:
        """Return the seconds until the next full sweep, in a list that is empty if none is planned.

        While a server is disconnected, no sweep is planned.
        """
        if not self._sweeps or not self._servers.all_connected:
            return []
        return [max(0.0, self._sweeps[0] - self._monotonic())]

    async def find(self, lanes: Sequence[Lane], clock: float) -> bool:
        """End the leases of orphans; return whether there are any.

        A job whose lease has ended is submitted again. This process knows which jobs it delivered on a
        connection that was lost, and asks about them once there is a new connection. Jobs of other processes
        are found by sweeps over all leased rows: at the start, after a reconnect, and then second by second
        until the rows that were too young at first have been asked about. After that, with ``watch``, a sweep
        every few seconds asks once about each row that was leased since the last one.

        Args:
            lanes: lanes of leased rows.
            clock: unix time by the database's clock.

        """
        now = self._monotonic()
        if self._sweeps is None or self._reconnects != self._servers.reconnects:
            self._sweeps = [now, *(now + age for age in range(_SWEEP_AGE // 2, _SWEEP_AGE + 2))]
            self._reconnects = self._servers.reconnects
        dbid = b"%d:" % self._database.dbid
        doubtful = [_handle(unique) for unique in self._servers.pop_disconnected(dbid)]
        found = await self._end_unknown(doubtful, self._dispatcher.longest_lease())
        if self._sweeps and self._sweeps[0] <= now and self._servers.all_connected:
            del self._sweeps[0]
            for lane in lanes:
                found |= await self._sweep(lane, 0)
            self._seen = int(clock) - _SWEEP_AGE
        elif self._watch and not self._sweeps and clock >= self._seen + _SWEEP_AGE + _SWEEP_INTERVAL:
            for lane in lanes:
                found |= await self._sweep(lane, self._seen)
            self._seen = int(clock) - _SWEEP_AGE
        return found

    async def _sweep(self, lane: Lane, since: int) -> bool:
        """Ask about a lane's rows that are old enough and were leased after ``since`` (0: at any time)."""
        found = False
        # No lease that was given after ``since`` ends before this time. So the index skips rows that were
        # leased long ago.
        after = since and since + min(self._dispatcher.lease(lane.funcname), LEASE)
        while True:
            page = await self._dispatcher.call(
                self._database.dispatched, lane, age=_SWEEP_AGE, since=since, after=after
            )
            left = [it for it in page if not since or not self._is_delivered(lane, it.call)]
            calls = [it.call for it in left]
            handles = [it.handle for it in left]
            found |= await self._end_unknown(handles, self._dispatcher.longest_lease(), calls)
            # Rows whose leases end in the same second as the last one may be on both pages: asking twice does
            # no harm. A sweep ends at a page whose leases all end in the same second.
            if len(page) < CHUNK or page[-1].lease_end == after:
                return found
            after = page[-1].lease_end

    def _is_delivered(self, lane: Lane, call: tuple[int, int]) -> bool:
        """Return whether this process has delivered the call on a connection that is still open."""
        unique = self._dispatcher.unique(*call)
        functions = {function_of(lane.funcname, flag) for flag in FLAGS}
        return any(self._servers.delivered(function, unique) for function in functions)

    async def _end_unknown(
        self, handles: Sequence[Handle], lease: int, calls: Sequence[tuple[int, int]] | None = None
    ) -> bool:
        """Ask about attempts, and end the leases of those that no server knows; return whether any was ended.

        ``lease``: the seconds of the longest lease. ``calls``: the call that carries each attempt; None: each
        has its own.
        """
        if not handles:
            return False
        if calls is None:
            calls = [(jobid, attempt or 0) for jobid, _, attempt in handles]
        uniques = [self._dispatcher.unique(*call) for call in calls]
        answers = await self._servers.ask(b"", uniques, silence=lease)
        unknown = [handle for handle, found in zip(handles, answers, strict=True) if found is Found.UNKNOWN]
        if unknown:
            events.emit("jobs.lost", dbid=self._database.dbid, jobs=len(unknown))
            # No server has these uniques. So the jobs of the rows need another attempt, whatever the
            # incarnation of the rows.
            await self._dispatcher.call(self._database.end_early, unknown, lease=lease, locked=set())
        return bool(unknown)


def _handle(unique: bytes) -> Handle:
    dbid, jobid, attempt = map(int, unique.split(b":"))
    return Handle(jobid, dbid, attempt)
