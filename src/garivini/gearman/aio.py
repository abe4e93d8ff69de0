"""The asyncio shell of the protocol: a client and a worker, each for one server, reopened when lost."""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, Protocol

from garivini import events
from garivini.backoff import Backoff
from garivini.errors import UnreachableError
from garivini.gearman.admin import ConnectedWorker, FunctionStatus, parse_status, parse_workers
from garivini.gearman.connection import Connection, open_connection
from garivini.gearman.packets import Type
from garivini.gearman.protocol import (
    Assigned,
    ClientProtocol,
    Event,
    JobStatus,
    Lines,
    Rejected,
    Submission,
    Update,
    WorkerProtocol,
)
from garivini.gearman.requests import Answers, Batch, Foreground, SubmitResult, checked, result_of
from garivini.gearman.servers import parse_address

#: Ended jobs of a connection that a worker remembers: more than a server can have in flight on it.
_TOLD: Final = 8192


class _Waiting(Protocol):
    @property
    def done(self) -> bool: ...


class _ClientConnection(Connection):
    def __init__(
        self, silence: float, on_lost: Callable[["_ClientConnection"], None] = lambda it: None
    ) -> None:
        super().__init__(silence)
        self._on_lost = on_lost
        self.core: ClientProtocol[Callable[[Event], None]] = ClientProtocol()

    def take(self) -> bytes:
        return self.core.data_to_send()

    def receive(self, data: bytes) -> bool:
        for tag, event in self.core.receive(data):
            self.answered = True
            tag(event)
        return False

    def due(self) -> int:
        return self.core.pending

    def echo(self) -> None:
        self.core.echo(lambda event: None, b"")

    def lose(self) -> None:
        self._on_lost(self)
        for tag, event in self.core.lost():
            tag(event)

    async def until_done(self, waiting: _Waiting) -> None:
        self.flush()
        while not waiting.done:
            await self.heard()


class Client:
    """A client of one Gearman server. Connects at the first call and again after a loss.

    Args:
        address: ``host:port``.
        timeout: seconds without an answer after which the connection is given up, and to connect at most.
        tls: how to encrypt; without it the connection is plain. A server that offers no TLS is refused.
        exceptions: whether to hear of a WORK_EXCEPTION as such, with the worker's text, or as of a WORK_FAIL.

    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float = 10.0,
        tls: ssl.SSLContext | None = None,
        exceptions: bool = False,
    ) -> None:
        self.address = address
        self._host, self._port = parse_address(address)
        self._timeout = timeout
        self._tls = tls
        self._exceptions = exceptions
        self._connection: _ClientConnection | None = None
        self._opening = asyncio.Lock()
        self._backoff = Backoff()
        self._retry_at = 0.0  # loop time before which a server that failed is left alone
        self._trouble = ""
        #: Connections opened so far. A higher number than before: what was sent on the old one may be gone.
        self.generation = 0

    async def submit(self, jobs: Sequence[Submission]) -> list[SubmitResult]:
        """Submit background jobs, pipelined; return what became of each, in order.

        Raises:
            UnreachableError: there is no connection; nothing was sent.

        """
        connection = await self._connected()
        batch = Batch(jobs)
        while not batch.done and connection.transport is not None:
            batch.write(connection.core)
            connection.flush()
            if not batch.done:
                await connection.heard()
        return batch.results

    async def run(self, job: Submission, *, on_update: Callable[[Update], None] | None = None) -> bytes:
        """Submit a foreground job and return its result.

        Args:
            job: what to run. Its server drops it if the connection closes while it is queued.
            on_update: called with each WORK_STATUS, WORK_DATA and WORK_WARNING.

        Raises:
            UnreachableError: there is no connection; nothing was sent.
            RefusedError: the server refused it, or the worker failed it (its text, if it gave one).
            OutcomeUnknownError: the connection was lost meanwhile.

        """
        connection = await self._connected()
        foreground = Foreground(on_update)
        connection.core.submit(foreground.answer, job, foreground=True)
        await connection.until_done(foreground)
        return result_of(foreground, self.address)

    def call(self, job: Submission, answer: Callable[[Event], None]) -> None:
        """Submit a foreground job on the connection that is open now, and wait for nothing.

        Args:
            job: as in ``run``.
            answer: called with ``Created``, ``Refused`` or ``Unknown``; after ``Created`` with each
                ``Update``, then with ``Finished``, or with ``Unknown`` where the connection was lost.

        Raises:
            UnreachableError: there is no connection.
            UsageError: the job cannot travel.

        """
        connection = self._connection
        if connection is None or connection.transport is None:
            raise UnreachableError(f"there is no connection to Gearman server {self.address}")
        connection.core.submit(answer, job, foreground=True)
        connection.flush()

    async def option(self, name: bytes) -> None:
        """Switch an option on for the connection that is open now (``exceptions``).

        Raises:
            RefusedError: the server does not know it.

        """
        await self._ask(1, lambda core, tag: core.option(tag, name))

    async def status(self, uniques: Sequence[bytes]) -> list[JobStatus]:
        """Ask what the server knows of the jobs with these uniques, in one pipelined round trip.

        Raises:
            UnreachableError: there is no connection, or it was lost before all answers came.
            RefusedError: the server does not know the request.

        """

        def ask(core: ClientProtocol[Callable[[Event], None]], tag: Callable[[Event], None]) -> None:
            for unique in uniques:
                core.status_unique(tag, unique)

        return [answer for answer in await self._ask(len(uniques), ask) if isinstance(answer, JobStatus)]

    async def status_of(self, handle: bytes) -> JobStatus:
        """Ask what the server knows of the job with this handle.

        Raises:
            UnreachableError: there is no connection, or it was lost before the answer came.

        """
        (answer,) = await self._ask(1, lambda core, tag: core.status(tag, handle))
        assert isinstance(answer, JobStatus)
        return answer

    async def statuses_of(self, handles: Sequence[bytes]) -> list[JobStatus]:
        """Ask as ``status_of`` does for many jobs in one pipelined round trip."""

        def ask(core: ClientProtocol[Callable[[Event], None]], tag: Callable[[Event], None]) -> None:
            for handle in handles:
                core.status(tag, handle)

        return [answer for answer in await self._ask(len(handles), ask) if isinstance(answer, JobStatus)]

    async def functions(self) -> dict[bytes, FunctionStatus]:
        """Return the server's counts of each function it knows (administrative ``status``)."""
        return parse_status(await self.command(b"status"))

    async def workers(self) -> list[ConnectedWorker]:
        """Return the server's connections (administrative ``workers``)."""
        return parse_workers(await self.command(b"workers"))

    async def command(self, text: bytes, *, block: bool = True) -> list[bytes]:
        """Send an administrative command on the same connection; return its line or lines.

        Raises:
            UnreachableError: there is no connection, or it was lost before the answer came.
            RefusedError: the server answered ``ERR``.

        """
        (answer,) = await self._ask(1, lambda core, tag: core.command(tag, text, block=block))
        assert isinstance(answer, Lines)
        return answer.lines

    async def echo(self) -> None:
        """Return when the server has answered: it is there and has done all that was asked before."""
        await self._ask(1, lambda core, tag: core.echo(tag, b""))

    async def close(self) -> None:
        """Close the connection, if there is one. A later call opens it again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._connection is not None and self._connection.transport is not None

    async def _ask(
        self,
        count: int,
        ask: Callable[[ClientProtocol[Callable[[Event], None]], Callable[[Event], None]], None],
    ) -> list[Event]:
        connection = await self._connected()
        answers = Answers(count)
        ask(connection.core, answers.answer)
        await connection.until_done(answers)
        return checked(answers.events, self.address)

    async def _connected(self) -> _ClientConnection:
        async with self._opening:
            if self._connection is not None and self._connection.transport is not None:
                return self._connection
            loop = asyncio.get_running_loop()
            if loop.time() < self._retry_at:
                raise UnreachableError(f"Gearman server {self.address} {self._trouble} a moment ago")
            try:
                connection = await open_connection(
                    lambda: _ClientConnection(self._timeout, self._lost),
                    self._host,
                    self._port,
                    self._timeout,
                    self._tls,
                )
            except UnreachableError:
                self._leave_alone("was not reachable")
                raise
            self._connection = connection
            self.generation += 1
            if self._exceptions:
                connection.core.option(lambda event: None, b"exceptions")
            return connection

    def _lost(self, connection: _ClientConnection) -> None:
        """Avoid a server for a while if it closed the connection before it answered."""
        if connection.answered:
            self._backoff.succeeded()
        elif connection is self._connection and not connection.silent:  # else the timeout was long enough
            self._leave_alone("went away before it answered")

    def _leave_alone(self, trouble: str) -> None:
        self._trouble = trouble
        self._retry_at = asyncio.get_running_loop().time() + self._backoff.failed()


class _WorkerConnection(Connection):
    def __init__(self, silence: float, core: WorkerProtocol, on_job: Callable[["Held"], None]) -> None:
        super().__init__(silence)
        self.core = core
        #: The newest notes of ended jobs; see ``Held.complete``.
        self.told: deque[Any] = deque(maxlen=_TOLD)
        #: The loop's time at which it was opened in place of one that was lost; None: it is the first.
        self.reopened_at: float | None = None
        self._on_job = on_job

    def take(self) -> bytes:
        return self.core.data_to_send()

    def receive(self, data: bytes) -> bool:
        began = False
        waiting = self.core.waiting
        found = self.core.receive(data)
        if not self.answered:
            self.answered = bool(found) or self.core.waiting < waiting
        for event in found:
            if isinstance(event, Assigned):
                self._on_job(Held(self, event))
                began = True
            else:
                _rejected(event)
        return began

    def due(self) -> int:
        return self.core.waiting

    def echo(self) -> None:
        # A grab is as good a sign of life as an echo, and mends a wake-up that got lost on the way.
        self.core.ask(again=True)
        self.core.echo()


def _rejected(event: Rejected) -> None:
    events.emit(
        "gearman.rejected", code=event.code.decode(errors="replace"), text=event.text.decode(errors="replace")
    )


class Held:
    """A job that a server has given to this worker, bound to the connection it came on.

    Once that connection is lost the server gives the job to somebody else, and handles repeat after a
    restart: so its end is said on this very connection or not at all.
    """

    __slots__ = ("_connection", "job")

    def __init__(self, connection: _WorkerConnection, job: Assigned) -> None:
        self._connection = connection
        self.job = job

    @property
    def disconnected(self) -> bool:
        """Whether the connection is gone."""
        return self._connection.transport is None

    @property
    def reopened_at(self) -> float | None:
        """The loop's time (monotonic) at which the connection replaced a lost one; None for the first.

        A server sends the jobs of a lost connection again.
        """
        return self._connection.reopened_at

    def complete(self, data: bytes = b"", *, note: Any = None) -> bool:
        """Report that it succeeded; return whether the connection was there.

        ``note``: for ``on_lost``. The server may not have received the report when the connection is lost.
        """
        connection = self._connection
        if connection.transport is None:
            return False
        connection.core.complete(self.job.handle, data)
        if note is not None:
            connection.told.append(note)
        if not connection.flush_due:  # usually many jobs end in one turn of the loop
            connection.flush()
        connection.wake()
        return True

    def fail(self, *, note: Any = None) -> bool:
        """Report that it failed; return whether the connection was there. ``note``: as for ``complete``."""
        if self.disconnected:
            return False
        self._connection.core.fail(self.job.handle)
        if note is not None:
            self._connection.told.append(note)
        self._ended()
        return True

    def exception(self, data: bytes) -> None:
        """Say that it failed, with a text for the client that asked for it. Nothing may follow."""
        if not self.disconnected:
            self._connection.core.exception(self.job.handle, data)
            self._ended()

    def refuse(self, reason: str) -> None:
        """Report that it failed, with a reason for every client, as a WORK_WARNING before the failure.

        For clients that have not asked for exceptions, gearmand turns a WORK_EXCEPTION into a failure with a
        handle that libgearman does not know: the ``gearman`` tool waits for ever, and Perl's client dies.
        """
        if not self.disconnected:
            # The tool prints it as it is.
            self._connection.core.report(
                self.job.handle, Type.WORK_WARNING, f"{reason}\n".encode(errors="replace")
            )
            self.fail()

    def report(self, kind: Type, *fields: bytes) -> None:
        """Send WORK_STATUS (numerator, denominator), WORK_DATA or WORK_WARNING (data)."""
        if not self.disconnected:
            self._connection.core.report(self.job.handle, kind, *fields)
            self._connection.flush()

    def _ended(self) -> None:
        self._connection.flush()
        self._connection.wake()


class Worker:
    """A worker's connection to one Gearman server, opened again whenever it is lost.

    Args:
        address: ``host:port``.
        functions: names to register.
        on_job: called in the loop with each job that arrives; it must not block.
        slots: jobs to hold at once: assigned and without an end.
        client_id: shown by the server's ``workers``.
        eager: whether a wake-up asks at once for as many as came since the last one; see WorkerProtocol.
        on_lost: called in the loop when a connection is lost, with its newest notes of ended jobs.
        timeout: seconds of silence after which a connection is given up.
        tls: how to encrypt; without it the connection is plain. A server that offers no TLS is refused.

    """

    def __init__(
        self,
        address: str,
        functions: Iterable[bytes],
        on_job: Callable[[Held], None],
        *,
        slots: int = 1,
        client_id: bytes = b"",
        eager: bool = False,
        on_lost: Callable[[Collection[Any]], None] = lambda told: None,
        timeout: float = 10.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.address = address
        self._host, self._port = parse_address(address)
        self._functions = list(functions)
        self._on_job = on_job
        self._slots = slots
        self._client_id = client_id
        self._eager = eager
        self._on_lost = on_lost
        self._timeout = timeout
        self._tls = tls
        self._connection: _WorkerConnection | None = None
        self._stopping = False

    def fileno(self) -> int | None:
        """Return the descriptor of the open connection's socket, or None."""
        transport = self._connection.transport if self._connection is not None else None
        return None if transport is None else transport.get_extra_info("socket").fileno()

    @property
    def slots(self) -> int:
        """Jobs to hold at once; 0 requests no more, which a drain keeps."""
        return self._slots

    @slots.setter
    def slots(self, slots: int) -> None:
        if self._stopping:
            return
        self._slots = slots
        if self._connection is not None and self._connection.transport is not None:
            self._connection.core.slots = slots
            self._connection.core.ask()
            self._connection.flush()

    async def run(self) -> None:
        """Stay connected until ``drain`` is called."""
        backoff = Backoff()
        unreachable = False
        while not self._stopping:
            try:
                connection = await open_connection(
                    self._make, self._host, self._port, self._timeout, self._tls
                )
            except UnreachableError as error:
                if not unreachable:
                    events.emit("gearman.unreachable", server=self.address, error=str(error))
                unreachable = True
                await asyncio.sleep(backoff.failed())
                continue
            self._connection = connection
            await connection.first_answer()
            if connection.answered:
                unreachable = False
                backoff.succeeded()
                events.emit("gearman.connected", server=self.address)
                await connection.closed.wait()
            self._on_lost(connection.told)
            if not self._stopping:
                if connection.answered:
                    events.emit("gearman.lost", server=self.address)
                elif not unreachable:
                    unreachable = True
                    reason = f"Gearman server {self.address} went away before it answered"
                    events.emit("gearman.unreachable", server=self.address, error=reason)
                await asyncio.sleep(backoff.failed())

    async def drain(self) -> None:
        """Ask for no more jobs, wait for the end of those that are here or on their way, and close."""
        self.slots = 0
        self._stopping = True
        connection = self._connection
        if connection is None or connection.transport is None:
            return
        while connection.transport is not None and not connection.core.quiet:
            await connection.heard()
        await connection.close()

    def abort(self) -> None:
        """Close at once. The server gives what is held to another worker."""
        self._stopping = True
        if self._connection is not None:
            self._connection.abort()

    def _make(self) -> _WorkerConnection:
        core = WorkerProtocol(
            self._functions, slots=self._slots, client_id=self._client_id, eager=self._eager
        )
        if not core.waiting:
            core.echo()  # without a free slot it sends no other request
        connection = _WorkerConnection(self._timeout, core, self._on_job)
        if self._connection is not None:
            connection.reopened_at = asyncio.get_running_loop().time()
        return connection
