"""The janitor deletes kept jobs and dead jobs of a database whose retention is over, in small batches.

Each QueueRunner has a janitor. Several janitors do no harm: a batch leaves out rows that another transaction
has locked. Once it has locked rows itself, it checks them again.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from garivini import events
from garivini.errors import ConflictError, RefusedError
from garivini.roles.batch_upkeep import BatchUpkeep
from garivini.roles.key_upkeep import KeyUpkeep
from garivini.store.database import Database

#: Seconds from the start until the first search, between two searches for kept jobs, and between two events.
INTERVAL: Final = 60.0
#: Seconds between two searches for dead jobs, and for old rows that rules about partitions have left behind.
DEAD_INTERVAL: Final = 3600.0
#: Maximum kept jobs, and dead jobs, of a batch. Each dead job is deleted by a statement of its own.
KEPT_JOBS: Final = 500
DEAD_JOBS: Final = 100


class Janitor:
    """Deletes jobs whose retention is over, and old rows that rules about partitions have left behind.

    If there is nothing to delete, this costs one statement per minute, and three more per hour.

    Args:
        database: has the jobs.
        call: runs a call of the database in its thread.
        monotonic: returns the monotonic time.

    """

    def __init__(
        self, database: Database, call: Callable[..., Awaitable[Any]], monotonic: Callable[[], float]
    ) -> None:
        self._database = database
        self._call = call
        self._monotonic = monotonic
        #: The monotonic times of the next searches and of the next event; None: before the first call.
        self._kept_at: float | None = None
        self._dead_at = self._report_at = self._partitions_at = 0.0
        #: The id after which the next page of dead jobs begins.
        self._after = 0
        #: Jobs deleted since the last event.
        self._kept = self._dead = 0
        self._keys = KeyUpkeep(database, call)
        self._batches = BatchUpkeep(database, call)

    async def run(self) -> None:
        """Delete a batch of kept jobs and one of dead jobs, if they are due, and report their number."""
        now = self._monotonic()
        if self._kept_at is None:
            self._kept_at = self._dead_at = self._partitions_at = now + INTERVAL
        try:
            if now >= self._kept_at:
                self._kept_at = now + INTERVAL  # set before the search, which may fail
                await self._forget_kept(now)
            if now >= self._dead_at:
                self._dead_at = now + INTERVAL
                await self._forget_dead(now)
            if now >= self._partitions_at:
                self._partitions_at = now + INTERVAL
                deleted = await self._call(self._database.forget_partitions)
                self._partitions_at = now if deleted else now + DEAD_INTERVAL
            await self._keys.run(now)
            await self._batches.run(now)
        # Another transaction has locked a record, or a new table is not granted to this user yet.
        except (ConflictError, RefusedError) as error:
            events.emit("dispatch.failed", dbid=self._database.dbid, error=str(error))
        if self._kept + self._dead and now >= self._report_at:
            events.emit("jobs.pruned", dbid=self._database.dbid, kept=self._kept, dead=self._dead)
            self._kept = self._dead = 0
            self._report_at = now + INTERVAL

    async def _forget_kept(self, now: float) -> None:
        deleted = await self._call(self._database.forget_finished, KEPT_JOBS)
        self._kept += deleted
        if deleted == KEPT_JOBS:
            self._kept_at = now  # there may be more jobs to delete

    async def _forget_dead(self, now: float) -> None:
        deleted, after = await self._call(self._database.forget_dead, after=self._after, limit=DEAD_JOBS)
        self._dead += deleted
        self._after = after or 0
        self._dead_at = now if after is not None else now + DEAD_INTERVAL
