"""The client of one Gearman server, for asyncio."""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Protocol

from garivini.backoff import Backoff
from garivini.errors import UnreachableError
from garivini.gearman.admin import ConnectedWorker, FunctionStatus, parse_status, parse_workers
from garivini.gearman.connection import Connection, open_connection
from garivini.gearman.protocol import ClientProtocol, Event, JobStatus, Lines, Submission, Update
from garivini.gearman.requests import Answers, Batch, Foreground, SubmitResult, checked, result_of
from garivini.gearman.servers import parse_address


class _Waiting(Protocol):
    @property
    def done(self) -> bool: ...


class _ClientConnection(Connection):
    answered: bool

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
            await self.received()


class Client:
    """A client of one Gearman server. It connects at the first call, and again after the connection was lost.

    Args:
        address: ``host:port``.
        timeout: maximum seconds to connect, and to wait for an answer. Then the connection is closed.
        tls: encrypts the connection, which is plain without it. A server without TLS is not accepted.
        exceptions: whether a WORK_EXCEPTION arrives as such, with the worker's text. False: as a WORK_FAIL.

    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float = 10.0,
        tls: ssl.SSLContext | None = None,
        exceptions: bool = False,
    ) -> None:
        self.address: str = address
        self._host, self._port = parse_address(address)
        self._timeout = timeout
        self._tls = tls
        self._exceptions = exceptions
        self._connection: _ClientConnection | None = None
        self._opening = asyncio.Lock()
        self._backoff = Backoff()
        self._retry_at = 0.0  # the loop's time before which a server that failed is avoided
        self._error = ""
        #: The number of connections opened so far. If it rises, earlier requests may be lost.
        self.generation: int = 0

    async def submit(self, jobs: Sequence[Submission]) -> list[SubmitResult]:
        """Submit background jobs, pipelined; return the result of each, in the same order.

        Raises:
            UnreachableError: there is no connection; nothing was sent.

        """
        connection = await self._connected()
        batch = Batch(jobs)
        while not batch.done and connection.transport is not None:
            batch.write(connection.core)
            connection.flush()
            if not batch.done:
                await connection.received()
        return batch.results

    async def run(self, job: Submission, *, on_update: Callable[[Update], None] | None = None) -> bytes:
        """Submit a foreground job and return its result.

        Args:
            job: the job. The server drops the job if the connection closes while the job is queued.
            on_update: called with each WORK_STATUS, WORK_DATA and WORK_WARNING.

        Raises:
            UnreachableError: there is no connection; nothing was sent.
            RefusedError: the server refused the job, or the worker failed it; with the worker's text, if any.
            OutcomeUnknownError: the connection was lost before the end.

        """
        connection = await self._connected()
        foreground = Foreground(on_update)
        connection.core.submit(foreground.answer, job, foreground=True)
        await connection.until_done(foreground)
        return result_of(foreground, self.address)

    def call(self, job: Submission, answer: Callable[[Event], None]) -> None:
        """Submit a foreground job on the open connection, without waiting.

        Args:
            job: as for ``run``.
            answer: called with ``Created``, ``Refused`` or ``Unknown``. After ``Created``, it is called with
                each ``Update``, then with ``Finished``, or with ``Unknown`` if the connection was lost.

        Raises:
            UnreachableError: there is no connection.
            UsageError: a packet cannot carry the job.

        """
        connection = self._connection
        if connection is None or connection.transport is None:
            raise UnreachableError(f"there is no connection to Gearman server {self.address}")
        connection.core.submit(answer, job, foreground=True)
        if not connection.flush_due:  # usually many calls are made in one turn of the loop
            connection.flush()

    async def option(self, name: bytes) -> None:
        """Switch an option on for the open connection (``exceptions``).

        Raises:
            RefusedError: the server does not know the option.

        """
        await self._ask(1, lambda core, tag: core.option(tag, name))

    async def status(self, uniques: Sequence[bytes]) -> list[JobStatus]:
        """Ask the server about the jobs with these uniques, in one pipelined round trip.

        Raises:
            UnreachableError: there is no connection, or it was lost before all answers arrived.
            RefusedError: the server does not know the request.

        """

        def ask(core: ClientProtocol[Callable[[Event], None]], tag: Callable[[Event], None]) -> None:
            for unique in uniques:
                core.status_unique(tag, unique)

        return [answer for answer in await self._ask(len(uniques), ask) if isinstance(answer, JobStatus)]

    async def status_of(self, handle: bytes) -> JobStatus:
        """Ask the server about the job with this handle.

        Raises:
            UnreachableError: there is no connection, or it was lost before the answer arrived.

        """
        (answer,) = await self._ask(1, lambda core, tag: core.status(tag, handle))
        assert isinstance(answer, JobStatus)
        return answer

    async def statuses_of(self, handles: Sequence[bytes]) -> list[JobStatus]:
        """Ask the server about the jobs with these handles, in one pipelined trip. Raises as ``status``."""

        def ask(core: ClientProtocol[Callable[[Event], None]], tag: Callable[[Event], None]) -> None:
            for handle in handles:
                core.status(tag, handle)

        return [answer for answer in await self._ask(len(handles), ask) if isinstance(answer, JobStatus)]

    async def functions(self) -> dict[bytes, FunctionStatus]:
        """Return the server's counts per function (administrative ``status``). Raises as ``command``."""
        return parse_status(await self.command(b"status"))

    async def workers(self) -> list[ConnectedWorker]:
        """Return the server's connections (administrative ``workers``). Raises as ``command``."""
        return parse_workers(await self.command(b"workers"))

    async def command(self, text: bytes, *, block: bool = True) -> list[bytes]:
        """Send an administrative command on the same connection; return the line or lines of its answer.

        ``block``: whether the answer is a block of lines with a last line ``.``, or a single line.

        Raises:
            UnreachableError: there is no connection, or it was lost before the answer arrived.
            RefusedError: the server answered ``ERR``.

        """
        (answer,) = await self._ask(1, lambda core, tag: core.command(tag, text, block=block))
        assert isinstance(answer, Lines)
        return answer.lines

    async def echo(self) -> None:
        """Return when the server has carried out all earlier requests. Raises as ``status``."""
        await self._ask(1, lambda core, tag: core.echo(tag, b""))

    async def close(self) -> None:
        """Close the connection, if there is one. A later call opens a new one."""
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
                raise UnreachableError(f"Gearman server {self.address} {self._error} a moment ago")
            try:
                connection = await open_connection(
                    lambda: _ClientConnection(self._timeout, self._lost),
                    self._host,
                    self._port,
                    self._timeout,
                    self._tls,
                )
            except UnreachableError:
                self._avoid("was not reachable")
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
        elif connection is self._connection and not connection.silent:  # silence has delayed us already
            self._avoid("closed the connection before it answered")

    def _avoid(self, error: str) -> None:
        self._error = error
        self._retry_at = asyncio.get_running_loop().time() + self._backoff.failed()
