"""What sends leased jobs of a database to the Gearman servers, and says in SQL what did not arrive."""

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from garivini import events
from garivini.errors import ConflictError
from garivini.gearman.protocol import Created, Refused, Submission, Unknown
from garivini.model.job import Job, unique_of
from garivini.model.lease import LEASE, SUBMIT_WITHIN
from garivini.model.outcome import Setback
from garivini.model.pacing import WATERMARK, room
from garivini.model.policy import FunctionPolicy, Policies
from garivini.outcome_events import emit_settled
from garivini.roles.job_servers import JobServers
from garivini.store.database import Database
from garivini.submission import reason_of, submission, unfit

_R = TypeVar("_R")

#: Seconds between two counts of a function's leased rows, at most and at least.
_LEASED_AGE: Final = 0.25
_LEAST_AGE: Final = 0.02
#: Seconds for which what is set for functions need not be read again.
_POLICIES_AGE: Final = 1.0


class Room:
    """How many more jobs of each function may wait in the Gearman servers, by their last counts.

    Jobs of flag controller wait under one name with those of all functions, and then in a Controller. So of
    functions that have such jobs the leased rows are counted as well. Another dispatcher may use the same
    room, as it may between any count and claim: the watermark binds each dispatcher by itself.
    """

    def __init__(self, job_servers: JobServers, watermark: int) -> None:
        self._servers = job_servers
        self.watermark = watermark
        self._room: dict[str, int | None] = {}
        self._controlled: set[str] = set()
        #: By database and function: leased rows, and the loop's time of that count.
        self._leased: dict[tuple[int, str], tuple[int, float]] = {}
        # Where few may wait they are soon gone.
        self._leased_age = min(_LEASED_AGE, max(_LEAST_AGE, watermark / WATERMARK * _LEASED_AGE))

    def left(self, funcname: str) -> int | None:
        """Return the room of a function; None: any number."""
        if funcname not in self._room:
            leased = sum(jobs for (_, name), (jobs, _) in self._leased.items() if name == funcname)
            self._room[funcname] = room(self.watermark, max(self._servers.queued(funcname.encode()), leased))
        return self._room[funcname]

    def use(self, funcname: str, jobs: int) -> None:
        """Take so many jobs off the room."""
        left = self.left(funcname)
        if left is not None:
            self._room[funcname] = max(0, left - jobs)

    def fill(self, funcname: str) -> None:
        """Leave no room until the next count: a server has said no."""
        self._room[funcname] = 0

    def count_anew(self, now: float) -> None:
        """Take the servers' new counts; where leased rows count too the room holds until their count."""
        for funcname in list(self._room):
            if not self._until_count(funcname, now) > 0:
                del self._room[funcname]

    # ---- leased rows

    @property
    def controlled(self) -> frozenset[str]:
        """Functions that are known to have jobs of flag controller."""
        return frozenset(self._controlled)

    def note_controlled(self, funcname: str) -> None:
        """Note that a function has jobs of flag controller."""
        self._controlled.add(funcname)

    def uncounted(self, dbid: int, funcnames: Iterable[str], now: float) -> list[str]:
        """Return those of the functions whose leased rows are to be counted in a database.

        Sooner where half of the room has been used since a count that left more than half: such a function
        is quick. One that is slow stays full, and its counts would hold up the others.
        """
        if not self.watermark:
            return []
        found = []
        for funcname in self._controlled.intersection(funcnames):
            jobs, counted = self._leased.get((dbid, funcname), (0, -math.inf))
            left = self._room.get(funcname)
            quick = left is not None and max(left, jobs) <= self.watermark // 2
            if now - counted >= (_LEAST_AGE if quick else self._leased_age):
                found.append(funcname)
        return found

    def count_leased(self, dbid: int, funcname: str, jobs: int, now: float) -> None:
        """Take a count of a function's leased rows in a database."""
        self._leased[dbid, funcname] = jobs, now
        self._room.pop(funcname, None)

    def _until_count(self, funcname: str, now: float) -> float:
        """Return the seconds for which the count of leased rows holds; none where there is no such count."""
        counted = [time for (_, name), (_, time) in self._leased.items() if name == funcname]
        return max(0.0, min(counted, default=-math.inf) + self._leased_age - now)

    def until_room(self, now: float) -> tuple[list[float], bool]:
        """Say when to look again where a function is full.

        Returns seconds until leased rows are counted again, and whether servers have to be asked sooner.
        """
        full = [funcname for funcname, left in self._room.items() if left == 0]
        waits = [self._until_count(funcname, now) for funcname in full if funcname in self._controlled]
        return waits, len(waits) < len(full)


class Dispatcher:
    """Sends jobs of one database that this process has leased."""

    def __init__(
        self,
        database: Database,
        job_servers: JobServers,
        room: Room,
        *,
        lease: int = LEASE,
        thread: Executor | None = None,
    ) -> None:
        """Do no I/O.

        Args:
            database: whose jobs it sends.
            job_servers: where to.
            room: filled where a server refuses.
            lease: seconds, where a function has none of its own.
            thread: where the database's calls run, by default a thread of its own.

        """
        self.database = database
        #: Jobs that servers have taken so far.
        self.sent = 0
        self._servers = job_servers
        self._room = room
        self._lease = lease
        self._policies = Policies()
        self._policies_read = -_POLICIES_AGE
        # One thread a database: one that hangs stalls nobody else.
        self._thread = thread or ThreadPoolExecutor(1, f"garivini-database-{database.dbid}")

    async def call(self, call: Callable[..., _R], *arguments: object, **named: object) -> _R:
        """Run a database call in the database's thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(call, *arguments, **named))

    def close(self) -> None:
        """End the database thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    # ---- what is set

    def read_policies(self, now: float) -> None:
        """Read what is set for functions, where that has not been done for a second of ``now``'s clock.

        In the database's thread.
        """
        if abs(now - self._policies_read) >= _POLICIES_AGE:
            self._policies = Policies(self.database.functions())
            self._policies_read = now

    def count_leased(self, funcnames: Iterable[str], now: float) -> None:
        """Count the leased rows of those functions that have jobs of flag controller, where that is due.

        In the database's thread; ``now`` is the loop's time.
        """
        dbid = self.database.dbid
        for funcname in self._room.uncounted(dbid, funcnames, now):
            lease = self.lease(funcname)
            jobs = self.database.leased(funcname, lease=lease, limit=self._room.watermark)
            self._room.count_leased(dbid, funcname, jobs, now)

    async def refresh(self) -> None:
        """Read what is set for functions, where that has not been done for a second."""
        if _now() - self._policies_read >= _POLICIES_AGE:
            await self.call(self.read_policies, _now())

    def policy(self, funcname: str) -> FunctionPolicy:
        """Return what is set for a function."""
        return self._policies[funcname]

    def lease(self, funcname: str) -> int:
        """Return the seconds of a lease of the function's jobs."""
        return self.policy(funcname).lease or self._lease

    def longest_lease(self) -> int:
        """Return the seconds of the longest lease of any function."""
        return max([self._lease, *(policy.lease or 0 for policy in self._policies.values())])

    # ---- sending

    async def send(self, jobs: Sequence[Job], claimed: float) -> None:
        """Submit claimed jobs, each attempt once, and give back at once what did not arrive.

        ``claimed``: the loop's time just before the claim.
        """
        good, submissions, bad = [], [], []
        for job in jobs:
            policy = self.policy(job.funcname)
            if (reason := unfit(job, policy)) is None:
                good.append(job)
                submissions.append(submission(job, policy))
            else:
                bad.append((job, reason))
        await self._send_good(good, submissions, claimed)
        for job, reason in bad:  # after the others, which must not wait for them
            await self.park(job, "BadRow", reason)

    async def _send_good(
        self, good: Sequence[Job], submissions: Sequence[Submission], claimed: float
    ) -> None:
        if good and _now() - claimed > min(SUBMIT_WITHIN, min(job.lease for job in good) / 3):
            # This process stood still. Somebody may take the attempts for lost by now.
            await self.call(self.database.release, good, left=set())
            return
        results = await self._servers.submit(submissions)
        unsent, unknown = [], []
        for job, result in zip(good, results, strict=True):
            match result:
                case Created():
                    pass
                case Refused(b"USAGE", text):
                    await self.park(job, "BadRow", text.decode())
                case Unknown():
                    unknown.append(job)
                case _:
                    unsent.append(job)
        created = len(good) - len(unsent) - len(unknown)
        self.sent += created
        events.emit("jobs.dispatched", dbid=self.database.dbid, jobs=created)
        if unsent:
            for funcname in {job.funcname for job in unsent}:
                self._room.fill(funcname)
            events.emit("jobs.released", dbid=self.database.dbid, jobs=len(unsent), reason=reason_of(results))
            await self.call(self.database.release, unsent, left=set())
        if unknown:
            # The next pass of a QueueRunner asks the server whether it has them.
            events.emit("jobs.unknown", dbid=self.database.dbid, jobs=len(unknown))
            for lease in {job.lease for job in unknown}:
                handles = [job.handle for job in unknown if job.lease == lease]
                await self.call(self.database.end_early, handles, lease=lease, left=set())

    async def park(self, job: Job, error: str, reason: str) -> None:
        """Park one job with its reason; the others continue.

        If its row is locked, nothing is done: when its lease ends, it comes here again.
        """
        setback = Setback(handle=job.handle, kind="parked", error=error, message=reason)
        try:
            (settled,) = await self.call(self.database.settle, [setback], left=set())
        except ConflictError as conflict:
            events.emit("dispatch.failed", dbid=self.database.dbid, error=str(conflict))
        else:
            if settled.result != "locked":
                emit_settled(setback, settled)

    def unique(self, jobid: int, attempt: int) -> bytes:
        """Return Gearman's unique of an attempt at a job of this database."""
        return unique_of(self.database.dbid, jobid, attempt)


def _now() -> float:
    """Return the loop's monotonic time."""
    return asyncio.get_running_loop().time()
