"""Upkeep of batches: members that another program has ended, and batches that ended long ago."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from garivini.store.database import Database

#: Seconds between two searches for open batches if there is none, and while there are some.
IDLE_INTERVAL: Final = 10.0
INTERVAL: Final = 1.0
#: Seconds between two deletions of old batches, and the maximum that one deletes.
FORGET_INTERVAL: Final = 3600.0
FORGOTTEN: Final = 500
#: Maximum pages of 1,000 members that one pass examines.
PAGES: Final = 20


class BatchUpkeep:
    """Does this work for one database, in small batches.

    A pass examines the members of open batches page by page, and the next pass continues after the last page.

    Args:
        database: has the batches.
        call: runs a call of the database in its thread.

    """

    def __init__(self, database: Database, call: Callable[..., Awaitable[Any]]) -> None:
        self._database = database
        self._call = call
        #: The monotonic times of the next search and of the next deletion; None: before the first call.
        self._search_at: float | None = None
        self._forget_at = 0.0
        #: The open batches that this round has still to examine, and the place in the first of them.
        self._left: list[str] = []
        self._after = 0
        self._round_of = ""

    async def run(self, now: float) -> None:
        """Do what is due. ``now``: the monotonic time."""
        if self._search_at is None:
            self._search_at, self._forget_at = now + IDLE_INTERVAL, now + FORGET_INTERVAL
        if now >= self._forget_at:
            self._forget_at = now + FORGET_INTERVAL
            if await self._call(self._database.forget_batches, FORGOTTEN) == FORGOTTEN:
                self._forget_at = now  # there may be more
        if now < self._search_at:
            return
        self._search_at = now + INTERVAL  # even if it fails
        if not self._left:
            self._left = await self._call(self._database.open_batches, self._round_of)
            self._round_of = self._left[-1] if len(self._left) == 100 else ""
        if not self._left:
            self._search_at = now + IDLE_INTERVAL
        for _ in range(PAGES):
            if not self._left:
                break
            following = await self._call(self._database.count_ended_members, self._left[0], self._after)
            self._after = following or 0
            if following is None:
                del self._left[0]
