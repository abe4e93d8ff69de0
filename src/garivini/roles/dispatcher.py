"""What sends leased jobs of a database to the Gearman servers, and says in SQL what did not arrive."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from garivini import events
from garivini.client import report
from garivini.dispatch import reason_of, submission, unfit
from garivini.gearman.protocol import Created, Refused, Submission, Unknown
from garivini.job import RUN_QUEUED_JOB, Job, unique_of
from garivini.policy import LEASE, NO_POLICY, SUBMIT_WITHIN, FunctionPolicy, room
from garivini.roles.job_servers import JobServers
from garivini.store.database import Database, Setback

_R = TypeVar("_R")

#: Seconds for which what is set for functions need not be read again.
_POLICIES_AGE: Final = 1.0


class Room:
    """How many more jobs of each function may wait in the Gearman servers, by their last counts.

    Another dispatcher may use the same room, as it may between any count and claim: the watermark binds each
    dispatcher by itself.
    """

    def __init__(self, job_servers: JobServers, watermark: int) -> None:
        self._servers = job_servers
        self._watermark = watermark
        self._room: dict[str, int | None] = {}

    def left(self, funcname: str) -> int | None:
        """Return the room of a function; None: any number."""
        if funcname not in self._room:
            self._room[funcname] = room(
                self._watermark,
                # Jobs of flag controller wait under another name, and a lane may hold both kinds.
                max(self._servers.queued(funcname.encode()), self._servers.queued(RUN_QUEUED_JOB.encode())),
            )
        return self._room[funcname]

    def use(self, funcname: str, jobs: int) -> None:
        """Take so many jobs off the room."""
        left = self.left(funcname)
        if left is not None:
            self._room[funcname] = max(0, left - jobs)

    def fill(self, funcname: str) -> None:
        """Leave no room until the next count: a server has said no."""
        self._room[funcname] = 0

    @property
    def full(self) -> bool:
        """Whether a function that was looked at has no room."""
        return 0 in self._room.values()

    def count_anew(self) -> None:
        """Take the servers' new counts."""
        self._room.clear()


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
        self._policies: dict[str, FunctionPolicy] = {}
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
            self._policies = self.database.functions()
            self._policies_read = now

    async def refresh(self) -> None:
        """Read what is set for functions, where that has not been done for a second."""
        if _now() - self._policies_read >= _POLICIES_AGE:
            await self.call(self.read_policies, _now())

    def policy(self, funcname: str) -> FunctionPolicy:
        """Return what is set for a function."""
        return self._policies.get(funcname, NO_POLICY)

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
        good = []
        for job in jobs:
            if (reason := unfit(job, self.policy(job.funcname))) is None:
                good.append(job)
            else:
                await self.park(job, "BadRow", reason)
        if good and _now() - claimed > min(SUBMIT_WITHIN, min(job.lease for job in good) / 3):
            # This process stood still. Somebody may take the attempts for lost by now.
            await self.call(self.database.release, good)
            return
        results = await self._servers.submit([self._submission(job) for job in good])
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
            await self.call(self.database.release, unsent)
        if unknown:
            # The next pass of a QueueRunner asks the server whether it has them.
            events.emit("jobs.unknown", dbid=self.database.dbid, jobs=len(unknown))
            for lease in {job.lease for job in unknown}:
                handles = [job.handle for job in unknown if job.lease == lease]
                await self.call(self.database.end_early, handles, lease=lease)

    async def park(self, job: Job, error: str, reason: str) -> None:
        """Put one job aside with its reason; the others go on."""
        setback = Setback(handle=job.handle, kind="parked", error=error, message=reason)
        (settled,) = await self.call(self.database.settle, [setback])
        report(setback, settled)

    def _submission(self, job: Job) -> Submission:
        return submission(job, self.policy(job.funcname))

    def unique(self, jobid: int, attempt: int) -> bytes:
        """Return Gearman's unique of an attempt at a job of this database."""
        return unique_of(self.database.dbid, jobid, attempt)


def _now() -> float:
    """Return the loop's monotonic time."""
    return asyncio.get_running_loop().time()
