"""One connection of the asyncio shell: a socket, and the core of the protocol that it feeds."""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import Final, TypeVar, cast

from garivini import events
from garivini.errors import ProtocolError, UnreachableError

#: Seconds between two looks at a connection that may have gone silent.
_TICK: Final = 1.0
#: Ticks of idleness after which an echo asks whether the peer is still there.
_HEARTBEAT_TICKS: Final = 15


class Connection(asyncio.Protocol):
    """One socket: writes what its core has to send, feeds it what arrives, watches for silence."""

    def __init__(self, silence: float) -> None:
        self._silence_ticks = max(2, round(silence / _TICK))
        self._quiet_ticks = 0
        self._loop = asyncio.get_running_loop()
        #: Whether ``flush`` has been called in this turn of the loop.
        self.flush_due = False
        self._heard: asyncio.Future[None] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport | None = None
        #: Whether the peer has sent an answer. Accepting a connection proves little: a proxy does so too.
        self.answered = False
        #: Whether it was given up because the peer was silent.
        self.silent = False
        self.closed = asyncio.Event()

    def take(self) -> bytes:
        """Return what the core has to send."""
        raise NotImplementedError

    def receive(self, data: bytes) -> bool:
        """Feed the core; return whether something began that is to go before what there is to write."""
        raise NotImplementedError

    def due(self) -> int:
        """Return how many answers the core waits for."""
        raise NotImplementedError

    def echo(self) -> None:
        """Ask the peer for a sign of life."""
        raise NotImplementedError

    def lose(self) -> None:
        """Tell the core that the connection is gone."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start: send what there is to say."""
        self.transport = cast(asyncio.Transport, transport)  # other loops have classes of their own
        # Without it small packets wait up to 40 ms for the peer's delayed ACK.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch = self._loop.call_later(_TICK, self._tick)
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Feed the core and send its answer."""
        self._quiet_ticks = 0
        try:
            began = self.receive(data)
        except ProtocolError as error:
            events.emit("gearman.protocol_error", error=str(error))
            self.abort()
            return
        if began:
            self.flush()
        else:
            self._flush()  # at once: the answer to what has come waits for nothing else in this turn
        self.wake()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the core and those who wait."""
        if self._watch is not None:
            self._watch.cancel()
        self.transport = None
        self.lose()
        self.closed.set()
        self.wake()

    def flush(self) -> None:
        """Write what is to be sent at the end of this turn of the loop, in one piece."""
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
        """Whether there is something that the system has not taken yet."""
        return self.flush_due or bool(self.transport and self.transport.get_write_buffer_size())

    def abort(self) -> None:
        """Close at once; what is buffered is dropped."""
        if self.transport is not None:
            self.transport.abort()

    async def close(self) -> None:
        """Write what is buffered and close."""
        self._flush()
        if self.transport is not None:
            self.transport.close()
            await self.closed.wait()

    async def heard(self) -> None:
        """Wait until something has arrived or the connection is lost."""
        if self._heard is None:
            self._heard = self._loop.create_future()
        await asyncio.shield(self._heard)

    async def first_answer(self) -> None:
        """Wait until the peer has answered something, or the connection is lost."""
        while not self.answered and self.transport is not None:
            await self.heard()

    def wake(self) -> None:
        """Let those go on who wait in ``heard``."""
        if self._heard is not None:
            self._heard.set_result(None)
            self._heard = None

    def _tick(self) -> None:
        # Ticks are counted, not seconds: while this loop did not run the peer's silence proves nothing.
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
        make: makes it; called when the socket is there.
        host: of the server.
        port: of the server.
        timeout: seconds.
        tls: how to encrypt; None: not at all.

    Raises:
        UnreachableError: there is none in time.

    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            _, connection = await loop.create_connection(make, host, port, ssl=tls)
    except UnicodeError as error:  # a part of the name is empty or too long
        raise UnreachableError(f"Gearman server {host}:{port} cannot be reached: not a host name") from error
    except OSError as error:
        # asyncio words its own text around the number; a TimeoutError has none.
        if isinstance(error, ssl.SSLError):
            reason = f"no TLS with it: {error.reason or error}"
        else:
            reason = os.strerror(error.errno) if error.errno else "no answer in time"
        raise UnreachableError(f"Gearman server {host}:{port} cannot be reached: {reason}") from error
    return connection
