"""The Controller: holds foreground calls to workers of any language, and records what comes of them.

It takes the background copies of jobs of flag ``controller``, which QueueRunners submit to
``run_queued_job``. It submits each in the foreground to the job's own function, whose worker need know of no
database, and the keepers commit what comes of it. One loop holds thousands of calls: a call is a record and
no task.

A function may have as many calls as are free. One that is slow alone thus takes a half, two take a third
each, and there is always room for the next. What may not start yet waits here, not renewed, so that it counts
against its function's room at the QueueRunner; after a third of its lease it goes back to the database.
"""

import asyncio
import math
import os
import socket
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from garivini import events
from garivini.errors import GariviniError, RefusedError, UnreachableError, UsageError
from garivini.events import throttle
from garivini.gearman.aio import Client, Held, Worker
from garivini.gearman.packets import Type
from garivini.gearman.protocol import (
    Created,
    Event,
    Finished,
    JobStatus,
    Refused,
    Submission,
    Unknown,
    Update,
)
from garivini.keeper.copies import EndedCopies, copy_of
from garivini.keeper.execution import Execution
from garivini.keeper.keeper import Keeper
from garivini.model.lease import DEADLINE
from garivini.model.outcome import Report, Setback
from garivini.model.payload import decode_payload
from garivini.model.policy import NO_POLICY
from garivini.roles.answers import setback_of
from garivini.roles.job_servers import JobServers
from garivini.roles.waiting_room import WaitingRoom
from garivini.store.database import Database
from garivini.store.records import MAX_LINES
from garivini.submission import PRIORITY_OF, RUN_QUEUED_JOB

#: Foreground calls in flight, at most.
MAX_CALLS: Final = 5000
#: Jobs that may wait here, at least. Half of them, one function's share, is above the default watermark: what
#: is too much even to wait keeps its function's room for a while.
_WAITING_PLACES: Final = 10_000
#: Bytes of a payload that may stay here until its call has ended.
_SMALL: Final = 1024
#: Seconds that a drain waits for calls.
DRAIN: Final = 30.0
#: Seconds between two looks at servers, settings and what waits here.
_TICK: Final = 1.0
#: Seconds until what a server refused, or what was too much for this process, goes back to the database.
_LATER: Final = 10.0
#: Seconds that a drain waits for commits at its end.
_LAST_COMMITS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSettings:
    """How a Controller works."""

    #: Calls in flight, at most.
    max_calls: int = MAX_CALLS
    #: Seconds that a drain waits for them.
    drain: float = DRAIN

    def __post_init__(self) -> None:
        if not 1 <= self.max_calls <= 1_000_000:
            raise UsageError(f"max_calls is 1 to 1000000, not {self.max_calls}")
        if not 0 <= self.drain <= 86400:
            raise UsageError(f"drain is 0 to 86400 s, not {self.drain}")


class _Call(msgspec.Struct, eq=False):
    """A job from its start here until its outcome is committed."""

    run: Execution
    #: The server's client and the handle there, once it is submitted and created.
    client: Client | None = None
    handle: bytes = b""
    #: Seconds from its submit, or since when it is known to run.
    deadline: float = DEADLINE
    #: Monotonic times: of the submit, since when it is known to run, and when to ask about it.
    submitted: float = 0.0
    running_since: float | None = None
    ask_at: float = 0.0
    #: Lines that it has said.
    lines: int = 0
    ended: bool = False
    #: A copy of a later attempt, which came before this one was submitted or committed.
    newer: Execution | None = None


class Controller:
    """A role for all databases: the outcomes of each are its own keeper's."""

    def __init__(
        self,
        databases: Sequence[Database],
        addresses: Sequence[str],
        settings: ControllerSettings = ControllerSettings(),  # frozen
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Do no I/O."""
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._servers = JobServers(addresses, connect=partial(Client, tls=tls, exceptions=True))
        self._keepers = {
            database.dbid: Keeper(
                database,
                on_committed=lambda runs: self._threadsafe(self._committed, runs),
                on_checked=lambda run, mine: self._threadsafe(self._checked, run, mine),
                take_back=lambda run: False,
                on_given_back=lambda runs: None,
            )
            for database in databases
        }
        #: By database and job, from the start to the commit.
        self._calls: dict[tuple[int, int], _Call] = {}
        #: How many of them are under way, by function and in all.
        self._active: Counter[str] = Counter()
        self._in_flight = 0
        places = max(_WAITING_PLACES, 2 * settings.max_calls)
        self._waiting_room = WaitingRoom(places)
        #: What goes back to the database at a monotonic time.
        self._later: deque[tuple[float, Execution]] = deque()
        self._ended = EndedCopies()
        #: Outcomes that are not committed.
        self._ending = 0
        self._offer_due = False
        self._progress: dict[tuple[int, int], Report] = {}
        #: Calls that were lost or refused since the last tick, by function and reason.
        self._failed: Counter[tuple[str, str]] = Counter()
        self._draining = False
        self._changed = asyncio.Event()
        self._slots = math.ceil((settings.max_calls + places) / len(addresses))
        self._links = [
            Worker(
                address,
                [RUN_QUEUED_JOB.encode()],
                self._arrived,
                slots=self._slots,
                client_id=b"controller",
                eager=True,
                on_lost=self._ended.add,
                tls=tls,
            )
            for address in addresses
        ]

    async def run(self, stop: asyncio.Event) -> None:
        """Hold calls until ``stop`` is set; then drain."""
        throttle.install()
        for keeper in self._keepers.values():
            keeper.read_functions()
            keeper.start()
        stopped = asyncio.create_task(stop.wait())
        watching = [asyncio.create_task(self._watch()), asyncio.create_task(self._ask_forever())]
        links = [asyncio.create_task(link.run()) for link in self._links]
        events.emit("controller.started", controller=self.name)
        try:
            await asyncio.wait([stopped, *watching], return_when=asyncio.FIRST_COMPLETED)
            for task in watching:
                if task.done():
                    task.result()  # a defect of ours: better none than half a Controller
            await self._drain()
        finally:
            for link in self._links:
                link.abort()
            for part in (stopped, *watching, *links):
                part.cancel()
            await asyncio.gather(stopped, *watching, *links, return_exceptions=True)
            await self._servers.close()
            stops = [keeper.stop for keeper in self._keepers.values()]
            await asyncio.gather(*(self._loop.run_in_executor(None, stop) for stop in stops))
            throttle.emit_held()
            events.emit("controller.stopped", controller=self.name)

    async def _drain(self) -> None:
        events.emit("controller.draining", controller=self.name, calls=self._in_flight)
        self._draining = True
        drains = asyncio.gather(*(link.drain() for link in self._links))
        self._return_all()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain):
                while self._in_flight:
                    self._changed.clear()
                    await self._changed.wait()
        if unfinished := [call for call in self._calls.values() if not call.ended]:
            events.emit("controller.drain_incomplete", controller=self.name, calls=len(unfinished))
            for call in unfinished:
                self._return(call)
        self._return_all()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_COMMITS):
                await drains

    def _threadsafe(self, call: Callable[..., None], *arguments: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)

    # ---- copies

    def _arrived(self, held: Held) -> None:
        try:
            job = decode_payload(held.job.data, with_arg=False)
            if job.dbid not in self._keepers:
                raise UsageError(f"database {job.dbid} is not one of this Controller's")
        except UsageError as error:
            events.emit("job.dropped", function=RUN_QUEUED_JOB, error=str(error))
            held.fail()
            return
        run = Execution(job, held, self.name, copy_of(job))
        if self._ended.drops(run.copy):
            events.emit("job.stale", jobid=job.jobid, dbid=job.dbid, attempt=job.attempt)
            held.complete()
        elif (call := self._calls.get((job.dbid, job.jobid))) is not None:
            self._attach(call, run)
        else:
            self._take(run)

    def _attach(self, call: _Call, run: Execution) -> None:
        """Take a second copy of a job that is being run here: one call is enough for both."""
        old = call.run
        if (run.job.attempt or 0) <= (old.job.attempt or 0):
            # The server gave it out again, mostly because the connection was lost.
            if old.held.disconnected:
                old.held = run.held
            else:
                run.held.complete()
        elif call.ended or not call.handle:
            call.newer = run
        else:
            # The old attempt was taken for lost. What comes of the call is the new one's.
            call.run = run
            self._keeper_of(run).hold(run)
            old.held.complete()

    def _take(self, run: Execution) -> None:
        """Start the job, or let it wait here."""
        if self._draining:
            self._end(run, returned=True)
        elif run.job.funcname not in self._waiting_room and self._may_start(run):
            self._start(run)
        elif not self._waiting_room.add(run, time.monotonic()):
            # Too much for this process. The row stays leased for a while, which keeps the QueueRunner from
            # sending the function's next one in its place.
            run.held.complete()
            run.dropped = True
            self._forget_argument(run)
            self._later.append((time.monotonic() + _LATER, run))

    def _may_start(self, run: Execution) -> bool:
        job = run.job
        return (
            self._active[job.funcname] < self._settings.max_calls - self._in_flight
            and self._keepers[job.dbid].policies is not None
            and self._servers.client_for(job).connected
        )

    def _start_waiting(self) -> None:
        for run in self._waiting_room.remove_startable(self._may_start):
            call = self._calls.get((run.job.dbid, run.job.jobid))
            if call is not None:
                self._attach(call, run)
            elif not run.held.disconnected:  # else the server gives the copy to somebody, perhaps to us
                self._start(run)

    def _return_all(self) -> None:
        """Give back what has not been started."""
        for run in self._waiting_room.remove_all():
            self._give_up(run)
        for _, run in self._later:
            self._end(run, returned=True)
        self._later.clear()

    def _give_up(self, run: Execution) -> None:
        """Let a job that was not started wait in the database again, if its copy is still ours."""
        if not run.held.disconnected:
            self._end(run, returned=True)

    # ---- a call's way

    def _start(self, run: Execution) -> None:
        job = run.job
        call = self._calls[job.dbid, job.jobid] = _Call(run)
        self._active[job.funcname] += 1
        self._in_flight += 1
        keeper = self._keepers[job.dbid]
        if keeper.must_check(run):
            keeper.check(run)
        else:
            self._submit(call)

    def _checked(self, run: Execution, mine: bool) -> None:
        call = self._calls.get((run.job.dbid, run.job.jobid))
        if call is None or call.run is not run or call.ended:
            return  # given back by a drain
        if mine:
            self._submit(call)
            return
        events.emit("job.stale", jobid=run.job.jobid, dbid=run.job.dbid, attempt=run.job.attempt)
        run.held.complete()
        self._leave(call)

    def _submit(self, call: _Call) -> None:
        run = call.run
        job = run.job
        keeper = self._keepers[job.dbid]
        if run.held.disconnected:
            # It has not started: the server gives the copy to somebody, perhaps to us.
            keeper.drop(run)
            self._leave(call)
            return
        policy = (keeper.policies or {}).get(job.funcname, NO_POLICY)
        data = run.held.job.data
        client = self._servers.client_for(job)
        try:
            if policy.envelope == "raw":
                data = decode_payload(data).arg
            # Without a unique: gearmand loses a second call on the unique of one whose caller has died.
            submission = Submission(job.funcname.encode(), data, b"", PRIORITY_OF[job.priority])
            client.call(submission, partial(self._answer, call))
        except UnreachableError:
            self._return(call)
            return
        except UsageError as error:
            self._end_call(
                call, Setback(handle=job.handle, kind="parked", error="BadRow", message=str(error))
            )
            return
        call.client = client
        call.deadline = policy.deadline or DEADLINE
        call.submitted = time.monotonic()
        call.ask_at = call.submitted + _TICK
        if len(run.held.job.data) > _SMALL:
            self._forget_argument(run)
        keeper.hold(run)

    def _answer(self, call: _Call, event: Event) -> None:
        if call.ended:
            return
        match event:
            case Created(handle):
                call.handle = handle
            case Finished():
                run = call.run
                run.result = event.data
                self._end_call(call, setback_of(event, run.job, self.name))
            case Update(kind, fields):
                self._said(call, kind, fields)
            case Unknown():
                # Not the job's fault, nor a sign that it did not run.
                self._failed[call.run.job.funcname, "the connection was lost"] += 1
                self._return(call)
            case Refused(code, text):
                reason = (b"%s: %s" % (code, text)).decode(errors="replace")
                self._failed[call.run.job.funcname, reason] += 1
                self._return(call, later=True)

    def _said(self, call: _Call, kind: Type, fields: list[bytes]) -> None:
        run = call.run
        call.running_since = call.running_since or time.monotonic()
        if kind is Type.WORK_STATUS:
            # The newest of each second is written.
            said = Report(run.job.handle, "status", b"/".join(fields))
            self._progress[run.job.dbid, run.job.jobid] = said
            return
        call.lines += 1
        if call.lines < MAX_LINES:
            said = Report(run.job.handle, "data" if kind is Type.WORK_DATA else "warning", fields[0])
            self._keeper_of(run).report(said)
        elif call.lines == MAX_LINES:
            said = Report(run.job.handle, "warning", b"garivini: later lines of this attempt are not kept")
            self._keeper_of(run).report(said)

    def _end_call(self, call: _Call, setback: Setback | None) -> None:
        call.run.setback = setback
        self._over(call)
        self._end(call.run)

    def _return(self, call: _Call, *, later: bool = False) -> None:
        """Let a job wait in the database again: the call came to no end that is the job's."""
        self._over(call)
        if later and not self._draining:
            self._later.append((time.monotonic() + _LATER, call.run))
        else:
            self._end(call.run, returned=True)

    def _over(self, call: _Call) -> None:
        """Make its place free."""
        call.ended = True
        funcname = call.run.job.funcname
        self._in_flight -= 1
        self._active[funcname] -= 1
        if not self._active[funcname]:
            del self._active[funcname]
        if self._progress:
            said = self._progress.pop((call.run.job.dbid, call.run.job.jobid), None)
            if said is not None:
                self._keeper_of(call.run).report(said)
        if self._draining:
            self._changed.set()

    def _leave(self, call: _Call) -> None:
        """Forget a call that was not made."""
        self._over(call)
        self._remove(call)
        self._loop.call_soon(self._start_waiting)

    def _end(self, run: Execution, *, returned: bool = False) -> None:
        run.returned = returned
        self._ending += 1
        self._keeper_of(run).end(run)
        if not self._offer_due:
            self._offer_due = True
            self._loop.call_soon(self._offer)

    def _offer(self) -> None:
        """Let the servers know the free slots. What is only being committed takes none."""
        self._offer_due = False
        for link in self._links:
            if link.slots:  # none while it drains
                link.slots = self._slots + self._ending

    def _committed(self, runs: list[Execution]) -> None:
        for run in runs:
            self._ending -= 1
            if not run.dropped and not run.held.complete(note=run.copy):
                self._ended.add([run.copy])
            call = self._calls.get((run.job.dbid, run.job.jobid))
            if call is not None and call.run is run:
                self._remove(call)
        self._start_waiting()
        self._offer()

    def _remove(self, call: _Call) -> None:
        del self._calls[call.run.job.dbid, call.run.job.jobid]
        if call.newer is None:
            return
        if call.ended and call.run.setback is None and not call.run.returned and call.handle:
            call.newer.held.complete()
        else:
            self._take(call.newer)

    def _keeper_of(self, run: Execution) -> Keeper:
        return self._keepers[run.job.dbid]

    def _forget_argument(self, run: Execution) -> None:
        """Let go of what may be megabytes: only gearmand needs it from now on."""
        run.held.job = replace(run.held.job, data=b"")

    # ---- every second

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            for keeper in self._keepers.values():
                keeper.read_functions()
            for report in self._progress.values():
                self._keepers[report.handle.dbid].report(report)
            self._progress.clear()
            for (funcname, reason), calls in self._failed.items():
                events.emit("calls.lost", function=funcname, calls=calls, reason=reason)
            self._failed.clear()
            for run in self._waiting_room.remove_overdue(now):
                self._give_up(run)
            while self._later and self._later[0][0] <= now:
                self._end(self._later.popleft()[1], returned=True)
            self._start_waiting()

    async def _ask_forever(self) -> None:
        """Count workers, connect again, and ask about calls, apart from what must not wait for servers."""
        while True:
            with suppress(UnreachableError):  # which is said by events
                await self._servers.refresh_counts()
            self._start_waiting()
            now = time.monotonic()
            due: dict[Client, list[_Call]] = {}
            for call in self._calls.values():
                if not call.ended and call.client is not None and call.handle and call.ask_at <= now:
                    due.setdefault(call.client, []).append(call)
            await asyncio.gather(*(self._ask_about(client, calls) for client, calls in due.items()))
            await asyncio.sleep(_TICK)

    async def _ask_about(self, client: Client, calls: Sequence[_Call]) -> None:
        """Look whether calls wait or run, once when they are young and then at their deadlines."""
        try:
            statuses = await client.statuses_of([call.handle for call in calls])
        except GariviniError:
            return  # lost: then the calls have been told
        now = time.monotonic()
        for call, status in zip(calls, statuses, strict=True):
            if not call.ended and self._is_over(call, status, now):
                with suppress(GariviniError):
                    await self._cancel(client, call, status)

    def _is_over(self, call: _Call, status: JobStatus, now: float) -> bool:
        """Whether the call has used up its time; else say when to ask again."""
        if status.running and call.running_since is None:
            # One seen at the first look has run from the start. Of others it is not known, in their favour.
            call.running_since = call.submitted if now - call.submitted < 2 * _TICK + 1 else now
        began = call.submitted if call.running_since is None else call.running_since
        call.ask_at = began + call.deadline
        return now >= call.ask_at

    async def _cancel(self, client: Client, call: _Call, status: JobStatus) -> None:
        if status.running:
            message = f"ran longer than {call.deadline:g} s"
            handle = call.run.job.handle
            self._end_call(
                call,
                Setback(handle=handle, kind="failed", error="TimeLimit", message=message, worker=self.name),
            )
            return
        # It waits for a worker, which is no fault of its own. Taken out, or it would run beside the next.
        events.emit("call.cancelled", function=call.run.job.funcname, seconds=call.deadline)
        self._return(call)
        with suppress(RefusedError):
            await client.command(b"cancel job " + call.handle, block=False)


async def serve(
    databases: Sequence[Database],
    addresses: Sequence[str],
    settings: ControllerSettings,
    *,
    stop: asyncio.Event,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Run a Controller until ``stop`` is set, then drain it."""
    await Controller(databases, addresses, settings, tls=tls).run(stop)
