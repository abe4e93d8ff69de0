"""One end of a Gearman connection for tests: blocking, and with no more protocol than the packets."""

import itertools
import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from garivini.gearman.packets import REQUEST, RESPONSE, Decoder, Line, Packet, Type, encode
from tests.processes import PATIENCE

#: What a test compares with: name of the type, then the fields.
Said = tuple[Any, ...]


class Peer:
    """A socket to a server, as a client, a worker or an administrator."""

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._decoder = Decoder(RESPONSE, lines=True)
        self._come: list[Packet | Line] = []
        self._tokens = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. The server hears of it a little later."""
        self.socket.close()

    def send(self, kind: Type, *fields: bytes) -> Self:
        """Send a packet and do not wait."""
        return self.raw(encode(REQUEST, kind, *fields))

    def raw(self, data: bytes) -> Self:
        """Send bytes and do not wait."""
        self.socket.sendall(data)
        return self

    def _next(self) -> Packet | Line:
        while not self._come:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError("the server closed the connection")
            self._come.extend(self._decoder.feed(data))
        return self._come.pop(0)

    def hear(self) -> Said:
        """Wait for the next packet."""
        item = self._next()
        assert isinstance(item, Packet), item
        return (item.type.name, *item.fields)

    def ask(self, kind: Type, *fields: bytes) -> Said:
        """Send a packet and wait for the next one to come."""
        return self.send(kind, *fields).hear()

    def settle(self) -> Self:
        """Wait until the server has done what was sent so far; nothing else may come until then.

        A server runs the requests of a connection in order, so an echo shows it without any sleep.
        """
        token = b"settle %d" % next(self._tokens)
        assert self.ask(Type.ECHO_REQ, token) == ("ECHO_RES", token)
        return self

    def ended(self) -> list[Said]:
        """Wait until the server closes the connection; return what came before."""
        said = []
        try:
            while True:
                said.append(self.hear())
        except (EOFError, ConnectionResetError):
            return said

    # ---- jobs

    def submit(self, kind: Type, function: bytes, unique: bytes = b"", data: bytes = b"") -> bytes:
        """Submit a job and return its handle."""
        answer = self.ask(kind, function, unique, data)
        assert answer[0] == "JOB_CREATED", answer
        handle: bytes = answer[1]
        return handle

    def can_do(self, *functions: bytes) -> Self:
        """Register functions and wait until that is done."""
        for function in functions:
            self.send(Type.CAN_DO, function)
        return self.settle()

    def grab(self) -> tuple[bytes, bytes]:
        """Take a job; return handle and data, both empty if there is none."""
        answer = self.ask(Type.GRAB_JOB_UNIQ)
        if answer[0] == "NO_JOB":
            return b"", b""
        assert answer[0] == "JOB_ASSIGN_UNIQ", answer
        return answer[1], answer[4]

    def called(self, client_id: bytes) -> Self:
        """Give the connection an id and wait until the server has it."""
        return self.send(Type.SET_CLIENT_ID, client_id).settle()

    # ---- administrative lines

    def line(self, text: bytes) -> bytes:
        """Send a command and wait for one line."""
        return self.raw(text + b"\r\n").text()

    def text(self) -> bytes:
        """Wait for the next line."""
        item = self._next()
        assert isinstance(item, Line), item
        return item.text

    def lines(self, text: bytes) -> list[bytes]:
        """Send a command and wait for the lines before the closing ``.``."""
        lines = [self.line(text)]
        while lines[-1] != b".":
            lines.append(self.text())
        return lines[:-1]

    def status(self, function: bytes) -> tuple[int, int, int]:
        """Return total, running and workers of a function; zeros where the server does not know it."""
        for line in self.lines(b"status"):
            name, *numbers = line.split(b"\t")
            if name == function:
                total, running, workers = map(int, numbers)
                return total, running, workers
        return 0, 0, 0

    def until_gone(self, client_id: bytes) -> None:
        """Wait until the server has noticed that the connection of this id is closed."""
        self.until(lambda admin: not any(line.split()[2] == client_id for line in admin.lines(b"workers")))

    def until(self, seen: Callable[["Peer"], bool]) -> None:
        """Ask until ``seen`` is true, for what the server does at a time of its own: noticing a close."""
        deadline = time.monotonic() + PATIENCE
        while not seen(self):
            assert time.monotonic() < deadline, "the server has not done it"
