"""The listening socket of the embedded server: accepts connections up to a limit.

If there is no free file descriptor, the listener of asyncio retries once per entry of its backlog, and logs
each failure. This listener pauses instead.
"""

import asyncio
import errno
import resource
import socket
from collections.abc import Callable
from typing import Final

from garivini import events

#: Maximum connections accepted per turn of the loop, so that existing connections are served in between.
_PER_TURN: Final = 64
#: Seconds until a server without room for connections tries to accept again.
_PAUSE: Final = 1.0
#: Seconds between two events of the same kind.
_QUIET: Final = 60.0
#: File descriptors that are reserved for the rest of the process.
_SPARE: Final = 64
_BACKLOG: Final = 1024
_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    """Listens on one address.

    Args:
        host: the address.
        port: the port; 0: any free one.
        make: makes the protocol of a connection.
        count: returns the number of connections.
        maximum: maximum connections; fewer if the process has a lower limit of file descriptors.

    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        make: Callable[[], asyncio.Protocol],
        count: Callable[[], int],
        maximum: int,
    ) -> None:
        """Begin to listen.

        Raises:
            OSError: the address is in use, or this process may not use it.

        """
        self._loop = asyncio.get_running_loop()
        self._make = make
        self._count = count
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if descriptors != resource.RLIM_INFINITY:
            maximum = min(maximum, max(descriptors - _SPARE, descriptors // 2))
        self._maximum = maximum
        self._opening: set[asyncio.Task[object]] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._emitted_at = -_QUIET  # the loop's time
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, port))
            self._socket.listen(_BACKLOG)
        except OSError:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]
        self._loop.add_reader(self._socket, self._accept)

    async def close(self) -> None:
        """Stop listening. Accepted connections stay open."""
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket)
        self._socket.close()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        await asyncio.gather(*self._opening, return_exceptions=True)

    def freed(self) -> None:
        """Accept connections again if the listener has paused. Call this when a connection was closed."""
        if self._retry is not None:
            self._retry.cancel()
            self._resume()

    @property
    def _connections(self) -> int:
        return self._count() + len(self._opening)

    def _accept(self) -> None:
        for _ in range(_PER_TURN):
            if self._connections >= self._maximum:
                return self._pause(f"{self._maximum} connections are the limit")
            try:
                plain, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return None
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                return self._pause(error.strerror or str(error))
            plain.setblocking(False)
            task = self._loop.create_task(self._open(plain))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
        return None

    async def _open(self, plain: socket.socket) -> None:
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(self._make, plain)
        except OSError:
            plain.close()  # the peer has already closed it

    def _pause(self, reason: str) -> None:
        self._loop.remove_reader(self._socket)
        self._retry = self._loop.call_later(_PAUSE, self._resume)
        if self._loop.time() - self._emitted_at >= _QUIET:
            self._emitted_at = self._loop.time()
            events.emit("server.full", connections=self._connections, reason=reason)

    def _resume(self) -> None:
        self._retry = None
        self._loop.add_reader(self._socket, self._accept)
