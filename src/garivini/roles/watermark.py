"""The watermark: how many more jobs of each function may be submitted, which is called its room."""

import math
from collections.abc import Iterable, Mapping
from typing import Final

from garivini.model.pacing import WATERMARK, room
from garivini.roles.job_servers import JobServers

#: Maximum and minimum seconds between two counts of a function's leased rows.
_LEASED_AGE: Final = 0.25
_LEASED_AGE_MIN: Final = 0.02


class Watermark:
    """Limits how many jobs of each function wait, according to the last counts of the Gearman servers.

    Jobs of flag controller wait in the servers under one name for all functions, and then in a Controller. So
    for functions with such jobs the leased rows are counted as well. The watermark applies per dispatcher:
    another dispatcher may fill the same room between our count and our claim.

    Args:
        job_servers: count the jobs that wait in them.
        limit: maximum jobs of a function that wait; 0: unlimited.

    """

    def __init__(self, job_servers: JobServers, limit: int) -> None:
        self._servers = job_servers
        self.limit: int = limit
        #: The burst of each function that has a rate. No more jobs than this wait, because the waiting jobs
        #: would all start at once when a worker connects.
        self.bursts: Mapping[str, int] = {}
        self._room: dict[str, int | None] = {}
        self._controlled: set[str] = set()
        #: Leased rows by database and function, and the monotonic time of that count.
        self._leased: dict[tuple[int, str], tuple[int, float]] = {}
        # A low watermark is used up sooner, so the counts are refreshed sooner.
        self._leased_age = min(_LEASED_AGE, max(_LEASED_AGE_MIN, limit / WATERMARK * _LEASED_AGE))

    def limit_of(self, funcname: str) -> int:
        """Return the maximum jobs of a function that wait; 0: unlimited."""
        burst = self.bursts.get(funcname)
        return self.limit if burst is None else min(burst, self.limit or burst)

    def room(self, funcname: str) -> int | None:
        """Return the room of a function; None: unlimited."""
        if funcname not in self._room:
            leased = sum(jobs for (_, name), (jobs, _) in self._leased.items() if name == funcname)
            self._room[funcname] = room(
                self.limit_of(funcname), max(self._servers.queued(funcname.encode()), leased)
            )
        return self._room[funcname]

    def use(self, funcname: str, jobs: int) -> None:
        """Subtract a number of jobs from the room of a function."""
        left = self.room(funcname)
        if left is not None:
            self._room[funcname] = max(0, left - jobs)

    def fill(self, funcname: str) -> None:
        """Leave a function no room until the next count, because a job of it could not be sent."""
        self._room[funcname] = 0

    def counts_refreshed(self, now: float) -> None:
        """Use the servers' new counts. If leased rows count too, the room stays until their count is due."""
        for funcname in list(self._room):
            if not self._until_count(funcname, now) > 0:
                del self._room[funcname]

    # ---- leased rows

    @property
    def controlled(self) -> frozenset[str]:
        """Functions that are known to have jobs of flag controller."""
        return frozenset(self._controlled)

    def note_controlled(self, funcname: str) -> None:
        """Record that a function has jobs of flag controller."""
        self._controlled.add(funcname)

    def uncounted(self, dbid: int, funcnames: Iterable[str], now: float) -> list[str]:
        """Return those of the functions whose leased rows are to be counted in a database now.

        The next count is due sooner if the last one found at most half of the limit leased, and now at most
        half of the limit is left as room: such a function is fast. A slow function stays full, and frequent
        counts of its rows would delay other functions.
        """
        found = []
        for funcname in self._controlled.intersection(funcnames):
            limit = self.limit_of(funcname)
            if not limit:
                continue
            jobs, counted = self._leased.get((dbid, funcname), (0, -math.inf))
            left = self._room.get(funcname)
            fast = left is not None and max(left, jobs) <= limit // 2
            if now - counted >= (_LEASED_AGE_MIN if fast else self._leased_age):
                found.append(funcname)
        return found

    def record_leased(self, dbid: int, funcname: str, jobs: int, now: float) -> None:
        """Record a count of a function's leased rows in a database."""
        self._leased[dbid, funcname] = jobs, now
        self._room.pop(funcname, None)

    def _until_count(self, funcname: str, now: float) -> float:
        """Return the seconds until leased rows are to be counted again; 0 if they never were counted."""
        counted = [time for (_, name), (_, time) in self._leased.items() if name == funcname]
        return max(0.0, min(counted, default=-math.inf) + self._leased_age - now)

    def until_room(self, now: float) -> tuple[list[float], bool]:
        """Return when full functions may have room again.

        Returns:
            Seconds until leased rows are counted again, and whether the servers have to be asked sooner.

        """
        full = [funcname for funcname, left in self._room.items() if left == 0]
        waits = [self._until_count(funcname, now) for funcname in full if funcname in self._controlled]
        return waits, len(waits) < len(full)
