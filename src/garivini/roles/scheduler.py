"""The scheduler: inserts the jobs of the schedules of one database when they tick.

Any number of schedulers may work on one database. The transaction that inserts the job of a tick also sets
the next tick of the schedule, so each tick inserts its job only once. All times are those of the database's
clock.
"""

import asyncio
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, TypeVar

from garivini import events
from garivini.backoff import Backoff
from garivini.clock import SYSTEM_CLOCK, Clock
from garivini.errors import GariviniError, SchemaError, UnreachableError
from garivini.roles.runner import run_passes
from garivini.store.database import Database

_R = TypeVar("_R")

#: Maximum seconds between two passes, within which a changed schedule is noticed.
_POLL: Final = 5.0
#: Maximum seconds between two passes while another scheduler has locked a tick, or a tick has failed or waits
#: for the end of a job.
_WAITING_POLL: Final = 1.0
#: Seconds until a schedule is retried that has failed: after the first failure, and the maximum.
_RETRY: Final = (2.0, 60.0)


class _Failing(NamedTuple):
    """A schedule that fails."""

    backoff: Backoff
    #: The monotonic time of the next try.
    retry_at: float


class Scheduler:
    """A loop of passes over the schedules of one database."""

    def __init__(
        self, database: Database, *, inserted: Callable[[], None], clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """Create a scheduler; this does no I/O.

        Args:
            database: has the schedules.
            inserted: called after jobs were inserted, to dispatch them at once.
            clock: gives the monotonic time.

        """
        self.name: str = f"scheduler of database {database.dbid}"
        self._database = database
        self._inserted = inserted
        self._clock = clock
        # A separate thread, so that many ticks at the same time do not delay claims.
        self._thread = ThreadPoolExecutor(1, f"garivini-schedules-{database.dbid}")
        self._failing: dict[str, _Failing] = {}

    async def run_pass(self) -> float:
        """Handle the ticks that are due; return the seconds until the next pass.

        A schedule that fails does not affect the others: it is reported, and tried again later.

        Raises:
            GariviniError: the database does not answer, or cannot be read.

        """
        # With this order of reads, a tick that comes due between the two is in one of the results.
        until = await self._call(self._database.until_tick)
        names = await self._call(self._database.due_schedules)
        self._failing = {name: self._failing[name] for name in names if name in self._failing}
        # In random order, so that several schedulers share the work.
        names.sort(key=lambda _: self._clock.uniform(0.0, 1.0))
        wait = _POLL if until is None else min(_POLL, max(0.0, until))
        for name in names:
            wait = min(wait, await self._tick(name))
        return wait

    async def _call(self, call: Callable[..., _R], *arguments: object) -> _R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    async def _tick(self, name: str) -> float:
        """Handle the ticks of a schedule; return the maximum seconds until the next pass."""
        failing = self._failing.get(name)
        if failing is not None and failing.retry_at > self._clock.monotonic():
            return _WAITING_POLL
        try:
            ticked = await self._call(self._database.tick, name)
        except (UnreachableError, SchemaError):
            raise
        except Exception as error:  # also a defect: it must not stop the other schedules
            self._record_failure(name, error)
            return _WAITING_POLL
        self._failing.pop(name, None)
        if ticked is None:
            return _WAITING_POLL
        events.emit(
            "schedule.ticked",
            dbid=self._database.dbid,
            schedule=name,
            function=ticked.funcname,
            jobs=len(ticked.jobids),
            skipped=ticked.skipped,
            late=ticked.late,
        )
        if ticked.jobids:
            self._inserted()
        return 0.0  # the next pass finds out when the schedule ticks again

    def _record_failure(self, name: str, error: Exception) -> None:
        failing = self._failing.get(name)
        backoff = failing.backoff if failing else Backoff(*_RETRY, uniform=self._clock.uniform)
        self._failing[name] = _Failing(backoff, self._clock.monotonic() + backoff.failed())
        text = str(error) if isinstance(error, GariviniError) else traceback.format_exc()
        events.emit("schedule.failed", dbid=self._database.dbid, schedule=name, error=text)

    def close(self) -> None:
        """End the database thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class Schedulers:
    """A scheduler for each database.

    Args:
        databases: have the schedules.
        wakes: one event for each database, set after jobs were inserted there.

    """

    def __init__(self, databases: Sequence[Database], wakes: Sequence[asyncio.Event]) -> None:
        self._schedulers = [
            Scheduler(database, inserted=wake.set) for database, wake in zip(databases, wakes, strict=True)
        ]

    def start(self, stop: asyncio.Event) -> list[asyncio.Task[None]]:
        """Start their passes, which go on until ``stop`` is set."""
        return [
            asyncio.create_task(run_passes(scheduler, stop=stop, wake=asyncio.Event()))
            for scheduler in self._schedulers
        ]

    def close(self) -> None:
        """End the database threads."""
        for scheduler in self._schedulers:
            scheduler.close()
