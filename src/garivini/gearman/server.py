"""The embedded Gearman server: a broker with an asyncio shell, for one machine.

Gearman has no authentication, so the server listens on the loopback interface only. Its queues are in memory,
and are lost when the server ends.
"""

import asyncio
import errno
import ipaddress
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType
from typing import Final, Self, cast

import garivini
from garivini import events
from garivini.errors import ProtocolError, RefusedError, UsageError
from garivini.gearman.broker import Broker
from garivini.gearman.console import answer, is_command
from garivini.gearman.jobs import LIMITS, Connection, Limits
from garivini.gearman.listener import Listener
from garivini.gearman.packets import MAX_BODY, REQUEST, Decoder, Line, Packet

#: Bytes of unread output of a connection, above which its requests are not read.
UNREAD: Final = 1024 * 1024
#: Number of requests between two checks of the clock.
_REQUESTS: Final = 64
#: Maximum seconds for which one connection is served without a pause.
_TURN: Final = 0.05
#: Seconds between two checks for connections that do not read, or do not complete a request.
_TICK: Final = 1.0
#: First bytes of binary data, such as that of an encrypted connection. No text begins with one of these
#: bytes.
_BINARY: Final = frozenset({*range(1, 9), *range(14, 32), *range(127, 256)})


class Server:
    """A Gearman server in this process.

    Use it as ``async with Server(port=0) as server: ... server.address``, or call ``start`` and ``close``.

    Args:
        host: the address to listen on: a loopback address or ``localhost``.
        port: the port to listen on; 0: any free one.
        max_body: maximum bytes of a packet's body.
        job_retries: deaths of workers after which a job is dropped; 0: it is never dropped.
        max_unread: bytes of unread output after which a connection is closed. While about 1 MiB is unread,
            requests of the connection are not handled, but results of jobs that it waits for are added.
        limits: all limits. ``max_unread``, if it is given, replaces ``limits.unread``.

    Raises:
        UsageError: other machines can reach ``host``, or a number is out of its range.

    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 4730,
        *,
        max_body: int = MAX_BODY,
        job_retries: int = 3,
        max_unread: int | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        if not 0 <= port < 65536:
            raise UsageError(f"{port} is not a port")
        if job_retries < 0:
            raise UsageError(f"job_retries={job_retries}: it is a number of dead workers, or 0 for no limit")
        self._host = _loopback(host)
        self._port = port
        self._max_body = max_body
        self._limits = limits if max_unread is None else replace(limits, unread=max_unread)
        #: The connections that the broker knows.
        self._links: dict[Connection, _Link] = {}
        #: The connections that are not closed.
        self._open: set[_Link] = set()
        self._listener: Listener | None = None
        self._closed = asyncio.Event()
        self._watch: asyncio.TimerHandle | None = None
        #: Connections with unread output or an incomplete request.
        self._loaded: set[_Link] = set()
        #: Total bytes that the connections in ``_loaded`` hold.
        self._buffered = 0
        self._broker = Broker(
            _handle_prefix(),
            version=garivini.__version__.encode(),
            pid=os.getpid(),
            job_retries=job_retries,
            # No number repeats after a restart, because there are fewer jobs than microseconds.
            first=time.time_ns() // 1000,
            limits=self._limits,
        )

    @property
    def address(self) -> str:
        """The address that the server listens on, as ``host:port``. A port of 0 is replaced at the start."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port}"

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            RefusedError: the port is in use, or this process may not use it.
            UsageError: the server was started before.

        """
        if self._listener is not None:
            raise UsageError("this server was started before; make another one")
        try:
            self._listener = Listener(
                self._host,
                self._port,
                make=lambda: _Link(self),
                count=lambda: len(self._open),
                maximum=self._limits.connections,
            )
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            if error.errno == errno.EADDRINUSE:
                why = "another program listens there: end it, or choose another address"
            raise RefusedError(f"cannot listen on {self.address}: {why}") from error
        self._port = self._listener.port
        self._watch = asyncio.get_running_loop().call_later(_TICK, self._tick)

    async def close(self) -> None:
        """Stop listening and close every connection. Queued jobs are lost."""
        self._closed.set()
        if self._listener is not None:
            await self._listener.close()
        if self._watch is not None:
            self._watch.cancel()
        links = list(self._open)
        for link in links:
            link.abort()
        for link in links:
            await link.gone.wait()

    async def serve_forever(self) -> None:
        """Serve until ``close`` is called or this call is cancelled."""
        if self._listener is None:
            await self.start()
        try:
            await self._closed.wait()
        finally:
            await self.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _tick(self) -> None:
        """Close connections that do not read their output, or do not complete their request, in time."""
        # Ticks are counted, not seconds: while this loop did not run, no client could be served.
        for link in list(self._loaded):
            link.tick()
        self._watch = asyncio.get_running_loop().call_later(_TICK, self._tick)

    def _weigh(self, link: "_Link") -> None:
        """Count a connection's bytes. While all connections together hold too many, close the largest."""
        self._count(link)
        if self._buffered <= self._limits.buffered:
            return
        for each in list(self._loaded):
            self._count(each)  # the peer may have read output meanwhile
        while self._buffered > self._limits.buffered:
            max(self._loaded, key=lambda each: each.counted).drop("memory")

    def _count(self, link: "_Link") -> None:
        held = link.held
        self._buffered += held - link.counted
        link.counted = held
        if held:
            self._loaded.add(link)
        else:
            self._loaded.discard(link)


class _Link(asyncio.Protocol):
    """A connection: it decodes requests, writes answers, and limits unread output."""

    def __init__(self, server: Server) -> None:
        self.gone = asyncio.Event()
        #: Bytes that the server has counted for this connection.
        self.counted = 0
        self._server = server
        self._broker = server._broker
        self._loop = asyncio.get_running_loop()
        self._decoder = Decoder(REQUEST, lines=True, max_body=server._max_body)
        self._requests: Iterator[Packet | Line] = iter(())
        self._begun = False  # whether data has arrived
        self._full = False  # whether too much output is unread, so that its requests are not read
        self._resting = False  # whether other connections are served before its next request
        self._left = False  # removed from the broker
        self._aborted = False
        self._written = 0
        # For ``tick``: requests carried out; bytes read and requests at the last tick; ticks without change.
        self._served = 0
        self._seen = (0, 0)
        self._idle_ticks = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=UNREAD)
        number = transport.get_extra_info("socket").fileno()
        # If the peer has already closed the connection, the socket has no peer name.
        host = (transport.get_extra_info("peername") or ("-",))[0]
        self._connection = self._broker.join(number, host.encode())
        self._server._links[self._connection] = self
        self._server._open.add(self)
        if self._server._closed.is_set():
            self.abort()

    def data_received(self, data: bytes) -> None:
        self._requests = self._decoder.feed(data)
        if not self._begun:
            self._begun = True
            if data[0] in _BINARY:
                self._end(f"not a Gearman packet: it begins with {data[:4]!r}")
                return
        self._serve()

    def pause_writing(self) -> None:
        self._full = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._full = False
        if not self._resting:
            self._go_on()

    def eof_received(self) -> None:
        # As in gearmand, a half-closed connection counts as closed: other workers get its jobs.
        self._leave()

    def connection_lost(self, error: Exception | None) -> None:
        self._leave()
        self._aborted = True
        self._server._count(self)
        self._server._open.discard(self)
        if self._server._listener is not None:
            self._server._listener.freed()
        self.gone.set()

    def abort(self) -> None:
        """Close immediately."""
        self._aborted = True
        self._transport.abort()

    def drop(self, reason: str) -> None:
        """Close immediately, because the connection holds too much, or has been silent for too long."""
        events.emit("server.dropped", peer=self._connection.client_id.decode(errors="replace"), reason=reason)
        self.abort()
        self._leave()

    @property
    def held(self) -> int:
        """Bytes of the connection's unread output, and of its requests that are not carried out yet."""
        if self._aborted:
            return 0
        unread = self._transport.get_write_buffer_size()
        return unread if self._left else unread + self._decoder.buffered

    def tick(self) -> None:
        """Close the connection if its peer has not read output, or completed a request, for too long."""
        self._server._count(self)
        unread = self._transport.get_write_buffer_size()
        seen = (self._written - unread, self._served)
        moved = seen[0] != self._seen[0] if unread else seen[1] != self._seen[1]
        self._idle_ticks = 0 if moved or not self.held else self._idle_ticks + 1
        self._seen = seen
        if self._idle_ticks * _TICK > self._server._limits.patience:
            self.drop("silence")

    def _serve(self) -> None:
        """Execute the received requests, while the peer reads and its turn lasts."""
        try:
            done = self._carry_out()
        except ProtocolError as error:
            self._end(str(error))
            return
        self._flush()
        if self._left:
            return
        if not done and not self._full:
            self._resting = True
            self._transport.pause_reading()
            self._loop.call_soon(self._after_rest)
        if self.counted or self._decoder.buffered:
            self._server._weigh(self)

    def _carry_out(self) -> bool:
        """Carry out requests for one turn; return whether all received requests are done."""
        broker, connection = self._broker, self._connection
        until = self._loop.time() + _TURN
        left = _REQUESTS
        for request in self._requests:
            self._served += 1
            if isinstance(request, Packet):
                broker.receive(connection, request)
            else:
                broker.send(connection, answer(broker, request.text))
                if not is_command(request.text):
                    self._close()
                    return True
            # A short request can have a long answer, which the peer must read before the next answer is made.
            if connection.unsent > UNREAD:
                return False
            left -= 1
            if not left:
                if self._loop.time() > until:
                    return False
                left = _REQUESTS
        return True

    def _after_rest(self) -> None:
        self._resting = False
        if not self._full:
            self._go_on()

    def _go_on(self) -> None:
        if not self._left:
            self._serve()
            if not (self._full or self._resting):
                self._transport.resume_reading()

    def _end(self, reason: str) -> None:
        """Report the error in the input, and close."""
        self._broker.refuse(self._connection, b"INVALID_PACKET", reason.encode())
        self._close()

    def _close(self) -> None:
        """Write the pending output, and close. Later input is not read."""
        self._flush()
        self._requests = iter(())
        self._transport.close()
        self._leave()  # immediately, without waiting until the peer has read its last answers

    def _leave(self) -> None:
        if self._left:
            return
        self._left = True
        self._broker.leave(self._connection)
        self._server._links.pop(self._connection, None)
        self._flush()
        self._server._count(self)

    def _flush(self) -> None:
        """Write the output of every connection, with one write each."""
        for connection, data in self._broker.outgoing():
            link = self._server._links.get(connection)
            if link is None:
                continue
            if connection.overflowed:
                link.drop("unread")
            else:
                link._write(data)

    def _write(self, data: bytes) -> None:
        if self._transport.get_write_buffer_size() > self._server._limits.unread:
            self.drop("unread")
            return
        self._transport.write(data)
        self._written += len(data)
        if self._transport.get_write_buffer_size():
            self._server._weigh(self)


def _loopback(host: str) -> str:
    """Return the address to listen on.

    Raises:
        UsageError: other machines could reach the address.

    """
    try:
        # Only one address of localhost: with port 0, each address would get another port.
        address = socket.gethostbyname(host) if host == "localhost" else host
        safe = ipaddress.ip_address(address).is_loopback
    except (ValueError, OSError):
        safe = False
    if not safe:
        raise UsageError(f"cannot listen on {host!r}: Gearman has no authentication, use 127.0.0.1 or ::1")
    return address


def _handle_prefix() -> bytes:
    """Return a prefix for handles, of at most 42 bytes. A handle, prefix and number, may have 63 bytes."""
    name = socket.gethostname().encode("ascii", "replace")[:40]
    host = bytes(byte if chr(byte).isalnum() or byte in b"-._" else ord("_") for byte in name)
    return b"H:" + host
