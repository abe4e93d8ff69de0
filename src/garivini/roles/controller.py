"""The Controller: calls stock workers of any language in the foreground, and commits the outcomes of jobs.

It receives the background copies of jobs of flag ``controller``, which QueueRunners submit to
``run_queued_job``. The Controller submits each job in the foreground to the job's own function, whose worker
needs no database. The Controller's keepers commit the outcomes. One loop holds thousands of calls, because a
call is a record and not a task.

Jobs that may not start yet wait in the Controller. Their leases are not renewed, so their rows stay leased,
and the QueueRunner counts these rows against the room of their function. After a third of their lease, the
jobs are returned to the database.
"""

import asyncio
import math
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, assert_never

from garivini import events
from garivini.clock import SYSTEM_CLOCK, Clock
from garivini.errors import UnreachableError, UsageError
from garivini.gearman.aio import Client, Held, Worker
from garivini.keeper.copies import EndedCopies, copy_of
from garivini.keeper.execution import Execution
from garivini.keeper.keeper import Keeper
from garivini.model.payload import decode_payload
from garivini.roles.caller import Caller, forget_argument
from garivini.roles.calls import Call, Calls, End, Phase
from garivini.roles.job_servers import JobServers
from garivini.roles.runner import run_role
from garivini.roles.waiting_room import WaitingRoom
from garivini.store.database import Database
from garivini.submission import RUN_QUEUED_JOB

#: Maximum foreground calls in flight.
MAX_CALLS: Final = 5000
#: Minimum places of the waiting room. One slow function gets half of them, which is more than the default
#: watermark. A job for which there is no place counts against the room of its function for a while.
_WAITING_PLACES: Final = 10_000
#: Seconds that a drain waits for calls.
DRAIN: Final = 30.0
#: Seconds between two refreshes of counts and settings.
_TICK: Final = 1.0
#: Seconds until a job that a server has refused, or that found no place, is returned to the database.
_LATER: Final = 10.0
#: Maximum seconds that a drain waits for the last commits.
_LAST_COMMITS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSettings:
    """Settings of a Controller.

    Raises:
        UsageError: one is out of range.

    """

    #: Maximum calls in flight.
    max_calls: int = MAX_CALLS
    #: Seconds that a drain waits for calls.
    drain: float = DRAIN

    def __post_init__(self) -> None:
        if not 1 <= self.max_calls <= 1_000_000:
            raise UsageError(f"max_calls is 1 to 1000000, not {self.max_calls}")
        if not 0 <= self.drain <= 86400:
            raise UsageError(f"drain is 0 to 86400 s, not {self.drain}")


class Controller:
    """A role for all databases. Each database has its own keeper, which writes the outcomes of its jobs."""

    def __init__(
        self,
        databases: Sequence[Database],
        addresses: Sequence[str],
        settings: ControllerSettings = ControllerSettings(),  # frozen
        *,
        tls: ssl.SSLContext | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Create a Controller; this does no I/O."""
        self._clock = clock
        self._monotonic = clock.monotonic
        self.name: str = f"{socket.gethostname()}:{os.getpid()}"
        self.drain_timeout: float = settings.drain
        self._loop = asyncio.get_running_loop()
        self._servers = JobServers(addresses, connect=partial(Client, tls=tls, exceptions=True), clock=clock)
        ids = [database.dbid for database in databases]
        self._keepers = {database.dbid: self._keeper(database, ids) for database in databases}
        self._calls = Calls(settings.max_calls)
        self._caller = Caller(
            self.name, self._servers, self._keepers, self._calls, self._call_ended, clock.monotonic
        )
        places = max(_WAITING_PLACES, 2 * settings.max_calls)
        self._waiting_room = WaitingRoom(places)
        #: Executions to be returned, each with the monotonic time of its return, in the order of these times.
        self._later: deque[tuple[float, Execution]] = deque()
        self._ended_copies = EndedCopies()
        #: Number of outcomes that are not committed.
        self._uncommitted = 0
        self._offer_due = False
        self._draining = False
        self._call_over = asyncio.Event()
        self._slots = math.ceil((settings.max_calls + places) / len(addresses))
        self.links: list[Worker] = [self._link(address, tls) for address in addresses]

    def _keeper(self, database: Database, databases: Sequence[int]) -> Keeper:
        return Keeper(
            database,
            on_committed=lambda executions: self._threadsafe(self._committed, executions),
            on_checked=lambda execution, holds: self._threadsafe(self._caller.checked, execution, holds),
            take_back=lambda execution: False,
            on_given_back=lambda executions: None,
            arguments=False,
            databases=databases,
            on_cancelled=lambda execution: self._threadsafe(self._caller.cancelled, execution),
            clock=self._clock,
        )

    def _link(self, address: str, tls: ssl.SSLContext | None) -> Worker:
        return Worker(
            address,
            [RUN_QUEUED_JOB.encode()],
            self._arrived,
            slots=self._slots,
            client_id=b"controller",
            eager=True,
            on_lost=self._ended_copies.add,
            tls=tls,
        )

    # ---- the lifecycle

    async def start(self) -> Iterable[asyncio.Task[None]]:
        """Start the keepers and loops."""
        for keeper in self._keepers.values():
            keeper.read_functions()
            keeper.start()
        events.emit("controller.started", controller=self.name)
        return [asyncio.create_task(self._tick()), asyncio.create_task(self._poll_servers())]

    async def drain(self) -> None:
        """Return jobs that have not started, and wait for the calls and their commits."""
        events.emit("controller.draining", controller=self.name, calls=self._calls.in_flight)
        self._draining = True
        for link in self.links:
            link.slots = 0
        self._return_unstarted()
        while self._calls.in_flight:
            self._call_over.clear()
            await self._call_over.wait()
        await self._last_commits()

    async def give_up(self) -> None:
        """Return the jobs whose calls have not ended, so that they run again. Wait for the last commits."""
        if unfinished := self._calls.unfinished():
            events.emit("controller.drain_incomplete", controller=self.name, calls=len(unfinished))
            for call in unfinished:
                self._caller.end_without_outcome(call)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_COMMITS):
                await self._last_commits()

    async def _last_commits(self) -> None:
        """Wait until each copy is completed. A copy is completed after the commit of its outcome."""
        await asyncio.gather(*(link.drain() for link in self.links))

    async def close(self) -> None:
        """Close connections, and stop the keepers, each for a limited time."""
        await self._servers.close()
        stops = [keeper.stop for keeper in self._keepers.values()]
        await asyncio.gather(*(self._loop.run_in_executor(None, stop) for stop in stops))
        events.emit("controller.stopped", controller=self.name)

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
        execution = Execution(job, held, self.name, copy_of(job))
        if self._ended_copies and self._ended_copies.drops(execution.copy):
            events.emit("job.stale", jobid=job.jobid, dbid=job.dbid, attempt=job.attempt)
            held.complete()
        elif (call := self._calls.get((job.dbid, job.jobid))) is not None:
            self._attach(call, execution)
        else:
            self._accept(execution)

    def _attach(self, call: Call, execution: Execution) -> None:
        superfluous = self._calls.attach(call, execution)
        if call.execution is execution:
            self._keepers[execution.job.dbid].hold(execution)
        if superfluous is not None:
            superfluous.held.complete()

    def _accept(self, execution: Execution) -> None:
        """Start a job, or let it wait."""
        if self._draining:
            self._commit(execution, returned=True)
        elif execution.job.funcname not in self._waiting_room and self._caller.may_start(execution):
            self._caller.start(execution)
        elif not self._waiting_room.add(execution, self._monotonic()):
            # The row of such a job stays leased for a while. Otherwise the QueueRunner would send the next
            # job of the function immediately.
            execution.held.complete()
            execution.dropped = True
            forget_argument(execution)
            self._later.append((self._monotonic() + _LATER, execution))

    def _start_waiting(self) -> None:
        for execution in self._waiting_room.remove_startable(self._caller.may_start):
            call = self._calls.get((execution.job.dbid, execution.job.jobid))
            if call is not None:
                self._attach(call, execution)
            elif not execution.held.disconnected:  # otherwise the server sends the copy again
                self._caller.start(execution)

    def _return_unstarted(self) -> None:
        for execution in self._waiting_room.remove_all():
            self._return_waiting(execution)
        for _, execution in self._later:
            self._commit(execution, returned=True)
        self._later.clear()

    def _return_waiting(self, execution: Execution) -> None:
        """Return a job from the waiting room, unless the server has its copy again."""
        if not execution.held.disconnected:
            self._commit(execution, returned=True)

    # ---- outcomes

    def _call_ended(self, call: Call, phase: End) -> None:
        match phase:
            case Phase.SUCCEEDED | Phase.SET_BACK:
                self._commit(call.execution)
            case Phase.REFUSED if not self._draining:
                self._later.append((self._monotonic() + _LATER, call.execution))
            case Phase.RETURNED | Phase.REFUSED:
                self._commit(call.execution, returned=True)
            case Phase.DROPPED:
                self._remove(call)
                self._loop.call_soon(self._start_waiting)
            case _:
                assert_never(phase)
        if self._draining:
            self._call_over.set()

    def _commit(self, execution: Execution, *, returned: bool = False) -> None:
        """Let the keeper write an outcome, or return a job without an outcome."""
        execution.returned = returned
        self._uncommitted += 1
        self._keepers[execution.job.dbid].end(execution)
        if not self._offer_due:
            self._offer_due = True
            self._loop.call_soon(self._offer)

    def _offer(self) -> None:
        """Offer the free slots to the servers. A job that is only being committed takes no slot."""
        self._offer_due = False
        for link in self.links:
            if link.slots:  # a drain sets the slots to 0
                link.slots = self._slots + self._uncommitted

    def _committed(self, executions: list[Execution]) -> None:
        for execution in executions:
            self._uncommitted -= 1
            if not execution.dropped and not execution.held.complete(note=execution.copy):
                self._ended_copies.add([execution.copy])
            call = self._calls.get((execution.job.dbid, execution.job.jobid))
            if call is not None and call.execution is execution:
                self._remove(call)
        self._start_waiting()
        self._offer()

    def _remove(self, call: Call) -> None:
        del self._calls[call.execution.job.dbid, call.execution.job.jobid]
        if call.later is None:
            return
        if call.phase is Phase.SUCCEEDED:
            call.later.held.complete()
        else:
            self._accept(call.later)

    # ---- loops

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            now = self._monotonic()
            for keeper in self._keepers.values():
                keeper.read_functions()
            self._caller.flush()
            for execution in self._waiting_room.remove_overdue(now):
                self._return_waiting(execution)
            while self._later and self._later[0][0] <= now:
                self._commit(self._later.popleft()[1], returned=True)
            self._start_waiting()

    async def _poll_servers(self) -> None:
        """Count workers, reconnect and check deadlines. A separate loop, because servers may be slow."""
        while True:
            with suppress(UnreachableError):  # events have reported the error
                await self._servers.refresh_counts()
            self._start_waiting()
            await self._caller.check_deadlines()
            await asyncio.sleep(_TICK)


async def serve(
    databases: Sequence[Database],
    addresses: Sequence[str],
    settings: ControllerSettings,
    *,
    stop: asyncio.Event,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Run a Controller until ``stop`` is set, then drain it."""
    await run_role(Controller(databases, addresses, settings, tls=tls), stop)
