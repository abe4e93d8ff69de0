"""The Injector: stores the jobs of any Gearman client, answers when they are committed, and dispatches them.

A client submits a foreground job ``inject_jobs``. What has arrived while a group is being committed makes the
next group, so many callers cost few commits. A group is answered after its commit, and sent to the Gearman
servers while the next one is being committed.
"""

import asyncio
import ssl
import traceback
from collections import Counter, deque
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import msgspec

from garivini import events
from garivini.errors import (
    ConflictError,
    GariviniError,
    OutcomeUnknownError,
    RefusedError,
    SchemaError,
    UnreachableError,
    UsageError,
)
from garivini.events import throttle
from garivini.gearman.aio import Client, Held, Worker
from garivini.gearman.protocol import Submission
from garivini.model.inserted import Inserted
from garivini.model.job import Job, NewJob
from garivini.model.lease import LEASE, check_lease
from garivini.model.limits import MAX_ARG
from garivini.model.pacing import BATCH_BYTES, WATERMARK, BatchGate
from garivini.model.state import State
from garivini.roles.dispatcher import Dispatcher
from garivini.roles.injected import Rate, Rules, answer, read
from garivini.roles.job_servers import JobServers
from garivini.roles.orphans import Orphans
from garivini.roles.room import Room
from garivini.roles.runner import run_role
from garivini.store.chunks import CHUNK
from garivini.store.insert_groups import InsertGroups
from garivini.store.shards import Shards
from garivini.submission import INJECT_JOBS, WAKE

#: Bytes of payloads held, from which on no more calls are asked for.
_MAX_BYTES: Final = 64 * 1024 * 1024
#: Characters of a reason, at most.
_MAX_REASON: Final = 500
#: Seconds between two counts of what waits in the servers: at rest, and while a function is filling up.
_COUNT_EVERY: Final = 1.0
_COUNT_SOON: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectorSettings:
    """How an Injector works."""

    #: Names or glob patterns of the functions whose jobs are taken; empty: all.
    allow: Sequence[str] = ()
    #: Bytes of an argument, at most.
    max_arg: int = MAX_ARG
    #: Whether an argument that is no text is stored as its JSON text.
    json_args: bool = False
    #: Maximum jobs per second of all clients together; a refused call counts as one. 0: unlimited.
    rate: float = 0.0
    #: Calls to hold at once, of each Gearman server.
    calls: int = 1000
    #: Seconds.
    lease: int = LEASE
    #: Jobs of a function that may wait in gearmand; 0: any number.
    watermark: int = WATERMARK

    def __post_init__(self) -> None:
        if not 0 <= self.max_arg <= MAX_ARG:
            raise UsageError(f"max_arg is 0 to {MAX_ARG}, not {self.max_arg}")
        if not self.rate >= 0:
            raise UsageError(f"a rate is 0 (any) or more jobs a second, not {self.rate}")
        if not 1 <= self.calls <= 100_000:
            raise UsageError(f"calls are 1 to 100000, not {self.calls}")
        check_lease(self.lease)
        if self.watermark < 0:
            raise UsageError(f"a watermark is 0 (none) or more, not {self.watermark}")


class _Call(msgspec.Struct, frozen=True):
    held: Held
    jobs: list[NewJob]
    #: Whether it is answered by an array.
    many: bool
    #: Whether its jobs may be of several databases, so that one can take its part and another not.
    spread: bool
    #: Bytes of its payload.
    size: int


@dataclass(slots=True)
class _Stream:
    """Calls that wait to be stored in the same place."""

    thread: ThreadPoolExecutor
    calls: deque[_Call] = field(default_factory=deque)
    #: Stores them, while there are any.
    storing: asyncio.Task[None] | None = None
    crowd: BatchGate = field(default_factory=BatchGate)
    #: Set when enough calls wait.
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, call: _Call) -> None:
        """Let a call wait."""
        self.calls.append(call)
        if not self.crowd.waits(len(self.calls), _now()):
            self.enough.set()

    async def gather(self) -> None:
        """Wait for callers that have just been answered to call again."""
        while self.crowd.waits(len(self.calls), now := _now()):
            self.enough.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.crowd.until - now):
                    await self.enough.wait()

    def next_group(self) -> list[_Call]:
        """Take what is stored together next. Calls that are spread go alone: their errors are their own."""
        group: list[_Call] = []
        jobs = size = 0
        while self.calls:
            call = self.calls[0]
            jobs += len(call.jobs)
            size += call.size
            if group and (call.spread or group[0].spread or jobs > CHUNK or size > BATCH_BYTES):
                break
            group.append(self.calls.popleft())
        return group


class _Recovery:
    """A role for one database: finds what an Injector stored with a lease and no server has.

    An Injector that is killed between commit and submit leaves such jobs, and its successor finds them. It
    also counts the leased rows of functions with jobs of flag controller.
    """

    def __init__(self, dispatcher: Dispatcher, job_servers: JobServers, room: Room) -> None:
        self.name = f"injector of database {dispatcher.database.dbid}"
        self._dispatcher = dispatcher
        self._room = room
        self._servers = job_servers
        self._orphans = Orphans(dispatcher, job_servers)

    async def run_pass(self) -> float:
        if not self._servers.answered:
            return _COUNT_EVERY
        await self._dispatcher.call(self._dispatcher.count_leased, self._room.controlled, _now())
        now, lanes, _ = await self._dispatcher.call(self._dispatcher.database.lanes)
        await self._orphans.find([lane for lane in lanes if lane.state is State.LEASED], now)
        return min([_COUNT_EVERY, *self._orphans.until_sweep()])


class Injector:
    """A role for all databases of a queue."""

    name = "injector"

    def __init__(
        self,
        shards: Shards,
        addresses: Sequence[str],
        settings: InjectorSettings = InjectorSettings(),  # frozen
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Do no I/O."""
        self._shards = shards
        self._settings = settings
        self._rules = Rules(settings.allow, settings.max_arg, settings.json_args)
        self._rate = Rate(settings.rate) if settings.rate else None
        self._servers = JobServers(
            addresses, remember=2 * (settings.watermark or WATERMARK), connect=partial(Client, tls=tls)
        )
        self._room = Room(self._servers, settings.watermark)
        self._dispatchers = {
            database.dbid: Dispatcher(database, self._servers, self._room, lease=settings.lease)
            for database in shards
        }
        # Keys have a home. One that is away, or where somebody has locked a key, holds up no other stream.
        self._streams = {
            dbid: _Stream(ThreadPoolExecutor(1, "garivini-injector")) for dbid in (None, *self._dispatchers)
        }
        self._links = [
            Worker(
                address,
                [INJECT_JOBS.encode()],
                self.take,
                slots=settings.calls,
                client_id=b"injector",
                eager=True,
                tls=tls,
            )
            for address in addresses
        ]
        self._bytes = 0  # of the payloads that are held
        self._draining = False
        self._dispatching: set[asyncio.Task[None]] = set()
        #: Cut the time to the next counts short: of the servers, and of each database's leased rows.
        self._count = asyncio.Event()
        self._counts = {dbid: asyncio.Event() for dbid in self._dispatchers}

    async def run_pass(self) -> float:
        """Count what waits in the servers; return the seconds until the next count."""
        try:
            await self._servers.refresh_counts()
        finally:
            self._room.counts_refreshed(_now())
        return _COUNT_EVERY

    async def run(self, stop: asyncio.Event) -> None:
        """Take calls until ``stop`` is set; then answer what is held, and return."""
        throttle.install()
        # So that the first call can be dispatched. What is away now is looked at again.
        policies = (dispatcher.refresh() for dispatcher in self._dispatchers.values())
        await asyncio.gather(*policies, self.run_pass(), return_exceptions=True)
        stopped = asyncio.Event()
        looking = [asyncio.create_task(run_role(self, stop=stopped, wake=self._count))]
        for dbid, dispatcher in self._dispatchers.items():
            role = _Recovery(dispatcher, self._servers, self._room)
            looking.append(asyncio.create_task(run_role(role, stop=stopped, wake=self._counts[dbid])))
        linked = [asyncio.create_task(link.run()) for link in self._links]
        try:
            await stop.wait()
            self._draining = True
            await asyncio.gather(*(link.drain() for link in self._links))
            # A call whose connection was lost may still be among what is being stored.
            await asyncio.gather(*(stream.storing for stream in self._streams.values() if stream.storing))
            await asyncio.gather(*self._dispatching)
            stopped.set()
            await asyncio.gather(*looking)
        finally:
            for link in self._links:
                link.abort()
            tasks = [*looking, *linked, *self._dispatching]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for stream in self._streams.values():
                stream.thread.shutdown(wait=False, cancel_futures=True)
            for dispatcher in self._dispatchers.values():
                dispatcher.close()
            throttle.emit_held()
            await self._servers.close()

    # ---- calls in

    def take(self, held: Held) -> None:
        """Take a call: refuse it at once, or let it be stored with those that have come with it."""
        try:
            if self._rate is not None:
                self._rate.take(1, _now())  # before it is read: a call that is refused counts as well
            jobs, many = read(held.job.data, self._rules)
            if self._rate is not None and len(jobs) > 1:
                self._rate.take(len(jobs) - 1, _now(), taken=1)
        except UsageError as error:
            # It may quote what was sent, of any length.
            reason = str(error)[:_MAX_REASON]
            events.emit("inject.refused", reason=reason)
            held.refuse(f"{reason}; nothing was stored")
            return
        except Exception:
            # A defect. Raised from here it would close the connection, and the server would send the same
            # call again and again.
            events.emit("inject.failed", calls=1, error=traceback.format_exc())
            held.refuse("a fault in the Injector; nothing was stored")
            return
        size = len(held.job.data)
        self._hold(size)
        dbid, spread = self._place(jobs)
        stream = self._streams[dbid]
        stream.add(_Call(held, jobs, many, spread, size))
        if stream.storing is None:
            stream.storing = asyncio.create_task(self._store(stream))

    def _place(self, jobs: Sequence[NewJob]) -> tuple[int | None, bool]:
        """Return which stream a call's jobs go with, and whether they may be of several databases."""
        if len(jobs) == 1 and jobs[0].uniqkey is None:
            return None, False
        homes = [
            None if job.uniqkey is None else self._shards.home(job.funcname, job.uniqkey).dbid for job in jobs
        ]
        first = next((home for home in homes if home is not None), None)
        return first, len(self._dispatchers) > 1 and any(home != first for home in homes)

    def _hold(self, size: int) -> None:
        """Count the bytes that are held; ask for no more calls while they are too many."""
        before, self._bytes = self._bytes, self._bytes + size
        if (before < _MAX_BYTES) != (self._bytes < _MAX_BYTES) and not self._draining:
            for link in self._links:
                link.slots = self._settings.calls if self._bytes < _MAX_BYTES else 0

    # ---- groups

    async def _store(self, stream: _Stream) -> None:
        try:
            while stream.calls:
                await stream.gather()
                group = stream.next_group()
                # Their server has given them to another Injector, or has forgotten them with their callers.
                lost = [call for call in group if call.held.disconnected]
                if lost:
                    self._let_go(lost)
                    group = [call for call in group if not call.held.disconnected]
                if group:
                    await self._insert(stream, group)
        finally:
            stream.storing = None

    async def _insert(self, stream: _Stream, group: Sequence[_Call]) -> None:
        """Store a group; if that fails, in smaller ones, so that each call gets an answer of its own."""
        apart = InsertGroups(group)
        while part := apart.next_group():
            began = _now()
            jobs = self._leased([job for call in part for job in call.jobs])
            loop = asyncio.get_running_loop()
            try:
                stored = await loop.run_in_executor(stream.thread, self._shards.insert, jobs)
            except Exception as error:
                ends = apart.failed(part, error)
                self._answer([call for call, _ in ends.stored], [at for _, ats in ends.stored for at in ats])
                self._fail(ends.failed)
                if isinstance(error, GariviniError):
                    self._send([(jobs[number], at) for number, at in error.stored.items()], began)
            else:
                self._answer(part, stored)
                self._send(list(zip(jobs, stored, strict=True)), began)
                stream.crowd.stored(len(part) + len(stream.calls), began, _now())

    def _send(self, stored: Sequence[tuple[NewJob, Inserted]], began: float) -> None:
        """Send the new jobs that have a lease; if there are others that are due, wake a QueueRunner."""
        taken: dict[int, list[Job]] = {}
        left = False
        for job, at in stored:
            if at.new and job.lease:
                taken.setdefault(at.dbid, []).append(Job.taken(job, at))
            elif at.new and not job.delay:
                left = True
        if left:
            self._start(self._wake())
        for dbid, part in taken.items():
            self._start(self._dispatch(self._dispatchers[dbid], part, began))

    def _start(self, step: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(step)
        self._dispatching.add(task)
        task.add_done_callback(self._dispatching.discard)

    async def _wake(self) -> None:
        """Let a QueueRunner take at once what there was no room for."""
        # One unique: a wake-up that waits already is enough.
        await self._servers.submit([Submission(WAKE.encode(), b"", unique=b"wake")])

    def _leased(self, jobs: list[NewJob]) -> list[NewJob]:
        """Give jobs their first lease that are due now and have room; a QueueRunner sends the others."""
        if not self._servers.answered:
            return jobs
        due: dict[str, list[int]] = {}
        for index, job in enumerate(jobs):
            if not job.delay:
                due.setdefault(job.funcname, []).append(index)
                if job.flag == "controller":
                    self._room.note_controlled(job.funcname)
        for funcname, indexes in due.items():
            left = self._room.left(funcname)
            taken = indexes if left is None else indexes[:left]
            self._room.use(funcname, len(taken))
            filling = left is not None and left - len(taken) <= self._settings.watermark // 2
            if filling and self._servers.age > _COUNT_SOON:
                for count in (self._count, *self._counts.values()):
                    count.set()
            lease = max(dispatcher.lease(funcname) for dispatcher in self._dispatchers.values())
            for index in taken:
                jobs[index] = msgspec.structs.replace(jobs[index], lease=lease)
        return jobs

    async def _dispatch(self, dispatcher: Dispatcher, jobs: Sequence[Job], began: float) -> None:
        try:
            # If it cannot be read now, what was read before holds.
            with suppress(GariviniError):
                await dispatcher.refresh()
            await dispatcher.send(jobs, began)
        except Exception as error:
            text = str(error) if isinstance(error, GariviniError) else traceback.format_exc()
            events.emit("inject.not_dispatched", dbid=dispatcher.database.dbid, jobs=len(jobs), error=text)

    # ---- answers

    def _answer(self, group: Sequence[_Call], stored: Sequence[Inserted]) -> None:
        if not group:
            return
        events.emit(
            "inject.stored",
            calls=len(group),
            jobs=len(stored),
            duplicates=sum(not at.new for at in stored),
        )
        unheard = [call for call in group if call.held.disconnected]
        if unheard:
            jobs = [job for call in unheard for job in call.jobs]
            keyless = sum(job.uniqkey is None for job in jobs)
            events.emit("inject.unheard", calls=len(unheard), jobs=len(jobs), keyless=keyless)
        position = 0
        for call in group:
            end = position + len(call.jobs)
            call.held.complete(answer(stored[position:end], many=call.many))
            position = end
        self._let_go(group)

    def _fail(self, failed: Sequence[tuple[_Call, Exception]]) -> None:
        """Report to calls why they failed; errors with the same text are one event."""
        texts: Counter[str] = Counter()
        for call, error in failed:
            known = isinstance(error, GariviniError)
            texts[str(error) if known else "".join(traceback.format_exception(error))] += 1
            call.held.refuse(_reason(error))
        for text, calls in texts.items():
            events.emit("inject.failed", calls=calls, error=text)
        self._let_go([call for call, _ in failed])

    def _let_go(self, calls: Sequence[_Call]) -> None:
        self._hold(-sum(call.size for call in calls))


#: What callers are told. The error's own text names the database and its user, so it is for the log alone.
_REASONS: Final[dict[type[GariviniError], str]] = {
    UsageError: "the database cannot take it: an argument is too large for it, or a value does not fit",
    RefusedError: "the database refused it",
    ConflictError: "another transaction was in the way; try again",
    UnreachableError: "the database cannot be reached; try again",
    SchemaError: "the database is not ready: its tables are not of this version",
}


def _reason(error: Exception) -> str:
    if isinstance(error, OutcomeUnknownError):
        return "the connection to the database was lost at the commit: it may have been stored"
    for kind, reason in _REASONS.items():
        if isinstance(error, kind):
            return f"{reason}; {_part(error) if error.stored else 'nothing was stored'}"
    return "a fault in the Injector: it may have been stored"


def _part(error: GariviniError) -> str:
    """Return which part of an array is stored, in databases other than the one that failed."""
    return (
        f"some of it may have been stored: {len(error.stored)} of its jobs are, in another database. All of "
        "them have a unique key, so the same call can be made again"
    )


def _now() -> float:
    """Return the loop's monotonic time."""
    return asyncio.get_running_loop().time()


async def serve(
    shards: Shards,
    addresses: Sequence[str],
    settings: InjectorSettings,
    *,
    stop: asyncio.Event,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Run an Injector until ``stop`` is set and what it holds is answered."""
    await Injector(shards, addresses, settings, tls=tls).run(stop)
