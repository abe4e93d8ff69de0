"""The Gearman servers of a client: connections, counts and submits. Blocking."""

import math
import ssl
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from garivini import events
from garivini.backoff import Backoff
from garivini.errors import GariviniError
from garivini.gearman import blocking
from garivini.gearman.admin import FunctionStatus
from garivini.gearman.protocol import Created, Refused, Submission, Unknown, Unsent
from garivini.gearman.requests import SubmitResult
from garivini.gearman.servers import Counts
from garivini.submission import WAKE, shares


@dataclass(slots=True)
class _Server:
    """The state of one server, which all threads share."""

    functions: dict[bytes, FunctionStatus] | None = None
    retry_at: float = 0.0  # monotonic
    backoff: Backoff = field(default_factory=lambda: Backoff(first=0.5, longest=10.0))


class ServerPool:
    """All Gearman servers of a client, and its connections to them. Safe for threads, and after a fork.

    Each call removes a set of connections from a pool, or creates a set, and puts it back at the end. So no
    two threads use the same connection, and no lock is needed. A fork could leave a lock locked.

    Args:
        addresses: ``host:port`` of each server.
        tls: encrypts the connections, if given.

    """

    #: Maximum seconds that a call waits for a server that does not answer.
    TIMEOUT: Final = 1.0

    def __init__(self, addresses: Sequence[str], tls: ssl.SSLContext | None) -> None:
        self._servers = {address: _Server() for address in addresses}
        self._tls = tls
        self._idle: deque[dict[str, blocking.Client]] = deque()
        #: Monotonic time of the last counts.
        self.counted_at: float = -math.inf

    @property
    def answered(self) -> bool:
        """Return whether a server answered at the last refresh and has not failed since."""
        return any(server.functions is not None for server in self._servers.values())

    def refresh_counts(self) -> None:
        """Read the counts of every server, except those that are avoided because they have failed."""
        now = time.monotonic()
        clients = self._borrow()
        for address, server in self._servers.items():
            if server.retry_at <= now:
                try:
                    server.functions = clients[address].functions()
                    server.backoff.succeeded()
                except GariviniError as error:
                    self._failed(address, error)
        self._idle.append(clients)
        self.counted_at = now

    def counts(self) -> Counts:
        """Return the jobs and workers of each server's functions as last read, by its address.

        None for a server that has not been read, or has failed since.
        """
        return {address: server.functions for address, server in self._servers.items()}

    def submit(self, jobs: Sequence[Submission]) -> list[SubmitResult]:
        """Submit background jobs, each to the server that its unique prefers; return their results."""
        results: list[SubmitResult] = [Unsent()] * len(jobs)
        clients = self._borrow()
        for address, indexes in shares(self.counts(), jobs).items():
            try:
                found = clients[address].submit([jobs[index] for index in indexes])
            except GariviniError as error:
                self._failed(address, error)
                continue
            if isinstance(found[-1], Unknown | Unsent):
                self._failed(address, None)  # the connection was lost before all answers
            for index, result in zip(indexes, found, strict=True):
                results[index] = result
        self._idle.append(clients)
        return results

    def wake(self) -> None:
        """Start the next pass of a QueueRunner immediately, through any server that answers."""
        # All wake-ups have the same unique, because one waiting wake-up is enough.
        job = Submission(WAKE.encode(), b"", unique=b"wake")
        clients = self._borrow()
        for address, server in self._servers.items():
            if server.retry_at > time.monotonic():
                continue
            try:
                (result,) = clients[address].submit([job])
            except GariviniError as error:
                self._failed(address, error)
                continue
            if isinstance(result, Created | Refused):
                server.backoff.succeeded()
                break
            self._failed(address, None)
        self._idle.append(clients)

    def _failed(self, address: str, error: GariviniError | None) -> None:
        """Avoid a server that has failed, for a longer time after each failure in a row."""
        server = self._servers[address]
        server.functions = None
        server.retry_at = time.monotonic() + server.backoff.failed()
        events.emit("gearman.unreachable", server=address, error=str(error or "no answer"))

    def _borrow(self) -> dict[str, blocking.Client]:
        try:
            return self._idle.pop()
        except IndexError:
            return {
                address: blocking.Client(address, timeout=self.TIMEOUT, tls=self._tls)
                for address in self._servers
            }

    def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        while self._idle:
            for client in self._idle.pop().values():
                client.close()
