"""Upkeep of unique keys and of jobs that expire: the work that no insert, claim or end of a job does.

Successors of jobs that another program has deleted become jobs. Keys whose window has ended are forgotten.
Jobs that have expired, and that nobody claims because their function is full or paused, are discarded.
"""

import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

from garivini.outcome_events import emit_settled
from garivini.store.database import Database

#: Seconds between two searches if there is nothing to do.
INTERVAL: Final = 60.0
#: Seconds between two searches for successors, while there are some or a function has a rule that makes them.
SUCCESSOR_INTERVAL: Final = 1.0
#: Maximum successors of a batch, keys of a batch, and expired jobs of a batch per lane.
SUCCESSORS: Final = 100
KEYS: Final = 500
LATE_JOBS: Final = 100


class KeyUpkeep:
    """Does this work for one database, in small batches.

    Args:
        database: has the jobs.
        call: runs a call of the database in its thread.

    """

    def __init__(self, database: Database, call: Callable[..., Awaitable[Any]]) -> None:
        self._database = database
        self._call = call
        #: The monotonic times of the next searches; None: before the first call.
        self._successors_at = 0.0
        self._minute_at: float | None = None
        #: The monotonic time of the last search for successors.
        self._searched_at = -math.inf

    async def run(self, now: float) -> None:
        """Do what is due. ``now``: the monotonic time."""
        if self._minute_at is None:
            self._minute_at = self._successors_at = now + INTERVAL
        if self._database.queues_keys:  # such a rule may be newer than the last search
            self._successors_at = min(self._successors_at, self._searched_at + SUCCESSOR_INTERVAL)
        if now >= self._successors_at:
            self._searched_at, self._successors_at = now, now + INTERVAL  # even if it fails
            if await self._call(self._database.promote_successors, SUCCESSORS):
                self._successors_at = now + SUCCESSOR_INTERVAL
        if now >= self._minute_at:
            self._minute_at = now + INTERVAL
            forgotten = await self._call(self._database.forget_keys, KEYS)
            settled = await self._call(self._database.discard_late, LATE_JOBS)
            for setback, end in settled:
                emit_settled(setback, end)
            if forgotten == KEYS or len(settled) >= LATE_JOBS:
                self._minute_at = now  # there may be more
