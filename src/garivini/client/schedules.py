"""The schedules of a client's databases, for ``Client`` and ``AsyncClient``."""

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from garivini.model.inserted import Inserted
from garivini.model.limits import Flag, Priority
from garivini.model.schedule import Missed, Overlap, StoredSchedule, whole_seconds
from garivini.store.database import Database
from garivini.store.schedule_homes import find_schedule, place_schedule
from garivini.store.shards import Shards

_R = TypeVar("_R")


class Schedules:
    """The schedules of a client's databases.

    Each call is one transaction. It raises the errors of the client's calls, and ``UsageError`` if there is
    no schedule of the name.
    """

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    def all(self) -> list[StoredSchedule]:
        """Return all schedules, in the order of their databases and names."""
        return [entry for database in self._shards for entry in database.schedules()]

    def get(self, name: str) -> StoredSchedule | None:
        """Return a schedule, or None if it does not exist."""
        return next((entry for entry in self.all() if entry.name == name), None)

    def set(
        self,
        name: str,
        funcname: str | None = None,
        *,
        cron: str | None = None,
        every: int | timedelta | None = None,
        zone: str | None = None,
        arg: bytes | str | None = None,
        priority: Priority | None = None,
        flag: Flag | None = None,
        missed: Missed | None = None,
        missed_window: int | None = None,
        overlap: Overlap | None = None,
    ) -> None:
        """Create a schedule, or change those of its values that are given.

        These values have precedence over the values that code declares. The arguments are those of
        ``Worker.schedule``.

        Raises:
            UsageError: a value is wrong, or the function of a new schedule is missing.

        """
        values = {
            "funcname": funcname,
            "cron": cron,
            "every": whole_seconds(every),
            "zone": zone,
            "arg": arg.encode() if isinstance(arg, str) else arg,
            "priority": priority,
            "flag": flag,
            "missed": missed,
            "missed_window": missed_window,
            "overlap": overlap,
        }
        given = {key: value for key, value in values.items() if value is not None}
        place_schedule(self._shards, name).set_schedule(name, given)

    def reset(self, name: str) -> None:
        """Remove the values that ``set`` has stored, so that the values that code declares apply.

        Raises:
            UsageError: no code has declared the schedule.

        """
        self._find(name).reset_schedule(name)

    def pause(self, name: str) -> None:
        """Let a schedule insert no jobs until it is resumed."""
        self._find(name).pause_schedule(name)

    def resume(self, name: str) -> None:
        """Undo a pause. The next tick is the first one after now."""
        self._find(name).resume_schedule(name)

    def run(self, name: str) -> Inserted:
        """Insert a job of a schedule now, even if the schedule is paused. Its ticks do not change.

        Raises:
            ConflictError: the previous job of the schedule has not ended, and the schedule allows no overlap.

        """
        database = self._find(name)
        return Inserted(database.run_schedule(name), database.dbid)

    def remove(self, name: str) -> None:
        """Delete a schedule. Its jobs stay."""
        self._find(name).remove_schedule(name)

    def _find(self, name: str) -> Database:
        return find_schedule(self._shards, name)


class AsyncSchedules:
    """The calls of ``Schedules``, to be awaited.

    Args:
        schedules: has the calls, which block.
        in_thread: runs a call in a thread.

    """

    def __init__(self, schedules: Schedules, in_thread: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        self._schedules = schedules
        self._in_thread = in_thread

    async def all(self) -> list[StoredSchedule]:
        """Return all schedules, in the order of their databases and names."""
        found: list[StoredSchedule] = await self._in_thread(self._schedules.all)
        return found

    async def get(self, name: str) -> StoredSchedule | None:
        """Return a schedule, or None if it does not exist."""
        found: StoredSchedule | None = await self._in_thread(self._schedules.get, name)
        return found

    async def set(
        self,
        name: str,
        funcname: str | None = None,
        *,
        cron: str | None = None,
        every: int | timedelta | None = None,
        zone: str | None = None,
        arg: bytes | str | None = None,
        priority: Priority | None = None,
        flag: Flag | None = None,
        missed: Missed | None = None,
        missed_window: int | None = None,
        overlap: Overlap | None = None,
    ) -> None:
        """Create a schedule, or change those of its values that are given."""
        await self._in_thread(
            self._schedules.set,
            name,
            funcname,
            cron=cron,
            every=every,
            zone=zone,
            arg=arg,
            priority=priority,
            flag=flag,
            missed=missed,
            missed_window=missed_window,
            overlap=overlap,
        )

    async def reset(self, name: str) -> None:
        """Remove the values that ``set`` has stored, so that the values that code declares apply."""
        await self._in_thread(self._schedules.reset, name)

    async def pause(self, name: str) -> None:
        """Let a schedule insert no jobs until it is resumed."""
        await self._in_thread(self._schedules.pause, name)

    async def resume(self, name: str) -> None:
        """Undo a pause. The next tick is the first one after now."""
        await self._in_thread(self._schedules.resume, name)

    async def run(self, name: str) -> Inserted:
        """Insert a job of a schedule now, even if the schedule is paused."""
        inserted: Inserted = await self._in_thread(self._schedules.run, name)
        return inserted

    async def remove(self, name: str) -> None:
        """Delete a schedule. Its jobs stay."""
        await self._in_thread(self._schedules.remove, name)
