"""The QueueRunner: carries due jobs from a database to gearmand, and settles leases that ran out.

A pass costs the same whatever the backlog: it reads the heads of the lanes, asks gearmand how much room
each function has, and claims no more than that. gearmand holds a bounded number of jobs; the rest waits in
SQL. Nothing is claimed that cannot be sent.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, TypeVar

from garivini import events
from garivini.client import report
from garivini.errors import UsageError
from garivini.gearman.aio import Client, Held, Worker
from garivini.gearman.protocol import Created, Priority, Refused, Submission, Unknown
from garivini.gearman.requests import SubmitResult
from garivini.job import FLAGS, RUN_QUEUED_JOB, WAKE, Handle, Job, State, encode_payload, unique_of
from garivini.lease import DEADLINE, Bump, Found, decide
from garivini.policy import (
    BATCH_MAX,
    BATCH_START,
    LEASE,
    MAX_CRASHES,
    MIN_LEASE,
    POLL,
    WATERMARK,
    FunctionPolicy,
    next_batch,
    room,
)
from garivini.roles.job_servers import JobServers
from garivini.roles.runner import run_role
from garivini.store.chunks import CHUNK
from garivini.store.database import Database, Lane, Lanes, Setback

_R = TypeVar("_R")

#: Batches of each lane in a pass, at most: then all lanes are looked at anew.
_ROUNDS: Final = 4
#: Seconds until the next look at a function that was full.
_FULL_POLL: Final = 0.02
#: Seconds within which a claim is submitted or given back, and a third of the lease at most. Nobody may take
#: an attempt that no server knows for lost before twice this time: its submit could be on the way.
_SUBMIT_WITHIN: Final = 3.0
_SWEEP_AGE: Final = 6
#: Seconds from which on the servers' counts are too old for a pass that finds little to do.
_COUNTS_AGE: Final = 1.0
#: Seconds between two counts of a function's leased rows, at most; less where few may wait.
_LEASED_AGE: Final = 0.25
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
        if self.lease < MIN_LEASE:
            raise UsageError(f"a lease is at least {MIN_LEASE} s, not {self.lease}")
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
        self._room: dict[str, int | None] = {}
        #: Functions that have been seen to have jobs of flag controller, and how many wait under its name.
        self._controlled: set[str] = set()
        self._leased: dict[str, int] = {}
        self._counted: dict[str, float] = {}  # loop times
        self._leased_age = min(_LEASED_AGE, max(_FULL_POLL, settings.watermark / WATERMARK * _LEASED_AGE))
        self._policies: dict[str, FunctionPolicy] = {}
        self._policies_read = 0.0  # the database's time
        self._sweeps: list[float] | None = (
            None  # loop times of the sweeps to come; None: before the first pass
        )
        self._tidy_at: float | None = None  # loop time; None: before the first pass
        self._reconnects = 0
        self._moved = False  # whether the last pass dispatched anything
        self._full_for = 0  # passes since then in which a function was full
        # One thread a database: one that hangs stalls nobody else.
        self._thread = thread or ThreadPoolExecutor(1, f"garivini-database-{database.dbid}")

    async def look(self) -> float:
        """Settle what ran out, dispatch what is due; return the seconds until the next pass."""
        self._moved = False
        (now, lanes), first = await self._call(self._read, _now())
        due = [lane for lane in lanes if lane.due <= now]
        if first is not None:
            self._use_room(first.lane.funcname, len(first.jobs))
            await self._send(first.jobs, first.began)
            if not first.full:
                due.remove(first.lane)
        if due or first is None or self._servers.age > _COUNTS_AGE:
            # Raises where no server answers: then no more is claimed.
            await self._servers.look()
            for funcname in list(self._room):
                if self._count_is_old(funcname, _now()):
                    del self._room[funcname]
        more = await self._find_lost([lane for lane in lanes if lane.state is State.LEASED])
        if due:
            await self._call(self._count_leased, [lane.funcname for lane in due], _now())
            more |= await self._recover([lane for lane in due if lane.state is not State.WAITING])
            more |= await self._dispatch([lane for lane in due if lane.state is State.WAITING])
        await self._tidy()
        if more:
            return 0.0
        later = [lane.due - now for lane in lanes if lane.due > now]
        return min([self._settings.poll, *later, *self._until_sweep(), *self._until_room()])

    async def _tidy(self) -> None:
        """Delete finished jobs that have been kept for long enough: one statement a minute where none are."""
        now = _now()
        if self._tidy_at is None:
            self._tidy_at = now + _TIDY
        elif now >= self._tidy_at:
            deleted = await self._call(self._database.forget_finished, _TIDY_JOBS)
            self._tidy_at = now if deleted == _TIDY_JOBS else now + _TIDY

    def _read(self, now: float) -> tuple[Lanes, _Claim | None]:
        """Read the lanes, and what is set for functions where that has not been read for a second.

        Then claim from the most urgent lane that is not full, by the room that is left of what was counted
        before: a job that has just been inserted waits for nothing else. Another dispatcher may use the same
        room, as it may between any count and claim: the watermark binds each dispatcher by itself.

        In the database's thread; ``now`` is the loop's time.
        """
        found = self._database.lanes()
        if found.lanes and abs(found.now - self._policies_read) >= 1.0:
            self._policies = self._database.functions()
            self._policies_read = found.now
        for lane in found.lanes:
            due = lane.state is State.WAITING and lane.due <= found.now
            # Past those that are full: many jobs of one function hold up none of another.
            if due and self._servers.answered and self._limit(lane.funcname) > 0:
                return found, self._claim(lane, now)
        return found, None

    def _until_sweep(self) -> list[float]:
        """When to look again for the next sweep. While a server is away there is none."""
        if not self._sweeps or not self._servers.all_connected:
            return []
        return [max(0.0, self._sweeps[0] - _now())]

    def _until_room(self) -> list[float]:
        """When to look again where a function is full: soon while it moves, rarer while it does not."""
        full = {funcname for funcname, left in self._room.items() if left == 0}
        # Of those with jobs of flag controller the room stays the same until the next count.
        now = _now()
        until = [
            max(0.0, self._counted[name] + self._leased_age - now) for name in full & self._counted.keys()
        ]
        if full <= self._counted.keys():
            self._full_for = 0
            return until
        self._full_for = 0 if self._moved else self._full_for + 1
        return [*until, _FULL_POLL * 2.0 ** min(self._full_for, 10)]

    def close(self) -> None:
        """End the database thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

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
                    self._use_room(lane.funcname, len(claim.jobs))
                    if sending is not None:
                        await sending
                    sending = asyncio.create_task(self._send(claim.jobs, claim.began))
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
        jobs = self._database.claim(lane, limit=limit, lease=self._lease(lane.funcname))
        if any(job.flag == "controller" for job in jobs):
            self._controlled.add(lane.funcname)
        full = len(jobs) >= limit
        self._batch = next_batch(self._batch, full=full, most=self._settings.batch_max)
        return _Claim(lane, jobs, full, now)

    def _limit(self, funcname: str) -> int:
        if funcname not in self._room:
            self._room[funcname] = room(
                self._settings.watermark,
                # Jobs of flag controller wait under another name with those of all functions, and then in a
                # Controller. A lane may hold both kinds.
                max(self._servers.queued(funcname.encode()), self._leased.get(funcname, 0)),
            )
        left = self._room[funcname]
        return self._batch if left is None else min(self._batch, left)

    def _count_leased(self, funcnames: Sequence[str], now: float) -> None:
        """Count what waits of the functions with jobs of flag controller: their room holds until the next.

        In the database's thread; ``now`` is the loop's time.
        """
        for funcname in self._controlled.intersection(funcnames) if self._settings.watermark else ():
            if self._count_is_old(funcname, now):
                self._leased[funcname] = self._database.leased(funcname, limit=self._settings.watermark)
                self._counted[funcname] = now
                self._room.pop(funcname, None)

    def _count_is_old(self, funcname: str, now: float) -> bool:
        return now - self._counted.get(funcname, -_LEASED_AGE) >= self._leased_age

    def _use_room(self, funcname: str, jobs: int) -> None:
        left = self._room[funcname]
        if left is not None:
            self._room[funcname] = max(0, left - jobs)

    async def _send(self, jobs: Sequence[Job], claimed: float) -> None:
        """Submit claimed jobs, each attempt once, and give back at once what did not arrive."""
        good = []
        for job in jobs:
            if (reason := self._unfit(job)) is None:
                good.append(job)
            else:
                await self._park(job, "BadRow", reason)
        if good and _now() - claimed > min(_SUBMIT_WITHIN, good[0].lease / 3):
            # This process stood still. Somebody may take the attempts for lost by now.
            await self._call(self._database.release, good)
            return
        results = await self._servers.submit([self._submission(job) for job in good])
        unsent, unknown = [], []
        for job, result in zip(good, results, strict=True):
            match result:
                case Created():
                    pass
                case Refused(b"USAGE", text):
                    await self._park(job, "BadRow", text.decode())
                case Unknown():
                    unknown.append(job)
                case _:
                    unsent.append(job)
        created = len(good) - len(unsent) - len(unknown)
        self._moved = self._moved or created > 0
        events.emit("jobs.dispatched", dbid=self._database.dbid, jobs=created)
        if unsent:
            for funcname in {job.funcname for job in unsent}:
                self._room[funcname] = 0
            events.emit("jobs.released", dbid=self._database.dbid, jobs=len(unsent), reason=_reason(results))
            await self._call(self._database.release, unsent)
        if unknown:
            # The next pass asks the server whether it has them.
            events.emit("jobs.unknown", dbid=self._database.dbid, jobs=len(unknown))
            await self._call(
                self._database.end_early, [job.handle for job in unknown], lease=unknown[0].lease
            )

    def _unfit(self, job: Job) -> str | None:
        """Return why a row cannot be dispatched, or None."""
        if job.flag not in FLAGS:
            return f"flag {job.flag!r} is unknown: it is one of {', '.join(FLAGS)}"
        if job.flag == "shim" and self._policies.get(job.funcname, _NO_POLICY).envelope == "raw":
            return (
                "a worker that gets the raw argument cannot complete the job: insert it with flag controller"
            )
        return None

    async def _park(self, job: Job, error: str, reason: str) -> None:
        """Put one job aside with its reason; the others go on."""
        setback = Setback(handle=job.handle, kind="parked", error=error, message=reason)
        (settled,) = await self._call(self._database.settle, [setback])
        report(setback, settled)

    # ---- what a server may have forgotten

    async def _find_lost(self, lanes: Sequence[Lane]) -> bool:
        """End the leases of what no server has any more; return whether there are any.

        What this process sent on a connection that was lost is known, and asked about once there is a new
        one. What others sent, or an earlier process, is found by a sweep over the leased rows: at the start
        and after a reconnect, and second by second while rows that were too young then come of age.
        """
        now = _now()
        if self._sweeps is None or self._reconnects != self._servers.reconnects:
            self._sweeps = [now, *(now + age for age in range(_SWEEP_AGE // 2, _SWEEP_AGE + 2))]
            self._reconnects = self._servers.reconnects
        dbid = b"%d:" % self._database.dbid
        lost = [_handle(unique) for unique in self._servers.take_lost(dbid)]
        found = await self._end_unknown(lost, self._longest_lease())
        if self._sweeps and self._sweeps[0] <= now and self._servers.all_connected:
            del self._sweeps[0]
            for lane in lanes:
                found |= await self._sweep(lane)
        return found

    async def _sweep(self, lane: Lane) -> bool:
        found = False
        after = 0
        while True:
            page = await self._call(self._database.dispatched, lane, age=_SWEEP_AGE, after=after)
            found |= await self._end_unknown([handle for handle, _ in page], self._longest_lease())
            # Rows that end in the same second as the last may be on both pages: asked twice, no harm. A page
            # of one second alone is as far as a sweep goes.
            if len(page) < CHUNK or page[-1][1] == after:
                return found
            after = page[-1][1]

    async def _end_unknown(self, handles: Sequence[Handle], lease: int) -> bool:
        """Ask about attempts; end the leases of those that all servers answered not to have."""
        if not handles:
            return False
        uniques = [self._unique(jobid, attempt or 0) for jobid, _, attempt in handles]
        said = await self._servers.ask(b"", uniques, silence=lease)
        unknown = [handle for handle, found in zip(handles, said, strict=True) if found is Found.UNKNOWN]
        if unknown:
            events.emit("jobs.lost", dbid=self._database.dbid, jobs=len(unknown))
            await self._call(self._database.end_early, unknown, lease=lease)
        return bool(unknown)

    # ---- leases that ran out

    async def _recover(self, lanes: Sequence[Lane]) -> bool:
        """Ask the servers about leases that ran out and settle them; return whether there may be more."""
        more = False
        for lane in lanes:
            lapsed = await self._call(self._database.expired, lane, limit=self._settings.batch_max)
            if not lapsed:
                continue
            more |= len(lapsed) == self._settings.batch_max
            policy = self._policies.get(lane.funcname, _NO_POLICY)
            lease = self._lease(lane.funcname)
            asked = _now()
            # A lane may hold jobs of both flags; where they wait matters only to a copy that is stranded.
            found = await self._servers.ask(
                self._function(lane.funcname, lapsed[0].flag),
                [self._unique(row.jobid, row.attempt) for row in lapsed],
                silence=lease,
                patience=5 * lease,
            )
            extensions, bumps = [], []
            for row, said in zip(lapsed, found, strict=True):
                function = self._function(lane.funcname, row.flag)
                step = decide(
                    row.state,
                    said,
                    age=row.age,
                    lease=lease,
                    renews=bool(policy.renews),
                    deadline=policy.deadline or DEADLINE,
                    delivered=self._servers.delivered(function, self._unique(row.jobid, row.attempt)),
                )
                events.emit(
                    "lease.expired", jobid=row.jobid, attempt=row.attempt, found=said.value, step=repr(step)
                )
                if isinstance(step, Bump):
                    bumps.append((row, step.crashed))
                else:
                    extensions.append((row, step.state, step.seconds, step.queued))
            if extensions:
                await self._call(self._database.extend, extensions)
            if bumps:
                await self._resubmit(await self._call(self._database.bump, bumps, lease=lease), asked)
        return more

    async def _resubmit(self, jobs: Sequence[Job], claimed: float) -> None:
        dead = [job for job in jobs if job.crashes >= MAX_CRASHES]
        for job in dead:
            await self._park(job, "WorkerLost", f"its worker died or hung {job.crashes} times")
        await self._send([job for job in jobs if job.crashes < MAX_CRASHES], claimed)

    # ---- what is set

    def _lease(self, funcname: str) -> int:
        return self._policies.get(funcname, _NO_POLICY).lease or self._settings.lease

    def _longest_lease(self) -> int:
        return max([self._settings.lease, *(policy.lease or 0 for policy in self._policies.values())])

    def _function(self, funcname: str, flag: str) -> bytes:
        return (RUN_QUEUED_JOB if flag == "controller" else funcname).encode()

    def _unique(self, jobid: int, attempt: int) -> bytes:
        return unique_of(self._database.dbid, jobid, attempt)

    def _submission(self, job: Job) -> Submission:
        # A Controller gets the whole payload too, and hands on the raw argument where that is wanted.
        envelope = self._policies.get(job.funcname, _NO_POLICY).envelope
        payload = encode_payload(job, latin1=envelope == "latin-1")
        function = self._function(job.funcname, job.flag)
        return Submission(function, payload, job.unique, _PRIORITIES[job.priority])

    async def _call(self, call: Callable[..., _R], *arguments: object, **named: object) -> _R:
        """Run a database call in the database's thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(call, *arguments, **named))


_NO_POLICY: Final = FunctionPolicy()
#: A dictionary is read faster than an enum is called.
_PRIORITIES: Final = {priority.value: priority for priority in Priority}


def _handle(unique: bytes) -> Handle:
    dbid, jobid, attempt = map(int, unique.split(b":"))
    return Handle(jobid, dbid, attempt)


def _now() -> float:
    """Return the loop's monotonic time."""
    return asyncio.get_running_loop().time()


def _reason(results: Sequence[SubmitResult]) -> str:
    """Why jobs were not sent, for a person."""
    for result in results:
        if isinstance(result, Refused):
            return f"{result.code.decode(errors='replace')}: {result.text.decode(errors='replace')}"
    return "the server went away"


async def serve(
    databases: Sequence[Database],
    addresses: Sequence[str],
    settings: QueueRunnerSettings,
    *,
    stop: asyncio.Event,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Run a QueueRunner for each database until ``stop`` is set; ``garivini_wake`` lets all look at once."""
    servers = JobServers(
        addresses, remember=2 * (settings.watermark or WATERMARK), connect=partial(Client, tls=tls)
    )
    wakes = [asyncio.Event() for _ in databases]
    runners = [QueueRunner(database, servers, settings) for database in databases]

    def woken(held: Held) -> None:
        # Answered before the pass: a wake-up that arrives during it would be merged into this one and lost.
        held.complete()
        for wake in wakes:
            wake.set()

    links = [
        Worker(address, [WAKE.encode()], woken, client_id=b"queue-runner", tls=tls) for address in addresses
    ]
    linked = [asyncio.create_task(link.run()) for link in links]
    try:
        async with asyncio.TaskGroup() as group:
            for runner, wake in zip(runners, wakes, strict=True):
                group.create_task(run_role(runner, stop=stop, wake=wake))
    finally:
        for link in links:
            link.abort()
        for task in linked:
            task.cancel()
        await asyncio.gather(*linked, return_exceptions=True)
        for runner in runners:
            runner.close()
        await servers.close()
