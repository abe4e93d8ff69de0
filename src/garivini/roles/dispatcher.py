"""Submits leased jobs of a database to the Gearman servers, and releases those that cannot be submitted."""

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from types import MappingProxyType
from typing import Final, TypeVar

from garivini import events
from garivini.clock import SYSTEM_CLOCK, Clock
from garivini.errors import ConflictError, UsageError
from garivini.model.job import Handle, Job, unique_of
from garivini.model.lease import LEASE
from garivini.model.outcome import Setback
from garivini.model.policy import POLICIES_AGE, FunctionPolicy, Policies
from garivini.outcome_events import emit_delivery, emit_settled
from garivini.roles.job_servers import JobServers
from garivini.roles.watermark import Watermark
from garivini.store.database import Database
from garivini.store.incarnations import ReplacedError
from garivini.store.original import report_inexact
from garivini.submission import Delivery, all_jobs, is_late, submission, unfit

_R = TypeVar("_R")

#: Seconds after which the settings of functions are read again.
_REFRESH_AGE: Final = 1.0


class Dispatcher:
    """Submits jobs of one database that this process has leased."""

    def __init__(
        self,
        database: Database,
        job_servers: JobServers,
        watermark: Watermark,
        *,
        lease: int = LEASE,
        functions: Mapping[str, FunctionPolicy] = MappingProxyType({}),
        thread: Executor | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Create a dispatcher; this does no I/O.

        Args:
            database: has the jobs.
            job_servers: receive them.
            watermark: the room of each function. After a job could not be sent, its function has no room
                until the next count.
            lease: seconds of a lease, for functions that have none of their own.
            functions: the settings of functions that ``declare`` stores.
            thread: runs the database's calls; by default, a thread that the dispatcher creates.
            clock: gives the time.

        """
        self.database: Database = database
        #: Returns the monotonic time.
        self.monotonic: Callable[[], float] = clock.monotonic
        #: Number of jobs that servers have acknowledged.
        self.sent: int = 0
        self._servers = job_servers
        self._watermark = watermark
        self._lease = lease
        self._declared = functions
        self._policies = Policies()
        self._policies_read = -math.inf
        # One thread per database, so that a database that hangs does not delay the others.
        self._thread = thread or ThreadPoolExecutor(1, f"garivini-database-{database.dbid}")

    async def call(self, call: Callable[..., _R], *arguments: object, **named: object) -> _R:
        """Run a database call in the database's thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(call, *arguments, **named))

    def close(self) -> None:
        """End the database thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    # ---- settings of functions

    def declare(self) -> None:
        """Store the settings that the constructor received, once. For the database's thread."""
        if self._declared:
            self.database.register_functions(self._declared)
            declared, self._declared = self._declared, {}
            report_inexact(self.database, declared)

    def read_policies(self, now: float) -> None:
        """Read the settings of functions, unless they were read less than a second ago.

        For the database's thread. ``now``: the monotonic time.
        """
        if now - self._policies_read >= _REFRESH_AGE:
            self._policies = Policies(self.database.functions())
            self._policies_read = now
            self._watermark.bursts = self._policies.bursts

    def count_leased(self, funcnames: Iterable[str], now: float) -> None:
        """Count the leased rows of functions that have jobs of flag controller, if that is due.

        For the database's thread. ``now``: the monotonic time.
        """
        dbid = self.database.dbid
        for funcname in self._watermark.uncounted(dbid, funcnames, now):
            lease = self.lease(funcname)
            jobs = self.database.leased(funcname, lease=lease, limit=self._watermark.limit_of(funcname))
            self._watermark.record_leased(dbid, funcname, jobs, now)

    async def refresh(self) -> None:
        """Read the settings of functions, unless they were read less than a second ago."""
        if self.monotonic() - self._policies_read >= _REFRESH_AGE:
            await self.call(self.read_policies, self.monotonic())

    def policy(self, funcname: str) -> FunctionPolicy:
        """Return the settings of a function."""
        return self._policies[funcname]

    @property
    def ruled(self) -> frozenset[str]:
        """The functions whose jobs only admission hands out."""
        return self._policies.ruled

    @property
    def paused(self) -> Mapping[str, int]:
        """The unix times until which functions are paused."""
        return self._policies.paused

    def knows_rules(self) -> bool:
        """Return whether the settings are new enough to rely on: functions have no other rules than these."""
        return self.monotonic() - self._policies_read < POLICIES_AGE

    def lease(self, funcname: str) -> int:
        """Return the seconds of a lease of the function's jobs."""
        return self.policy(funcname).lease or self._lease

    def longest_lease(self) -> int:
        """Return the seconds of the longest lease of any function."""
        return max([self._lease, *(policy.lease or 0 for policy in self._policies.values())])

    # ---- submitting

    async def send(self, jobs: Sequence[Job], claimed: float) -> None:
        """Submit claimed jobs, each attempt once, and handle those that are not delivered.

        ``claimed``: the monotonic time just before the claim.
        """
        good, submissions, bad = [], [], []
        funcname, policy = "", self.policy("")
        for job in jobs:
            if job.funcname != funcname:  # usually all jobs are of one function
                funcname = job.funcname
                policy = self.policy(funcname)
            if (reason := unfit(job, policy)) is None:
                good.append(job)
                submissions.append(submission(job, policy))
            else:
                bad.append((job, reason))
        if is_late(good, self.monotonic() - claimed):
            delivery = Delivery.too_late(good)
        else:
            delivery = Delivery.of(good, await self._servers.submit(submissions))
            for name in {job.funcname for job in delivery.unsent}:
                self._watermark.fill(name)
        self.sent += delivery.delivered
        emit_delivery(self.database.dbid, delivery)
        if delivery.delivered < len(jobs):
            await self._give_up(jobs[0].incarnation, delivery, bad)

    async def _give_up(
        self, incarnation: int | None, delivery: Delivery, bad: Sequence[tuple[Job, str]]
    ) -> None:
        """Release unsent jobs, end the leases of those that a server may have, and park those that are unfit.

        If the database has been replaced since the claim, the rows are not changed. The jobs are submitted
        again when their leases expire.
        """
        database = self.database.expecting(incarnation)
        try:
            if delivery.unsent:
                await self.call(database.release, all_jobs(delivery.unsent), locked=set())
            for lease, handles in delivery.unknown_by_lease().items():
                await self.call(database.end_early, handles, lease=lease, locked=set())
        except ReplacedError as error:
            events.emit("dispatch.failed", dbid=database.dbid, error=str(error))
        for first, reason in [*delivery.unfit, *bad]:  # parked last, so that the other jobs need not wait
            for job in first.bundle:
                await self.park(job, "BadRow", reason)

    async def park(self, job: Job, error: str, reason: str) -> None:
        """Park one job, with the reason.

        If its row is locked, nothing is done. When its lease ends, the job is submitted again, or its parking
        is tried again.
        """
        setback = Setback(handle=job.handle, kind="parked", error=error, message=reason)
        try:
            database = self.database.expecting(job.incarnation)
            (settled,) = await self.call(database.settle, [setback], locked=set())
        except (ConflictError, ReplacedError) as failed:
            events.emit("dispatch.failed", dbid=self.database.dbid, error=str(failed))
        else:
            if settled.result != "locked":
                emit_settled(setback, settled)

    def park_row(self, jobid: int, error: UsageError) -> None:
        """Park a row that cannot be claimed, for example because its column ``attempt`` cannot be raised.

        For the database's thread.
        """
        handle = Handle(jobid, self.database.dbid)
        setback = Setback(handle=handle, kind="parked", error="BadRow", message=str(error))
        # The row was read in the incarnation that was reached last, and may be parked only there.
        database = self.database.expecting(self.database.incarnation)
        (settled,) = database.settle([setback], locked=set())
        emit_settled(setback, settled)

    def unique(self, jobid: int, attempt: int) -> bytes:
        """Return Gearman's unique of an attempt at a job of this database."""
        return unique_of(self.database.dbid, jobid, attempt)
