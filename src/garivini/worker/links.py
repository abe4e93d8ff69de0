"""The connections of a worker to Gearman servers, and the number of jobs that each may hold."""

import ssl
from collections.abc import Callable, Collection, Iterable
from typing import Any

from garivini.gearman import aio
from garivini.model.pacing import next_prefetch


class Links:
    """The connections for one kind of function, one per Gearman server.

    Args:
        slots: number of jobs that each connection may hold besides those that are being committed.

    """

    def __init__(self, slots: int) -> None:
        self.slots: int = slots
        #: The connections.
        self.connections: list[aio.Worker] = []
        #: Jobs that have run. The thread that runs them counts them.
        self.ran: int = 0
        self._settled = 0
        self._paused = False

    def add(
        self,
        addresses: Iterable[str],
        functions: Iterable[bytes],
        on_job: Callable[[aio.Held], None],
        *,
        client_id: bytes,
        on_lost: Callable[[Collection[Any]], None],
        tls: ssl.SSLContext | None,
    ) -> None:
        """Add a connection per server for these functions, if there are any. None is opened yet."""
        names = list(functions)
        if names:
            self.connections += [
                aio.Worker(address, names, on_job, client_id=client_id, on_lost=on_lost, tls=tls)
                for address in addresses
            ]
        self.offer()

    def settle(self, jobs: int) -> None:
        """Count jobs whose outcome is committed."""
        self._settled += jobs
        if not self._paused:
            self.offer()

    def offer(self) -> None:
        """Offer the free slots to the servers. A job that is being committed does not take one."""
        self._paused = False
        self._set(self.slots + self.ran - self._settled)

    def prefetch(self, seconds: float) -> None:
        """Offer as many slots as suit jobs that take this time."""
        self.slots = next_prefetch(self.slots, seconds)
        self.offer()

    def pause(self) -> None:
        """Request no more jobs until the next offer."""
        self._paused = True
        self._set(0)

    def _set(self, slots: int) -> None:
        for connection in self.connections:
            connection.slots = slots
