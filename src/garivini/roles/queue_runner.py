"""The QueueRunner: carries due jobs from a database to gearmand, and settles leases that ran out.

A pass costs the same whatever the backlog: it reads the heads of the lanes, asks gearmand how much room
each function has, and claims no more than that. gearmand holds a bounded number of jobs; the rest waits in
SQL. Nothing is claimed that cannot be sent.
"""

import asyncio
import ssl
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

from garivini import events
from garivini.errors import ConflictError, GariviniError, RefusedError, UsageError
from garivini.gearman.aio import Client, Held, Worker
from garivini.model.job import Handle, Job
from garivini.model.lease import DEADLINE, LEASE, Reclaim, check_lease, decide
from garivini.model.outcome import Setback
from garivini.model.pacing import BATCH_MAX, BATCH_START, POLL, WATERMARK, next_batch
from garivini.model.policy import MAX_CRASHES
from garivini.model.state import State
from garivini.outcome_events import emit_settled
from garivini.roles.dispatcher import Dispatcher
from garivini.roles.job_servers import JobServers
from garivini.roles.orphans import Orphans
from garivini.roles.room import Room
from garivini.roles.runner import run_passes, run_role
from garivini.store.database import Database, Lane, Lanes, Lapsed
from garivini.submission import WAKE, function_of

#: Batches of each lane in a pass, at most: then all lanes are looked at anew.
_ROUNDS: Final = 4
#: Seconds until the next look at a function that was full.
_FULL_POLL: Final = 0.02
#: Seconds from which on the servers' counts are too old for a pass that finds little to do.
_COUNTS_AGE: Final = 1.0
#: Seconds between two looks for finished jobs that are kept no more, and how many are deleted at once.
_TIDY: Final = 60.0
_TIDY_JOBS: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRunnerSettings:
    """How a QueueRunner works."""

    #: Seconds.
    lease: int = LEASE
    #: Jobs of a function that may wait in gearmand; 0: any number.
    watermark: int = WATERMARK
    #: Rows of a claim, at most.
    batch_max: int = BATCH_MAX
    #: Seconds between two passes where nothing is due and nothing wakes it.
    poll: float = POLL

    def __post_init__(self) -> None:
        check_lease(self.lease)
        if self.watermark < 0:
            raise UsageError(f"a watermark is 0 (none) or more, not {self.watermark}")
        if not 1 <= self.batch_max <= BATCH_MAX:
            raise UsageError(f"batch_max is 1 to {BATCH_MAX}, not {self.batch_max}")
        if not 0 < self.poll <= 60:
            raise UsageError(f"poll is above 0 and at most 60 s, not {self.poll}")


class _Claim(NamedTuple):
    """What a claim came to."""

    lane: Lane
    jobs: list[Job]
    #: Whether the lane may hold more.
    full: bool
    #: Loop time just before it.
    began: float


class QueueRunner:
    """A role for one database."""

    def __init__(
        self,
        database: Database,
        job_servers: JobServers,
        settings: QueueRunnerSettings = QueueRunnerSettings(),  # frozen
        *,
        thread: Executor | None = None,
    ) -> None:
        """Do no I/O. ``thread``: where the database's calls run, by default a thread of its own."""
        self.name = f"queue-runner of database {database.dbid}"
        self._database = database
        self._servers = job_servers
        self._settings = settings
        self._batch = min(BATCH_START, settings.batch_max)
        self._room = Room(job_servers, settings.watermark)
        self._dispatcher = Dispatcher(database, job_servers, self._room, lease=settings.lease, thread=thread)
        self._call = self._dispatcher.call
        self._orphans = Orphans(self._dispatcher, job_servers, watch=True)
        self._tidy_at: float | None = None  # loop time; None: before the first pass
        self._sent = 0  # before the last pass
        self._full_for = 0  # passes since then in which a function was full
        #: The refusals of the database in this pass.
        self._refused: list[GariviniError] = []

    async def run_pass(self) -> float:
        """Settle what ran out, dispatch what is due; return the seconds until the next pass."""
        self._sent = self._dispatcher.sent
        self._refused = []
        (now, lanes, broken), first = await self._call(self._read, _now())
        due = [lane for lane in lanes if lane.due <= now]
        if first is not None:
            self._use_room(first.jobs)
            await self._dispatcher.send(first.jobs, first.began)
            if not first.full:
                due.remove(first.lane)
        if due or first is None or self._servers.age > _COUNTS_AGE:
            # Raises where no server answers: then no more is claimed.
            await self._servers.refresh_counts()
            self._room.counts_refreshed(_now())
        more = await self._orphans.find([lane for lane in lanes if lane.state is State.LEASED], now)
        if due:
            await self._call(self._dispatcher.count_leased, [lane.funcname for lane in due], _now())
            more |= await self._recover([lane for lane in due if lane.state is not State.WAITING])
            more |= await self._dispatch([lane for lane in due if lane.state is State.WAITING])
        if broken:
            for setback, settled in await self._call(self._database.park_broken, broken):
                emit_settled(setback, settled)
        await self._tidy()
        if self._refused:
            raise self._refused[0]  # after everything else has had its turn
        if more:
            return 0.0
        later = [lane.due - now for lane in lanes if lane.due > now]
        return min([self._settings.poll, *later, *self._orphans.until_sweep(), *self._until_room()])

    async def _tidy(self) -> None:
        """Delete finished jobs that have been kept for long enough: one statement a minute where none are."""
        now = _now()
        if self._tidy_at is None:
            self._tidy_at = now + _TIDY
        elif now >= self._tidy_at:
            try:
                deleted = await self._call(self._database.forget_finished, _TIDY_JOBS)
            except ConflictError as error:  # another transaction has locked a record: retry later
                events.emit("dispatch.failed", dbid=self._database.dbid, error=str(error))
                deleted = 0
            self._tidy_at = now if deleted == _TIDY_JOBS else now + _TIDY

    def _read(self, now: float) -> tuple[Lanes, _Claim | None]:
        """Read the lanes, and what is set for functions where that has not been read for a second.

        Then claim from the most urgent lane that is not full, by the room that is left of what was counted
        before: a job that has just been inserted waits for nothing else.

        In the database's thread; ``now`` is the loop's time.
        """
        found = self._database.lanes()
        if found.lanes:
            self._dispatcher.read_policies(found.now)
        for lane in found.lanes:
            due = lane.state is State.WAITING and lane.due <= found.now
            # Past those that are full: many jobs of one function hold up none of another.
            if due and self._servers.answered and self._limit(lane.funcname) > 0:
                refused = len(self._refused)
                claim = self._claim(lane, now)
                if len(self._refused) == refused:
                    return found, claim
        return found, None

    def _until_room(self) -> list[float]:
        """When to look again where a function is full: soon while it moves, rarer while it does not."""
        waits, ask = self._room.until_room(_now())
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
        """Claim and send, some batches of each lane in turn; return whether there is more to do at once.

        While one batch is on its way to gearmand the next is claimed.
        """
        sending: asyncio.Task[None] | None = None
        try:
            for _ in range(_ROUNDS):
                going_on = []
                for lane in lanes:
                    if self._limit(lane.funcname) == 0:
                        continue
                    claim = await self._call(self._claim, lane, _now())
                    self._use_room(claim.jobs)
                    if sending is not None:
                        await sending
                    sending = asyncio.create_task(self._dispatcher.send(claim.jobs, claim.began))
                    if claim.full:
                        going_on.append(lane)
                lanes = going_on
                if not lanes:
                    break
        finally:
            if sending is not None:
                await sending
        return any(self._limit(lane.funcname) for lane in lanes)

    def _claim(self, lane: Lane, now: float) -> _Claim:
        """Claim from a lane what there is room for. In the database's thread; ``now`` is the loop's time."""
        limit = self._limit(lane.funcname)
        try:
            jobs = self._database.claim(lane, limit=limit, lease=self._dispatcher.lease)
        except (UsageError, RefusedError) as error:
            jobs, full = self._claim_apart(lane, limit, error)
        else:
            full = len(jobs) >= limit
            self._batch = next_batch(self._batch, full=full, most=self._settings.batch_max)
        for job in jobs:
            if job.flag == "controller":
                self._room.note_controlled(job.funcname)
        return _Claim(lane, jobs, full, now)

    def _claim_apart(self, lane: Lane, limit: int, error: GariviniError) -> tuple[list[Job], bool]:
        """Claim the rows before one that cannot be claimed; if that is the first, park it.

        Returns the jobs, and whether the lane may hold more. In the database's thread.
        """
        while limit > 1:
            limit //= 2
            try:
                return self._database.claim(lane, limit=limit, lease=self._dispatcher.lease), True
            except (UsageError, RefusedError) as smaller:
                error = smaller
        jobid = self._database.head(lane)
        if isinstance(error, UsageError) and jobid is not None:
            self._park_row(jobid, error)
            return [], True
        self._refused.append(error)
        return [], False

    def _park_row(self, jobid: int, error: UsageError) -> None:
        """Park a row with a value that cannot be increased, such as the largest attempt of its column."""
        handle = Handle(jobid, self._database.dbid)
        setback = Setback(handle=handle, kind="parked", error="BadRow", message=str(error))
        (settled,) = self._database.settle([setback], locked=set())
        emit_settled(setback, settled)

    def _use_room(self, jobs: Sequence[Job]) -> None:
        for funcname, count in Counter(job.funcname for job in jobs).items():
            self._room.use(funcname, count)

    def _limit(self, funcname: str) -> int:
        left = self._room.left(funcname)
        return self._batch if left is None else min(self._batch, left)

    # ---- leases that ran out

    async def _recover(self, lanes: Sequence[Lane]) -> bool:
        """Ask the servers about leases that ran out and settle them; return whether there may be more."""
        more = False
        for lane in lanes:
            lapsed = await self._call(self._database.expired, lane, limit=self._settings.batch_max)
            if not lapsed:
                continue
            more |= len(lapsed) == self._settings.batch_max
            if put_off := [row.jobid for row in lapsed if row.put_off]:
                # No lease ran out: the time set by another program has come. The next pass claims them.
                await self._call(self._database.requeue, put_off, locked=set())
                more = True
                lapsed = [row for row in lapsed if not row.put_off]
            if not lapsed:
                continue
            policy = self._dispatcher.policy(lane.funcname)
            lease = self._dispatcher.lease(lane.funcname)
            asked = _now()
            # A lane may hold jobs of both flags; where they wait matters only to a copy that is stranded.
            found = await self._servers.ask(
                function_of(lane.funcname, lapsed[0].flag),
                [self._dispatcher.unique(row.jobid, row.attempt) for row in lapsed],
                silence=lease,
                patience=5 * lease,
            )
            extensions, reclaims = [], []
            for row, said in zip(lapsed, found, strict=True):
                function = function_of(lane.funcname, row.flag)
                step = decide(
                    row.state,
                    said,
                    age=row.age,
                    lease=lease,
                    renews=bool(policy.renews),
                    deadline=policy.deadline or DEADLINE,
                    delivered=self._servers.delivered(
                        function, self._dispatcher.unique(row.jobid, row.attempt)
                    ),
                )
                events.emit(
                    "lease.expired", jobid=row.jobid, attempt=row.attempt, found=said.value, step=repr(step)
                )
                if isinstance(step, Reclaim):
                    reclaims.append((row, step.crashed))
                else:
                    extensions.append((row, step.state, step.seconds, step.queued))
            if extensions:
                await self._call(self._database.extend, extensions, locked=set())
            if reclaims:
                await self._resubmit(await self._call(self._reclaim, reclaims, lease), asked)
        return more

    def _reclaim(self, steps: Sequence[tuple[Lapsed, bool]], lease: int) -> list[Job]:
        """Claim again, and park rows that cannot be claimed. In the database's thread."""
        try:
            return self._database.reclaim(steps, lease=lease, locked=set())
        except (UsageError, RefusedError) as error:
            if len(steps) > 1:
                half = len(steps) // 2
                return [*self._reclaim(steps[:half], lease), *self._reclaim(steps[half:], lease)]
            if isinstance(error, UsageError):
                self._park_row(steps[0][0].jobid, error)
            else:
                self._refused.append(error)
            return []

    async def _resubmit(self, jobs: Sequence[Job], claimed: float) -> None:
        dead = [job for job in jobs if job.crashes >= MAX_CRASHES]
        for job in dead:
            await self._dispatcher.park(job, "WorkerLost", f"its worker died or hung {job.crashes} times")
        await self._dispatcher.send([job for job in jobs if job.crashes < MAX_CRASHES], claimed)


def _now() -> float:
    """Return the loop's monotonic time."""
    return asyncio.get_running_loop().time()


class QueueRunners:
    """A role: a QueueRunner for each database. A job of ``garivini_wake`` starts the next pass of all."""

    #: Maximum seconds for the passes that are in progress when it is stopped.
    drain_timeout: Final = 30.0

    def __init__(
        self,
        databases: Sequence[Database],
        addresses: Sequence[str],
        settings: QueueRunnerSettings,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Create the QueueRunners; this does no I/O."""
        self._servers = JobServers(
            addresses, remember=2 * (settings.watermark or WATERMARK), connect=partial(Client, tls=tls)
        )
        self._runners = [QueueRunner(database, self._servers, settings) for database in databases]
        self._stop = asyncio.Event()
        self._wakes = [asyncio.Event() for _ in databases]
        self._loops: list[asyncio.Task[None]] = []
        self.links = [
            Worker(address, [WAKE.encode()], self._woken, client_id=b"queue-runner", tls=tls)
            for address in addresses
        ]

    def _woken(self, held: Held) -> None:
        # Completed before the pass: a wake-up that arrives during it would merge with this one and be lost.
        held.complete()
        for wake in self._wakes:
            wake.set()

    async def start(self) -> Iterable[asyncio.Task[None]]:
        """Start the passes of each QueueRunner."""
        self._loops = [
            asyncio.create_task(run_passes(runner, stop=self._stop, wake=wake))
            for runner, wake in zip(self._runners, self._wakes, strict=True)
        ]
        return self._loops

    async def drain(self) -> None:
        """Wait for the passes that are in progress."""
        self._stop.set()
        await asyncio.wait(self._loops)

    async def give_up(self) -> None:
        """Report the passes that have not ended. Leases bring the jobs back that they have claimed."""
        left = sum(not loop.done() for loop in self._loops)
        events.emit("role.drain_incomplete", role="queue-runner", left=left, seconds=self.drain_timeout)

    async def close(self) -> None:
        """Close connections and end the database threads."""
        for runner in self._runners:
            runner.close()
        await self._servers.close()


async def serve(
    databases: Sequence[Database],
    addresses: Sequence[str],
    settings: QueueRunnerSettings,
    *,
    stop: asyncio.Event,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Run a QueueRunner for each database until ``stop`` is set."""
    await run_role(QueueRunners(databases, addresses, settings, tls=tls), stop)
