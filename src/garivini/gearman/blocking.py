"""The blocking shell of the protocol: a client of one server, without threads or an event loop."""

import os
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from garivini.errors import ProtocolError, UnreachableError
from garivini.gearman.admin import ConnectedWorker, FunctionStatus, parse_status, parse_workers
from garivini.gearman.protocol import ClientProtocol, Event, JobStatus, Lines, Submission, Update
from garivini.gearman.requests import Answers, Batch, Foreground, SubmitResult, checked, result_of
from garivini.gearman.servers import parse_address

_Tag = Callable[[Event], None]
_READ: Final = 256 * 1024


class Client:
    """A client of one Gearman server. It connects at the first call, and again after the connection was lost.

    Only one thread at a time may use it. After a fork, the child opens its own connection.

    Args:
        address: ``host:port``.
        timeout: maximum seconds to connect, and to wait for an answer. Then the connection is closed.
        tls: encrypts the connection, which is plain without it. A server without TLS is not accepted.

    """

    def __init__(self, address: str, *, timeout: float = 10.0, tls: ssl.SSLContext | None = None) -> None:
        self.address: str = address
        self._host, self._port = parse_address(address)
        self._timeout = timeout
        self._tls = tls
        self._socket: socket.socket | None = None
        self._core: ClientProtocol[_Tag] = ClientProtocol()
        self._pid = os.getpid()

    def submit(self, jobs: Sequence[Submission]) -> list[SubmitResult]:
        """Submit background jobs, pipelined; return the result of each, in the same order.

        Raises:
            UnreachableError: there is no connection; nothing was sent.

        """
        self._connect()
        batch = Batch(jobs)
        while not batch.done and self._socket is not None:
            batch.write(self._core)
            self._exchange()
        return batch.results

    def run(self, job: Submission, *, on_update: Callable[[Update], None] | None = None) -> bytes:
        """Submit a foreground job and return its result. The timeout applies to each wait for data.

        Raises:
            UnreachableError: there is no connection; nothing was sent.
            RefusedError: the server refused the job, or the worker failed it.
            OutcomeUnknownError: the connection was lost or closed before the end.

        """
        self._connect()
        foreground = Foreground(on_update)
        self._core.submit(foreground.answer, job, foreground=True)
        while not foreground.done:
            self._exchange()
        return result_of(foreground, self.address)

    def status(self, uniques: Sequence[bytes]) -> list[JobStatus]:
        """Ask the server about the jobs with these uniques, in one pipelined round trip.

        Raises:
            UnreachableError: there is no connection, or it was lost before all answers arrived.

        """

        def ask(core: ClientProtocol[_Tag], tag: _Tag) -> None:
            for unique in uniques:
                core.status_unique(tag, unique)

        return [answer for answer in self._ask(len(uniques), ask) if isinstance(answer, JobStatus)]

    def status_of(self, handle: bytes) -> JobStatus:
        """Ask the server about the job with this handle.

        Raises:
            UnreachableError: there is no connection, or it was lost before the answer arrived.

        """
        (answer,) = self._ask(1, lambda core, tag: core.status(tag, handle))
        assert isinstance(answer, JobStatus)
        return answer

    def functions(self) -> dict[bytes, FunctionStatus]:
        """Return the server's counts per function (administrative ``status``). Raises as ``command``."""
        return parse_status(self.command(b"status"))

    def workers(self) -> list[ConnectedWorker]:
        """Return the server's connections (administrative ``workers``). Raises as ``command``."""
        return parse_workers(self.command(b"workers"))

    def command(self, text: bytes, *, block: bool = True) -> list[bytes]:
        """Send an administrative command on the same connection; return the line or lines of its answer.

        ``block``: whether the answer is a block of lines with a last line ``.``, or a single line.

        Raises:
            UnreachableError: there is no connection, or it was lost before the answer arrived.
            RefusedError: the server answered ``ERR``.

        """
        (answer,) = self._ask(1, lambda core, tag: core.command(tag, text, block=block))
        assert isinstance(answer, Lines)
        return answer.lines

    def echo(self) -> None:
        """Return when the server has carried out all earlier requests. Raises as ``status``."""
        self._ask(1, lambda core, tag: core.echo(tag, b""))

    def close(self) -> None:
        """Close the connection, if there is one. A later call opens a new one."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.close()
            self._socket = None
            for tag, event in self._core.lost():
                tag(event)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _ask(self, count: int, ask: Callable[[ClientProtocol[_Tag], _Tag], None]) -> list[Event]:
        self._connect()
        answers = Answers(count)
        ask(self._core, answers.answer)
        while not answers.done:
            self._exchange()
        return checked(answers.events, self.address)

    def _connect(self) -> None:
        if self._pid != os.getpid():
            # The connection is the parent's. Closing our copy of the descriptor does not affect it.
            self._pid = os.getpid()
            self.close()
        if self._socket is not None:
            return
        plain = None
        try:
            plain = socket.create_connection((self._host, self._port), self._timeout)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket = self._tls.wrap_socket(plain, server_hostname=self._host) if self._tls else plain
        except OSError as error:
            if plain is not None:
                plain.close()
            reason = error.strerror or "no answer in time"
            raise UnreachableError(f"Gearman server {self.address} cannot be reached: {reason}") from error
        self._core = ClientProtocol()

    def _exchange(self) -> None:
        """Write all output, read once, and pass the events on. After a loss, all requests end as unknown."""
        assert self._socket is not None
        try:
            data = self._core.data_to_send()
            if data:
                self._socket.sendall(data)
            received = self._socket.recv(_READ)
            for tag, event in self._core.receive(received):
                tag(event)
        except (OSError, ProtocolError):
            received = b""
        if not received:
            self.close()
