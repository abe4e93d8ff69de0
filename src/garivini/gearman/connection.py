"""A connection of the asyncio shell: a socket, and the protocol core that receives its data."""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import Final, TypeVar, cast

from garivini import events
from garivini.errors import ProtocolError, UnreachableError

#: Seconds between two checks of a connection for silence.
_TICK: Final = 1.0
#: Idle ticks after which an echo checks whether the peer still answers.
_HEARTBEAT_TICKS: Final = 15


class Connection(asyncio.Protocol):
    """A socket that sends the output of its core, passes received data to the core, and detects silence.

    Args:
        silence: seconds without an answer after which the connection is closed.

    """

    def __init__(self, silence: float) -> None:
        self._silence_ticks = max(2, round(silence / _TICK))
        self._quiet_ticks = 0
        self._loop = asyncio.get_running_loop()
        #: Whether ``flush`` has been called in this turn of the loop.
        self.flush_due: bool = False
        self._received: asyncio.Future[None] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport | None = None
        #: Whether the peer has sent an answer. An accepted connection proves little, because a proxy can
        #: accept it although the server does not run.
        self.answered: bool = False
        #: Whether the connection was closed because the peer was silent.
        self.silent: bool = False
        self.closed: asyncio.Event = asyncio.Event()

    def take(self) -> bytes:
        """Return the output of the core."""
        raise NotImplementedError

    def receive(self, data: bytes) -> bool:
        """Pass data to the core; return whether to write at the end of the loop's turn, not immediately."""
        raise NotImplementedError

    def due(self) -> int:
        """Return the number of answers that the core waits for."""
        raise NotImplementedError

    def echo(self) -> None:
        """Send a request that the peer answers immediately."""
        raise NotImplementedError

    def lose(self) -> None:
        """Report to the core that the connection was lost."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start: send the first output of the core."""
        self.transport = cast(asyncio.Transport, transport)  # other loops have other classes
        # Without this option small packets wait up to 40 ms for the peer's delayed ACK.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch = self._loop.call_later(_TICK, self._tick)
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Pass data to the core and send its answer."""
        self._quiet_ticks = 0
        try:
            later = self.receive(data)
        except ProtocolError as error:
            events.emit("gearman.protocol_error", error=str(error))
            self.abort()
            return
        if later:
            self.flush()
        else:
            self._flush()  # nothing else in this turn of the loop adds output
        self.wake()

    def connection_lost(self, error: Exception | None) -> None:
        """Report the loss to the core and to waiting coroutines."""
        if self._watch is not None:
            self._watch.cancel()
        self.transport = None
        self.lose()
        self.closed.set()
        self.wake()

    def flush(self) -> None:
        """Write all output at the end of this turn of the loop, in one piece."""
        if not self.flush_due and self.transport is not None:
            self.flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self.flush_due = False
        data = self.take()
        if data and self.transport is not None:
            self.transport.write(data)

    @property
    def unsent(self) -> bool:
        """Whether there is output that the operating system has not accepted yet."""
        return self.flush_due or bool(self.transport and self.transport.get_write_buffer_size())

    def abort(self) -> None:
        """Close immediately. Buffered output is dropped."""
        if self.transport is not None:
            self.transport.abort()

    async def close(self) -> None:
        """Write buffered output and close."""
        self._flush()
        if self.transport is not None:
            self.transport.close()
            await self.closed.wait()

    async def received(self) -> None:
        """Wait until data has arrived or the connection is lost."""
        if self._received is None:
            self._received = self._loop.create_future()
        await asyncio.shield(self._received)

    async def first_answer(self) -> None:
        """Wait until the peer has sent an answer, or the connection is lost."""
        while not self.answered and self.transport is not None:
            await self.received()

    def wake(self) -> None:
        """Continue the coroutines that wait in ``received``."""
        if self._received is not None:
            self._received.set_result(None)
            self._received = None

    def _tick(self) -> None:
        # Ticks are counted, not seconds: while this loop did not run, the silence of the peer proves nothing.
        self._quiet_ticks += 1
        if self.due():
            if self._quiet_ticks >= self._silence_ticks:
                self.silent = True
                events.emit("gearman.silent", seconds=self._quiet_ticks * _TICK)
                self.abort()
                return
        elif self._quiet_ticks >= _HEARTBEAT_TICKS:
            self._quiet_ticks = 0
            self.echo()
            self.flush()
        self._watch = self._loop.call_later(_TICK, self._tick)


_C = TypeVar("_C", bound=Connection)


async def open_connection(
    make: Callable[[], _C], host: str, port: int, timeout: float, tls: ssl.SSLContext | None
) -> _C:
    """Open a connection.

    Args:
        make: makes the connection; called when the socket is connected.
        host: the server's host.
        port: the server's port.
        timeout: maximum seconds to connect.
        tls: encrypts the connection; None: the connection is plain.

    Raises:
        UnreachableError: the server did not accept the connection in time.

    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            _, connection = await loop.create_connection(make, host, port, ssl=tls)
    except UnicodeError as error:  # a part of the name is empty or too long
        raise UnreachableError(f"Gearman server {host}:{port} cannot be reached: not a host name") from error
    except OSError as error:
        # asyncio adds its own words to the text of the error number. A TimeoutError has no errno.
        if isinstance(error, ssl.SSLError):
            reason = f"no TLS with it: {error.reason or error}"
        else:
            reason = os.strerror(error.errno) if error.errno else "no answer in time"
        raise UnreachableError(f"Gearman server {host}:{port} cannot be reached: {reason}") from error
    return connection
