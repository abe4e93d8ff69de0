"""The embedded Gearman server: a broker behind asyncio, for one machine.

Gearman has no authentication, so it listens on the loopback interface and nowhere else. Its queue is in
memory and ends with it.
"""

import asyncio
import errno
import ipaddress
import os
import secrets
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self, cast

import garivini
from garivini.errors import ProtocolError, RefusedError, UsageError
from garivini.gearman.broker import Broker
from garivini.gearman.console import answer
from garivini.gearman.jobs import Connection
from garivini.gearman.packets import MAX_BODY, REQUEST, Decoder, Line, Packet

#: Bytes of output that a connection may leave unread before no more of its requests are read.
UNREAD: Final = 1024 * 1024


class Server:
    """A Gearman server in this process.

    Use it as ``async with Server(port=0) as server: ... server.address``, or call ``start`` and ``close``.

    Args:
        host: where to listen: a loopback address or ``localhost``.
        port: where to listen; 0: any free port.
        max_body: bytes of a packet's body, at most.
        job_retries: deaths of workers after which a job is dropped; 0: it is never dropped.
        max_unread: bytes of output that a connection may leave unread before it is closed. What it asked
            for itself stops at about 1 MiB; results of other connections' work do not wait for it.

    Raises:
        UsageError: ``host`` is not of this machine alone, or a number is out of its range.

    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 4730,
        *,
        max_body: int = MAX_BODY,
        job_retries: int = 3,
        max_unread: int = 4 * MAX_BODY,
    ) -> None:
        if not 0 <= port < 65536:
            raise UsageError(f"{port} is not a port")
        if job_retries < 0:
            raise UsageError(f"job_retries={job_retries}: it is a number of dead workers, or 0 for no limit")
        self._host = _loopback(host)
        self._port = port
        self._max_body = max_body
        self._max_unread = max_unread
        self._links: dict[Connection, _Link] = {}
        self._listener: asyncio.Server | None = None
        self._closed = asyncio.Event()
        self._broker = Broker(
            _handle_prefix(), version=garivini.__version__.encode(), pid=os.getpid(), job_retries=job_retries
        )

    @property
    def address(self) -> str:
        """Where it listens, as ``host:port``. A port of 0 is resolved once it has started."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port}"

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            RefusedError: the port is taken, or may not be used by this process.
            UsageError: the server was started before.

        """
        if self._listener is not None:
            raise UsageError("this server was started before; make another one")
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(
                lambda: _Link(self), self._host, self._port, backlog=1024
            )
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)  # asyncio's has many words
            if error.errno == errno.EADDRINUSE:
                why = "another program listens there; end it, or choose another address"
            raise RefusedError(f"cannot listen on {self.address}: {why}") from error
        self._port = self._listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and close every connection. What is queued is gone."""
        self._closed.set()
        if self._listener is not None:
            self._listener.close()
        links = list(self._links.values())
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


class _Link(asyncio.Protocol):
    """One connection: bytes to requests, answers to bytes, and a bound on what is left unread."""

    def __init__(self, server: Server) -> None:
        self.gone = asyncio.Event()
        self._server = server
        self._broker = server._broker
        self._decoder = Decoder(REQUEST, lines=True, max_body=server._max_body)
        self._requests: Iterator[Packet | Line] = iter(())
        self._full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=UNREAD)
        number = transport.get_extra_info("socket").fileno()
        # The other end may be gone already; then there is no name of it.
        host = (transport.get_extra_info("peername") or ("-",))[0]
        self._connection = self._broker.join(number, host.encode())
        self._server._links[self._connection] = self
        if self._server._closed.is_set():
            self.abort()

    def data_received(self, data: bytes) -> None:
        self._requests = self._decoder.feed(data)
        self._serve()

    def pause_writing(self) -> None:
        self._full = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._full = False
        self._serve()
        if not self._full:
            self._transport.resume_reading()

    def eof_received(self) -> None:
        # As gearmand does: who only half closes is gone at once, its jobs go to other workers.
        self._leave()

    def connection_lost(self, error: Exception | None) -> None:
        self._leave()
        self.gone.set()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def _serve(self) -> None:
        """Carry out the requests that have come, as far as the other end reads its answers."""
        broker, connection = self._broker, self._connection
        try:
            for request in self._requests:
                if isinstance(request, Packet):
                    broker.receive(connection, request)
                else:
                    broker.send(connection, answer(broker, request.text))
                # A short request can have a long answer: see that it is read before making the next one.
                if connection.unsent > UNREAD:
                    self._flush()
                    if self._full:
                        return
        except ProtocolError as error:
            broker.refuse(connection, b"INVALID_PACKET", str(error).encode())
            self._flush()
            self._transport.close()
            self._leave()  # now, and not when the other end has read its last answers
        finally:
            self._flush()

    def _leave(self) -> None:
        self._broker.leave(self._connection)
        self._server._links.pop(self._connection, None)
        self._flush()

    def _flush(self) -> None:
        """Write what there is to every connection: one write each, however many answers."""
        for connection, data in self._broker.outgoing():
            self._server._links[connection]._write(data)

    def _write(self, data: bytes) -> None:
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > self._server._max_unread:
            self._transport.abort()


def _loopback(host: str) -> str:
    """Return the address to listen on.

    Raises:
        UsageError: other machines could reach it.

    """
    try:
        # One address of localhost and not all of them: with port 0 each would get another port.
        address = socket.gethostbyname(host) if host == "localhost" else host
        safe = ipaddress.ip_address(address).is_loopback
    except (ValueError, OSError):
        safe = False
    if not safe:
        raise UsageError(f"will not listen on {host!r}: Gearman has no authentication, use 127.0.0.1 or ::1")
    return address


def _handle_prefix() -> bytes:
    """Return a prefix for handles of at most 40 bytes, another one at each start."""
    name = socket.gethostname().encode("ascii", "replace")[:24]
    host = bytes(byte if chr(byte).isalnum() or byte in b"-._" else ord("_") for byte in name)
    return b"H:%s:%s" % (host, secrets.token_hex(6).encode())
