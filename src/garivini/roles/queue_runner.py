"""The QueueRunner: dispatches the due jobs of a database, and handles expired leases and orphans.

The cost of a pass does not depend on the backlog: it reads the first row of each lane and the counts of the
Gearman servers, and claims no more jobs than have room. The servers hold a bounded number of jobs; all others
wait in the database.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any, Final, NamedTuple

from garivini.clock import SYSTEM_CLOCK, Clock
from garivini.errors import GariviniError, RefusedError, UsageError
from garivini.model.job import Job
from garivini.model.lease import LEASE, check_lease
from garivini.model.outcome import Setback, Settled
from garivini.model.pacing import BATCH_MAX, BATCH_START, POLL, WATERMARK, next_batch
from garivini.model.policy import FunctionPolicy
from garivini.model.state import State
from garivini.model.turns import Place
from garivini.outcome_events import emit_settled
from garivini.roles.dispatcher import Dispatcher
from garivini.roles.expired_leases import ExpiredLeases
from garivini.roles.held_back import HeldBack
from garivini.roles.id_watch import IdWatch
from garivini.roles.janitor import Janitor
from garivini.roles.job_servers import JobServers
from garivini.roles.node_watch import NodeWatch
from garivini.roles.orphans import Orphans
from garivini.roles.watermark import Watermark
from garivini.store.database import Database, Lane, Lanes

_FUNCNAME_OF: Final = attrgetter("funcname")
#: Maximum batches of each lane in a pass. Then all lanes are read again.
_ROUNDS: Final = 4
#: Seconds until the next pass if a function is full and jobs of it were just submitted.
_FULL_POLL: Final = 0.02
#: Counts of the servers that are older than these seconds are refreshed by every pass.
_COUNTS_AGE: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRunnerSettings:
    """Settings of a QueueRunner.

    Raises:
        UsageError: one is out of range.

    """

    #: Seconds of a lease, for functions without a lease of their own.
    lease: int = LEASE
    #: Maximum jobs of a function that wait in gearmand; 0: unlimited.
    watermark: int = WATERMARK
    #: Maximum rows of a claim.
    batch_max: int = BATCH_MAX
    #: Seconds between two passes if nothing is due and nothing wakes the QueueRunner.
    poll: float = POLL
    #: Settings of functions to declare at the start.
    functions: Mapping[str, FunctionPolicy] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_lease(self.lease)
        if self.watermark < 0:
            raise UsageError(f"a watermark is 0 (none) or more, not {self.watermark}")
        if not 1 <= self.batch_max <= BATCH_MAX:
            raise UsageError(f"batch_max is 1 to {BATCH_MAX}, not {self.batch_max}")
        if not 0 < self.poll <= 60:
            raise UsageError(f"poll is above 0 and at most 60 s, not {self.poll}")


class _Claim(NamedTuple):
    """The result of a claim."""

    lane: Lane
    jobs: list[Job]
    #: Whether the lane may hold more due jobs.
    full: bool
    #: The monotonic time just before the claim.
    began: float


class QueueRunner:
    """A loop of passes over one database."""

    def __init__(
        self,
        database: Database,
        job_servers: JobServers,
        settings: QueueRunnerSettings = QueueRunnerSettings(),  # frozen
        *,
        thread: Executor | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Create a QueueRunner; this does no I/O.

        Args:
            database: has the jobs.
            job_servers: receive them.
            settings: the settings of the QueueRunner.
            thread: runs the database's calls; by default, a thread that the QueueRunner creates.
            clock: gives the time.

        """
        self.name: str = f"queue-runner of database {database.dbid}"
        self._database = database
        self._servers = job_servers
        self._settings = settings
        self._batch = min(BATCH_START, settings.batch_max)
        self._watermark = Watermark(job_servers, settings.watermark)
        self._monotonic = clock.monotonic
        self._dispatcher = Dispatcher(
            database,
            job_servers,
            self._watermark,
            lease=settings.lease,
            functions=settings.functions,
            thread=thread,
            clock=clock,
        )
        self._call = self._dispatcher.call
        self._orphans = Orphans(self._dispatcher, job_servers, watch=True)
        self._janitor = Janitor(database, self._call, self._monotonic)
        self._nodes = NodeWatch(database, self._call, self._monotonic)
        self._ids = IdWatch(database.dbid)
        #: Jobs submitted before this pass, and passes since the last submit in which a function was full.
        self._sent = 0
        self._full_for = 0
        self._held_back = HeldBack()
        #: By function and priority, the place from which the next admission goes on.
        self._places: dict[tuple[str, str], Place] = defaultdict(Place)
        #: Seconds until the end of each pause, for functions that a pass leaves out.
        self._paused: dict[str, float] = {}
        #: Errors by which the database has refused claims in this pass.
        self._refused: list[GariviniError] = []
        self._expired = ExpiredLeases(self._dispatcher, job_servers, settings.batch_max, self._refused)

    async def run_pass(self) -> float:
        """Dispatch due jobs, handle expired leases and orphans; return the seconds until the next pass.

        Raises:
            GariviniError: a server or the database does not answer, or the database has refused some claims.

        """
        self._sent = self._dispatcher.sent
        self._refused.clear()
        self._held_back.begin(self._monotonic())
        (now, lanes, broken), first = await self._call(self._read, self._monotonic())
        due = [lane for lane in lanes if lane.due <= now and not self._is_held_back(lane)]
        if first is not None:
            self._use_room(first.jobs)
            await self._dispatcher.send(first.jobs, first.began)
            if not first.full and first.lane in due:
                due.remove(first.lane)
        idle = first is None and not self._held_back.until_claim(0.0)
        if due or idle or self._servers.age > _COUNTS_AGE:
            # This raises if no server answers, so the pass claims nothing more.
            await self._servers.refresh_counts()
            self._watermark.counts_refreshed(self._monotonic())
        more = await self._orphans.find([lane for lane in lanes if lane.state is State.LEASED], now)
        if due:
            funcnames = [lane.funcname for lane in due]
            await self._call(self._dispatcher.count_leased, funcnames, self._monotonic())
            more |= await self._expired.handle([lane for lane in due if lane.state is not State.WAITING])
            more |= await self._dispatch([lane for lane in due if lane.state is State.WAITING])
        if broken:
            for setback, settled in await self._call(self._database.park_broken, broken):
                emit_settled(setback, settled)
        await self._janitor.run()
        await self._nodes.run()
        if self._refused:
            raise self._refused[0]  # after everything else is done
        if more:
            return 0.0
        later = [lane.due - now for lane in lanes if lane.due > now]
        waits = [*later, *self._paused.values(), *self._orphans.until_sweep(), *self._until_room()]
        return min([self._settings.poll, *waits, *self._held_back.until_claim(self._monotonic())])

    def _read(self, now: float) -> tuple[Lanes, _Claim | None]:
        """Read the lanes and, if that is due, the settings of functions; then make the first claim.

        The claim is from the most urgent lane that is not full. It uses the room that is left from earlier
        counts, so that a job that has just been inserted need not wait for new counts.

        For the database's thread. ``now``: the monotonic time.
        """
        self._dispatcher.declare()
        found = self._database.lanes()
        if found.lanes:
            self._dispatcher.read_policies(now)
        ends = self._dispatcher.paused.items()
        self._paused = {funcname: end - found.now for funcname, end in ends if end > found.now}
        ruled = self._dispatcher.ruled
        # Functions with rules come last, because a rule may allow no job of them.
        lanes = sorted(found.lanes, key=lambda lane: lane.funcname in ruled) if ruled else found.lanes
        for lane in lanes:
            due = lane.state is State.WAITING and lane.due <= found.now
            # The room of a function with a rate is small, so its claim needs new counts.
            due = due and lane.funcname not in self._watermark.bursts
            # Full lanes are skipped, so that a backlog of one function does not delay the others.
            if due and self._servers.answered and self._limit(lane.funcname) > 0:
                refused = len(self._refused)
                claim = self._claim(lane, now)
                if len(self._refused) == refused:
                    return found, claim
        return found, None

    def _until_room(self) -> list[float]:
        """Return the seconds until full functions may have room again: less while their jobs are starting."""
        waits, ask = self._watermark.until_room(self._monotonic())
        if not ask:
            self._full_for = 0
            return waits
        self._full_for = 0 if self._dispatcher.sent > self._sent else self._full_for + 1
        return [*waits, _FULL_POLL * 2.0 ** min(self._full_for, 10)]

    def close(self) -> None:
        """End the database thread."""
        self._dispatcher.close()

    # ---- due jobs

    async def _dispatch(self, lanes: Sequence[Lane]) -> bool:
        """Claim and submit some batches of each lane in turn; return whether more can be claimed immediately.

        While one batch is being submitted, the next is being claimed.
        """
        sending: asyncio.Task[None] | None = None
        try:
            for _ in range(_ROUNDS):
                unfinished = []
                for lane in lanes:
                    if self._limit(lane.funcname) == 0:
                        continue
                    claim = await self._call(self._claim, lane, self._monotonic())
                    self._use_room(claim.jobs)
                    if sending is not None:
                        await sending
                    sending = asyncio.create_task(self._dispatcher.send(claim.jobs, claim.began))
                    if claim.full:
                        unfinished.append(lane)
                lanes = unfinished
                if not lanes:
                    break
        finally:
            if sending is not None:
                await sending
        return any(self._limit(lane.funcname) for lane in lanes)

    def _claim(self, lane: Lane, now: float) -> _Claim:
        """Claim as many jobs of a lane as have room. For the database's thread. ``now``: monotonic."""
        self._dispatcher.read_policies(now)
        limit = self._limit(lane.funcname)
        ruled = lane.funcname in self._dispatcher.ruled
        discarded: list[tuple[Setback, Settled]] = []
        claim = partial(
            self._admit if ruled else partial(self._database.claim, lease=self._dispatcher.lease),
            expires=self._dispatcher.policy(lane.funcname).expires,
            discarded=discarded,
        )
        try:
            jobs = claim(lane, limit=limit)
        except (UsageError, RefusedError) as error:
            jobs, full = self._claim_split(claim, lane, limit, error)
        else:
            full = len(jobs) + len(discarded) >= limit
            if not ruled:  # the size of a claim under a rule does not predict the next one
                self._batch = next_batch(self._batch, full=full, maximum=self._settings.batch_max)
        for setback, settled in discarded:
            emit_settled(setback, settled)
        for funcname in {job.funcname for job in jobs if job.flag == "controller"}:
            self._watermark.note_controlled(funcname)
        if jobs:  # the last job is usually the newest
            self._ids.note(jobs[-1].jobid, jobs[-1].created)
        return _Claim(lane, jobs, full, now)

    def _admit(self, lane: Lane, *, limit: int, **options: Any) -> list[Job]:
        """Claim jobs of a function with rules. For the database's thread."""
        key, lease = (lane.funcname, lane.priority), self._dispatcher.lease
        admitted = self._database.admit(lane, limit=limit, lease=lease, place=self._places[key], **options)
        jobs, held_back, self._places[key] = admitted
        self._held_back.claimed(lane.funcname, jobs=len(jobs), held_back=held_back, now=self._monotonic())
        return jobs

    def _claim_split(
        self, claim: Callable[..., list[Job]], lane: Lane, limit: int, error: GariviniError
    ) -> tuple[list[Job], bool]:
        """Claim the rows before one that cannot be claimed. If it is the first row and invalid, park it.

        For the database's thread. Returns the jobs, and whether the lane may hold more.
        """
        while limit > 1:
            limit //= 2
            try:
                return claim(lane, limit=limit), True
            except (UsageError, RefusedError) as smaller:
                error = smaller
        jobid = self._database.head(lane, self._places[lane.funcname, lane.priority])
        if isinstance(error, UsageError) and jobid is not None:
            self._dispatcher.park_row(jobid, error)
            return [], True
        self._refused.append(error)
        return [], False

    def _use_room(self, jobs: Sequence[Job]) -> None:
        for funcname, count in Counter(map(_FUNCNAME_OF, jobs)).items():
            self._watermark.use(funcname, count)

    def _is_held_back(self, lane: Lane) -> bool:
        return lane.state is State.WAITING and self._leaves_out(lane.funcname)

    def _leaves_out(self, funcname: str) -> bool:
        return funcname in self._held_back or funcname in self._paused

    def _limit(self, funcname: str) -> int:
        if self._leaves_out(funcname):
            return 0
        left = self._watermark.room(funcname)
        return self._batch if left is None else min(self._batch, left)
