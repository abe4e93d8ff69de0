"""A way between a client and a server that a test can cut or stall."""

import asyncio
import socket
import struct
import threading
from contextlib import suppress

from tests.processes import PATIENCE

#: SO_LINGER on, for no seconds: what closes is reset.
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Passes bytes on between its own port and an address, in a thread with a loop of its own."""

    def __init__(self, target: str) -> None:
        self._host, _, self._port = target.rpartition(":")
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self.address = ""
        #: Connections that clients have opened so far.
        self.opened = 0
        #: Whether bytes of the connections that are open now are held back.
        self._stalled: set[asyncio.StreamWriter] = set()

    def reset(self) -> int:
        """Reset every connection, on both sides; return how many clients had one."""
        return asyncio.run_coroutine_threadsafe(self._reset(), self._loop).result(PATIENCE) // 2

    def point_to(self, target: str) -> None:
        """Lead new connections to another address. Those that are open stay as they are."""
        self._host, _, self._port = target.rpartition(":")

    def stall(self) -> None:
        """Pass nothing on any more over the connections that are open now, which stay open."""
        asyncio.run_coroutine_threadsafe(self._stall(), self._loop).result(PATIENCE)

    async def _stall(self) -> None:
        self._stalled |= self._writers

    async def _reset(self) -> int:
        # Of a pair one may have been closed, while the other direction is still open.
        writers = [it for it in self._writers if it.get_extra_info("socket").fileno() != -1]
        for writer in writers:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        return len(writers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, int(self._port))
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, far_writer}
        self._writers |= pair
        try:
            await asyncio.gather(self._pass_on(reader, far_writer), self._pass_on(far_reader, writer))
        finally:
            self._writers -= pair

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if writer not in self._stalled:
                    writer.write(data)
                    await writer.drain()
        writer.close()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _close(self) -> None:
        self._server.close()
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await self._reset()  # again: a connection may just be opened
            await asyncio.wait(tasks, timeout=0.05)

    def __enter__(self) -> "Proxy":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()
