"""A worker of one Gearman server, for asyncio."""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

import msgspec

from garivini import events
from garivini.backoff import Backoff
from garivini.errors import UnreachableError
from garivini.gearman.connection import Connection, open_connection
from garivini.gearman.packets import Type
from garivini.gearman.protocol import Assigned, Rejected, WorkerProtocol
from garivini.gearman.servers import parse_address

#: Maximum notes of ended jobs that are kept per connection: more than the jobs in flight on it can be.
_MAX_NOTES: Final = 8192


class _WorkerConnection(Connection):
    answered: bool

    def __init__(self, silence: float, core: WorkerProtocol, on_job: Callable[["Held"], None]) -> None:
        super().__init__(silence)
        self.core = core
        #: The newest notes of ended jobs; see ``Held.complete``.
        self.notes: deque[Any] = deque(maxlen=_MAX_NOTES)
        #: The loop's time at which this connection replaced a lost one; None: it is the worker's first.
        self.reopened_at: float | None = None
        self._on_job = on_job

    def take(self) -> bytes:
        self.wake()  # continues ``drain``, once for all jobs that have ended in this turn of the loop
        return self.core.data_to_send()

    def receive(self, data: bytes) -> bool:
        assigned = False
        waiting = self.core.waiting
        found = self.core.receive(data)
        if not self.answered:
            self.answered = bool(found) or self.core.waiting < waiting
        for event in found:
            if isinstance(event, Assigned):
                self._on_job(Held(self, event))
                assigned = True
            else:
                _rejected(event)
        return assigned

    def due(self) -> int:
        return self.core.waiting

    def echo(self) -> None:
        # A grab is sent with the echo, in case a wake-up was lost. The echo is sent alone if no slot is free,
        # so the server always has something to answer.
        self.core.ask(again=True)
        self.core.echo()


def _rejected(event: Rejected) -> None:
    events.emit(
        "gearman.rejected", code=event.code.decode(errors="replace"), text=event.text.decode(errors="replace")
    )


# ``gc=False``: no connection refers to its ``Held`` objects, so they form no cycles, and the garbage
# collector need not visit one object per job.
class Held(msgspec.Struct, eq=False, gc=False):
    """A job that a server has assigned to this worker, bound to its connection.

    When the connection is lost, the server assigns the job to another worker, and after a restart it uses the
    same handles again. So the end of the job is reported on this connection or not at all.
    """

    _connection: _WorkerConnection
    job: Assigned

    @property
    def disconnected(self) -> bool:
        """Whether the connection was lost."""
        return self._connection.transport is None

    @property
    def reopened_at(self) -> float | None:
        """The loop's time (monotonic) at which this connection replaced a lost one. None: it is the first.

        A server sends the jobs of a lost connection again.
        """
        return self._connection.reopened_at

    def complete(self, data: bytes = b"", *, note: Any = None) -> bool:
        """Report success; return whether the connection still existed.

        ``note``: any value. When the connection is lost, ``on_lost`` gets it, because the server may not have
        received this report.
        """
        connection = self._connection
        if connection.transport is None:
            return False
        connection.core.complete(self.job.handle, data)
        if note is not None:
            connection.notes.append(note)
        if not connection.flush_due:  # usually many jobs end in one turn of the loop
            connection.flush()
        return True

    def fail(self, *, note: Any = None) -> bool:
        """Report failure; return whether the connection still existed. ``note``: as for ``complete``."""
        if self.disconnected:
            return False
        self._connection.core.fail(self.job.handle)
        if note is not None:
            self._connection.notes.append(note)
        self._connection.flush()
        return True

    def exception(self, data: bytes) -> None:
        """Report failure, with a text for clients that have asked for exceptions. No report may follow."""
        if not self.disconnected:
            self._connection.core.exception(self.job.handle, data)
            self._connection.flush()

    def refuse(self, reason: str) -> None:
        """Report failure, with a reason for every client, as a WORK_WARNING before the failure.

        For clients that have not asked for exceptions, gearmand turns a WORK_EXCEPTION into a failure with a
        handle that libgearman does not know: the ``gearman`` tool waits for ever, and Perl's client dies.
        """
        if not self.disconnected:
            # The ``gearman`` tool prints the reason without adding a line break.
            self._connection.core.report(
                self.job.handle, Type.WORK_WARNING, f"{reason}\n".encode(errors="replace")
            )
            self.fail()

    def report(self, kind: Type, *fields: bytes) -> None:
        """Send WORK_STATUS (numerator, denominator), WORK_DATA or WORK_WARNING (data)."""
        if not self.disconnected:
            self._connection.core.report(self.job.handle, kind, *fields)
            self._connection.flush()


class Worker:
    """A worker of one Gearman server. Its connection is reopened whenever it is lost.

    Args:
        address: ``host:port``.
        functions: names to register.
        on_job: called in the loop with each job that arrives; it must not block.
        slots: maximum jobs to hold: assigned and not finished.
        client_id: shown by the server's ``workers``.
        eager: whether a wake-up grabs as many jobs as arrived since the last one; see ``WorkerProtocol``.
        on_lost: called in the loop when a connection was lost or closed, with its newest notes of ended jobs.
        timeout: seconds of silence after which a connection is closed.
        tls: encrypts the connection, which is plain without it. A server without TLS is not accepted.

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
        on_lost: Callable[[Collection[Any]], None] = lambda notes: None,
        timeout: float = 10.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.address: str = address
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
        """Return the file descriptor of the open connection's socket, or None."""
        transport = self._connection.transport if self._connection is not None else None
        return None if transport is None else transport.get_extra_info("socket").fileno()

    @property
    def slots(self) -> int:
        """Maximum jobs to hold. 0 stops grabbing; after ``drain`` it stays 0."""
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
        """Stay connected until ``drain`` or ``abort`` is called."""
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
            self._on_lost(connection.notes)
            if not self._stopping:
                if connection.answered:
                    events.emit("gearman.lost", server=self.address)
                elif not unreachable:
                    unreachable = True
                    reason = f"Gearman server {self.address} closed the connection before it answered"
                    events.emit("gearman.unreachable", server=self.address, error=reason)
                await asyncio.sleep(backoff.failed())

    async def drain(self) -> None:
        """Grab no more jobs, wait for the end of those that are held or arriving, and close."""
        self.slots = 0
        self._stopping = True
        connection = self._connection
        if connection is None or connection.transport is None:
            return
        while connection.transport is not None and not connection.core.quiet:
            await connection.received()
        await connection.close()

    def abort(self) -> None:
        """Close immediately. The server assigns the held jobs to another worker."""
        self._stopping = True
        if self._connection is not None:
            self._connection.abort()

    def _make(self) -> _WorkerConnection:
        core = WorkerProtocol(
            self._functions, slots=self._slots, client_id=self._client_id, eager=self._eager
        )
        if not core.waiting:
            core.echo()  # because without a free slot, the core sends nothing else that the server answers
        connection = _WorkerConnection(self._timeout, core, self._on_job)
        if self._connection is not None:
            connection.reopened_at = asyncio.get_running_loop().time()
        return connection
