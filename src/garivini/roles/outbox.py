"""Moves follow-ups from the outboxes to their homes. Each database has a loop for its outbox."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from garivini import events
from garivini.clock import SYSTEM_CLOCK, Clock
from garivini.errors import GariviniError
from garivini.roles.runner import run_passes
from garivini.store.database import Database
from garivini.store.outbox_moves import OutboxMoves

_R = TypeVar("_R")

#: Seconds between two passes. A pass over an empty outbox costs one short statement.
_POLL: Final = 1.0
#: Seconds for which passes leave out a target database after follow-ups could not be moved there.
_AVOID: Final = 30.0
#: Seconds between two deletions of old notes of arrivals, and the maximum notes that one of them deletes.
_FORGET: Final = 600.0
_FORGOTTEN: Final = 1000


class Outbox:
    """A loop of passes over the outbox of one database.

    Args:
        source: the database with the outbox.
        databases: all databases of the queue.
        moved: called with the id of a database after follow-ups have arrived there.
        clock: gives the monotonic time.

    """

    def __init__(
        self,
        source: Database,
        databases: Sequence[Database],
        *,
        moved: Callable[[int], None],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.name: str = f"outbox of database {source.dbid}"
        self._source = source
        self._moves = OutboxMoves(source, {database.dbid: database for database in databases})
        self._moved = moved
        self._monotonic = clock.monotonic
        # A separate thread, so that a target that hangs does not delay claims.
        self._thread = ThreadPoolExecutor(1, f"garivini-outbox-{source.dbid}")
        self._avoid_until: dict[int, float] = {}
        self._forget_at = 0.0

    async def run_pass(self) -> float:
        """Move the follow-ups in the outbox; return the seconds until the next pass.

        Raises:
            GariviniError: the database with the outbox does not answer.

        """
        for target in await self._call(self._source.outbox_targets):
            if self._avoid_until.get(target, 0.0) <= self._monotonic():
                await self._move_all(target)
        now = self._monotonic()
        if now >= self._forget_at:
            forgotten = await self._call(self._source.forget_arrivals, _FORGOTTEN)
            self._forget_at = now + (0.0 if forgotten == _FORGOTTEN else _FORGET)
        return _POLL

    async def _move_all(self, target: int) -> None:
        """Move the follow-ups for one database out of the outbox; report those that cannot be moved."""
        after: str | None = ""
        jobs, errors = 0, []
        while after is not None:
            try:
                moved = await self._call(self._moves.move, target, after)
            except GariviniError as error:
                errors.append(error)
                break
            jobs, after, errors = jobs + moved.jobs, moved.after, errors + moved.errors
        if jobs:
            events.emit("outbox.moved", dbid=self._source.dbid, target=target, jobs=jobs)
            self._moved(target)
        if errors:
            self._avoid_until[target] = self._monotonic() + _AVOID
            events.emit("outbox.failed", dbid=self._source.dbid, target=target, error=str(errors[0]))

    async def _call(self, call: Callable[..., _R], *arguments: Any) -> _R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class Outboxes:
    """The outboxes of all databases. A single database needs no outbox.

    Args:
        databases: all databases of the queue.
        wakes: one event for each database, set after jobs were inserted there.

    """

    def __init__(self, databases: Sequence[Database], wakes: Sequence[asyncio.Event]) -> None:
        by_id = {database.dbid: wake for database, wake in zip(databases, wakes, strict=True)}
        self._outboxes = [
            Outbox(database, databases, moved=lambda target: by_id[target].set())
            for database in (databases if len(databases) > 1 else ())
        ]

    def start(self, stop: asyncio.Event) -> list[asyncio.Task[None]]:
        """Start their passes, which go on until ``stop`` is set."""
        return [
            asyncio.create_task(run_passes(outbox, stop=stop, wake=asyncio.Event()))
            for outbox in self._outboxes
        ]

    def close(self) -> None:
        """End the threads."""
        for outbox in self._outboxes:
            outbox.close()
