"""A gearmand in memory, and what its clients and workers have of it.

It keeps what gearmand keeps: queues by function and priority, uniques that merge with live jobs, the same
copy for another worker when a connection closes (at the end of its queue, three deaths at most). And it fails
as a server and a network do: restarts with nothing, resets, stands still, refuses, loses answers.
"""

import asyncio
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from garivini.backoff import Backoff
from garivini.errors import UnreachableError
from garivini.gearman.admin import FunctionStatus
from garivini.gearman.packets import REQUEST, RESPONSE, Decoder, Packet, Type, encode
from garivini.gearman.protocol import (
    Assigned,
    Created,
    JobStatus,
    Priority,
    Refused,
    Submission,
    Unknown,
    WorkerProtocol,
)
from garivini.gearman.requests import SubmitResult
from tests.simulation.loop import VirtualLoop
from tests.simulation.processes import MainThread, Process, counter

_R = TypeVar("_R")

#: Deaths of workers after which gearmand drops a job, started with ``--job-retries 3``.
_RETRIES: Final = 3
#: Seconds without an answer after which a connection is given up.
_SILENCE: Final = 10.0
_PRIORITIES: Final = (Priority.HIGH, Priority.NORMAL, Priority.LOW)


@dataclass(slots=True, eq=False)
class Copy:
    """A job in the server."""

    handle: bytes
    submission: Submission
    worker: "Attached | None" = None
    deaths: int = 0


@dataclass(slots=True, eq=False)
class Attached:
    """A worker's connection as both ends see it."""

    link: "WorkerLink"
    #: Whether the worker's end is open, and the server's.
    open: bool = True
    known: bool = True
    asleep: bool = False
    functions: list[bytes] = field(default_factory=list)
    copies: dict[bytes, Copy] = field(default_factory=dict)
    decoder: Decoder = field(default_factory=lambda: Decoder(REQUEST))

    def send(self, data: bytes) -> None:
        """Send to the worker."""
        server = self.link.server
        server.loop.call_later(server.delay, self.link.arrive, self, data)


class Server:
    """A gearmand.

    Args:
        address: where it is reached.
        delay: seconds of a packet's way.
        watch: called with what happens to a copy: ``queued``, ``joined``, ``refused``, ``given``, ``back``
            (its worker's connection closed), ``dropped``, ``ended``.
        on_cut: called when a connection goes in the middle of submits.

    """

    def __init__(
        self,
        loop: VirtualLoop,
        address: str,
        delay: float,
        source: random.Random,
        watch: Callable[[str, Submission], None],
        on_cut: Callable[[], None],
    ) -> None:
        self._on_cut = on_cut
        self.loop = loop
        self.address = address
        self.delay = delay
        self.source = source
        self.up = True
        #: Counts its lives.
        self.life = 0
        self.wakes_at = 0.0
        #: Until then every submit is refused.
        self.refuses_until = 0.0
        #: How many of the next submits take effect, and are answered, before the connection goes.
        self.cut: tuple[float, float] | None = None
        self.clients: list[ClientLink] = []
        self.workers: list[Attached] = []
        self._watch = watch
        self._handles = counter()
        self._queues: dict[tuple[bytes, Priority], list[Copy]] = {}
        self._live: dict[tuple[bytes, bytes], Copy] = {}

    # ---- faults

    def restart(self, seconds: float) -> None:
        """Go away with all there is, and come back empty."""
        self.up = False
        self.life += 1
        self._queues.clear()
        self._live.clear()
        self.wakes_at = 0.0
        self.cut = None
        workers, self.workers = self.workers, []
        for attached in workers:
            attached.known = attached.open = False
            attached.link.closed.set()
        for client in self.clients:
            client.lose()
        self.loop.call_later(seconds, self._come_up)

    def _come_up(self) -> None:
        self.up = True

    def reset(self) -> None:
        """Lose every connection, and nothing else."""
        for client in self.clients:
            client.lose()
        for attached in list(self.workers):
            attached.open = False
            attached.link.closed.set()
            self.leave(attached)

    def freeze(self, seconds: float) -> None:
        """Stand still. What is sent to it waits in its sockets."""
        self.wakes_at = max(self.wakes_at, self.loop.time() + seconds)

    def at_work(self, call: Callable[..., None], *arguments: Any) -> None:
        """Call it once the server moves."""
        if self.loop.time() < self.wakes_at:
            self.loop.call_at(self.wakes_at, self.at_work, call, *arguments)
        else:
            call(*arguments)

    # ---- clients

    def submit(self, jobs: Sequence[Submission]) -> list[SubmitResult]:
        """Take submits, until the connection is cut if it is to be."""
        cut, self.cut = self.cut, None
        if cut is None:
            return [self._submit(job) for job in jobs]
        self._on_cut()
        done, told = (round(share * len(jobs)) for share in cut)
        results = [self._submit(job) for job in jobs[:done]]
        return results[: min(told, done)] + [Unknown()] * (len(jobs) - min(told, done))

    def _submit(self, job: Submission) -> SubmitResult:
        if self.loop.time() < self.refuses_until:
            self._watch("refused", job)
            return Refused(b"QUEUE_ERROR", b"the queue is full")
        copy = self._live.get((job.function, job.unique))
        if copy is None:
            copy = Copy(b"H:%s:%d" % (self.address.encode(), self._handles()), job)
            self._live[job.function, job.unique] = copy
            self._watch("queued", job)
            self._enqueue(copy)
        else:
            self._watch("joined", job)
        return Created(copy.handle)

    def status(self, uniques: Sequence[bytes]) -> list[JobStatus]:
        live = {unique: copy for (_, unique), copy in self._live.items()}
        found = [live.get(unique) for unique in uniques]
        return [
            JobStatus(copy is not None, copy is not None and copy.worker is not None, 0, 0) for copy in found
        ]

    @property
    def uniques(self) -> set[bytes]:
        """Those of the copies that it has."""
        return {unique for _, unique in self._live}

    def functions(self) -> dict[bytes, FunctionStatus]:
        names = {function for function, _ in self._live} | {
            name for attached in self.workers for name in attached.functions
        }
        return {name: self._status(name) for name in sorted(names)}

    def _status(self, name: bytes) -> FunctionStatus:
        copies = [copy for (function, _), copy in self._live.items() if function == name]
        return FunctionStatus(
            len(copies),
            sum(copy.worker is not None for copy in copies),
            sum(name in attached.functions for attached in self.workers),
        )

    # ---- workers

    def join(self, link: "WorkerLink") -> Attached:
        attached = Attached(link)
        self.workers.append(attached)
        return attached

    def receive(self, attached: Attached, data: bytes) -> None:
        """Take what a worker sends."""
        for packet in attached.decoder.feed(data):
            assert isinstance(packet, Packet)
            if attached.known:
                self._take(attached, packet)

    def _take(self, attached: Attached, packet: Packet) -> None:
        match packet.type:
            case Type.CAN_DO:
                attached.functions.append(packet.fields[0])
            case Type.GRAB_JOB_UNIQ:
                attached.asleep = False
                self._give(attached)
            case Type.PRE_SLEEP:
                attached.asleep = True
                self._rouse(attached)
            case Type.WORK_COMPLETE | Type.WORK_FAIL:
                copy = attached.copies.pop(packet.fields[0])
                del self._live[copy.submission.function, copy.submission.unique]
                self._watch("ended", copy.submission)

    def _give(self, attached: Attached) -> None:
        queue = self._first(attached)
        if queue is None:
            attached.send(encode(RESPONSE, Type.NO_JOB))
            return
        copy = queue.pop(0)
        copy.worker = attached
        attached.copies[copy.handle] = copy
        job = copy.submission
        self._watch("given", job)
        attached.send(encode(RESPONSE, Type.JOB_ASSIGN_UNIQ, copy.handle, job.function, job.unique, job.data))

    def _first(self, attached: Attached) -> list[Copy] | None:
        queues = (
            self._queues.get((function, priority))
            for priority in _PRIORITIES
            for function in attached.functions
        )
        return next(filter(None, queues), None)

    def _rouse(self, attached: Attached) -> None:
        if attached.asleep and self._first(attached):
            attached.asleep = False
            attached.send(encode(RESPONSE, Type.NOOP))

    def _enqueue(self, copy: Copy) -> None:
        job = copy.submission
        self._queues.setdefault((job.function, job.priority), []).append(copy)
        # All sleepers are woken; who grabs first has it.
        for attached in self.source.sample(self.workers, len(self.workers)):
            self._rouse(attached)

    def leave(self, attached: Attached) -> None:
        """A worker's connection has closed: others may have its copies."""
        if not attached.known:
            return
        attached.known = False
        self.workers.remove(attached)
        for copy in attached.copies.values():
            copy.worker = None
            copy.deaths += 1
            job = copy.submission
            if copy.deaths == _RETRIES:
                del self._live[job.function, job.unique]
                self._watch("dropped", job)
            else:
                self._watch("back", job)
                self._enqueue(copy)
        attached.copies.clear()


class ClientLink:
    """Stands in for ``gearman.aio.Client`` in a dispatcher."""

    def __init__(
        self,
        server: Server,
        process: Process,
        offered: Callable[[Submission], None],
        sent: Callable[[Submission], None],
        heard: Callable[[Submission, SubmitResult], None],
    ) -> None:
        """Do nothing yet.

        ``offered``, ``sent``, ``heard``: called with each job that is to be submitted, that is written to the
        server, and that an answer has come for.
        """
        self.address = server.address
        self.generation = 0
        self.connected = False
        self._server = server
        self._process = process
        self._offered = offered
        self._sent = sent
        self._heard = heard
        self._loop = server.loop
        self._backoff = Backoff(uniform=server.source.uniform)
        self._retry_at = 0.0
        self._waiting: dict[asyncio.Future[Any], None] = {}
        server.clients.append(self)
        process.at_death.append(self.lose)

    async def functions(self) -> dict[bytes, FunctionStatus]:
        return await self._ask(self._server.functions)

    async def status(self, uniques: Sequence[bytes]) -> list[JobStatus]:
        return await self._ask(lambda: self._server.status(uniques))

    async def submit(self, jobs: Sequence[Submission]) -> list[SubmitResult]:
        for job in jobs:
            self._offered(job)
        await self._connect()
        for job in jobs:
            self._sent(job)
        try:
            results = await self._exchange(lambda: self._server.submit(jobs))
        except UnreachableError:
            return [Unknown()] * len(jobs)
        if any(isinstance(result, Unknown) for result in results):
            self.lose()
        for job, result in zip(jobs, results, strict=True):
            self._heard(job, result)
        return results

    async def close(self) -> None:
        self.lose()

    def lose(self) -> None:
        """The connection goes; what waits for an answer gets none."""
        self.connected = False
        for answer in self._waiting:
            if not answer.done():
                answer.set_exception(UnreachableError(f"{self.address} went away"))
        self._waiting.clear()

    async def _ask(self, question: Callable[[], _R]) -> _R:
        await self._connect()
        return await self._exchange(question)

    async def _connect(self) -> None:
        await self._process.sleep(0.0)
        if self.connected:
            return
        if self._loop.time() < self._retry_at:
            raise UnreachableError(f"{self.address} was not reachable a moment ago")
        if not self._server.up:
            self._retry_at = self._loop.time() + self._backoff.failed()
            raise UnreachableError(f"{self.address} is not there")
        self._backoff.succeeded()
        self.connected = True
        self.generation += 1

    async def _exchange(self, request: Callable[[], _R]) -> _R:
        """Send a request on the connection that there is, and wait for its answer."""
        answer: asyncio.Future[_R] = self._loop.create_future()
        self._waiting[answer] = None
        generation = self.generation
        life = self._server.life

        def arrive() -> None:
            # What has been written arrives, also if its writer has gone, unless the server has.
            if self._server.up and self._server.life == life:
                self._loop.call_later(self._server.delay, self._process.when_awake, come, request())

        def come(result: _R) -> None:
            if not answer.done() and self.generation == generation and self.connected:
                self._waiting.pop(answer, None)
                answer.set_result(result)

        def give_up() -> None:
            # Silence counts only while this process moves.
            if not answer.done() and self.generation == generation:
                self.lose()

        self._loop.call_later(self._server.delay, self._server.at_work, arrive)
        patience = self._loop.call_later(_SILENCE, self._process.when_awake, give_up)
        try:
            return await answer
        finally:
            patience.cancel()


class WorkerLink:
    """Stands in for ``gearman.aio.Worker``: a worker's connection to one server, opened again when lost.

    The protocol is the real one. What arrives while the process blocks or stands still is read later.

    Args:
        server: which one.
        main: runs what the connection does, in the worker's process.
        functions: names.
        on_job: called in the process with each job that arrives.
        slots: jobs to hold at once.
        told: called when the worker says that it has done with a job.
        on_lost: called with what it noted of such jobs when the connection is lost.

    """

    def __init__(
        self,
        server: Server,
        process: Process,
        main: Callable[[], MainThread],
        functions: Sequence[bytes],
        on_job: Callable[["Held"], None],
        slots: int,
        told: Callable[[Assigned], None],
        on_lost: Callable[[Collection[Any]], None] = lambda told: None,
    ) -> None:
        self.server = server
        self.process = process
        self.told = told
        self.closed = asyncio.Event()
        self.attached: Attached | None = None
        self.core = WorkerProtocol([])
        #: Whether the server notices when the process has gone.
        self.leaves = True
        self._main = main
        self._on_lost = on_lost
        self._functions = list(functions)
        self._on_job = on_job
        self._slots = slots
        self._stopping = False
        self._flush_due = False
        #: What is noted of the jobs that were ended on this connection, and when it replaced another.
        self.noted: list[Any] = []
        self.reopened_at: float | None = None
        process.at_death.append(self._die)

    @property
    def slots(self) -> int:
        return self._slots

    @slots.setter
    def slots(self, slots: int) -> None:
        if self._stopping:
            return
        self._slots = slots
        if self.attached is not None and self.attached.open:
            self.core.slots = slots
            self.core.ask()
            self.flush()

    async def run(self) -> None:
        backoff = Backoff(uniform=self.server.source.uniform)
        while not self._stopping:
            await self.process.sleep(self.server.delay)
            if not self.server.up:
                await self.process.sleep(backoff.failed())
                continue
            backoff.succeeded()
            self.closed.clear()
            self.core = WorkerProtocol(self._functions, slots=self._slots)
            opened = None if self.attached is None else self.server.loop.time()
            self.attached = self.server.join(self)
            self.noted, self.reopened_at = [], opened
            self.flush()
            await self.closed.wait()
            self._on_lost(self.noted)
            if not self._stopping:
                await self.process.sleep(backoff.failed())

    async def drain(self) -> None:
        self.slots = 0
        self._stopping = True
        while self.attached is not None and self.attached.open and not self.core.quiet:
            await self.process.sleep(0.05)
        self.abort()

    def abort(self) -> None:
        self._stopping = True
        self.cut(noticed=True)

    def cut(self, *, noticed: bool) -> None:
        """Close the worker's end; ``noticed``: the server sees it too."""
        attached = self.attached
        if attached is not None and attached.open:
            attached.open = False
            self.closed.set()
            if noticed:
                self.server.loop.call_later(
                    self.server.delay, self.server.at_work, self.server.leave, attached
                )

    def arrive(self, attached: Attached, data: bytes) -> None:
        """Bytes have come over this connection."""
        self._main().call_soon(self._read, attached, data)

    def _read(self, attached: Attached, data: bytes) -> None:
        if attached.open and attached is self.attached:
            for event in self.core.receive(data):
                if isinstance(event, Assigned):
                    self._on_job(Held(self, attached, event))
            self.flush()

    def flush(self) -> None:
        """Write what there is at the end of this turn of the process's loop."""
        if not self._flush_due:
            self._flush_due = True
            self._main().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        self.write(self.core.data_to_send())

    def write(self, data: bytes) -> None:
        """Write at once."""
        attached = self.attached
        if data and attached is not None and attached.open:
            self.server.loop.call_later(
                self.server.delay, self.server.at_work, self.server.receive, attached, data
            )

    def _die(self) -> None:
        self.cut(noticed=self.leaves)


class Held:
    """Stands in for ``gearman.aio.Held``."""

    def __init__(self, link: WorkerLink, attached: Attached, job: Assigned) -> None:
        self.job = job
        self.reopened_at = link.reopened_at
        self._link = link
        self._attached = attached

    @property
    def disconnected(self) -> bool:
        return not self._attached.open

    def complete(self, data: bytes = b"", *, note: Any = None) -> bool:
        return self._end(lambda core: core.complete(self.job.handle, data), note)

    def fail(self, *, note: Any = None) -> bool:
        return self._end(lambda core: core.fail(self.job.handle), note)

    def _end(self, write: Callable[[WorkerProtocol], None], note: Any) -> bool:
        if self.disconnected:
            return False
        write(self._link.core)
        self._link.noted.append(note)
        self._link.told(self.job)
        self._link.flush()
        return True
