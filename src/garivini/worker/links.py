"""The connections of a worker to Gearman servers, and the number of jobs that each may hold."""

from collections.abc import Callable, Iterable
from typing import TypeAlias

from garivini.gearman.aio import Held, Worker
from garivini.model.pacing import next_prefetch

#: Makes a connection to the server at an address, for the functions of these names. The connection is not
#: opened yet. The last argument receives each job that arrives.
Connect: TypeAlias = Callable[[str, list[bytes], Callable[[Held], None]], Worker]


class Links:
    """The connections for one kind of function, one per Gearman server.

    Args:
        slots: number of jobs that each connection may hold besides those that are being committed.

    """

    def __init__(self, slots: int) -> None:
        self.slots: int = slots
        #: Whether to request jobs ahead. If not, each connection holds one job.
        self.prefetches: bool = True
        #: The connections, one per server.
        self.connections: list[Worker] = []
        #: The number of jobs that have run, counted by the thread that runs them.
        self.ran: int = 0
        self._settled = 0
        self._paused = False

    def add(
        self,
        addresses: Iterable[str],
        functions: Iterable[bytes],
        on_job: Callable[[Held], None],
        connect: Connect,
    ) -> None:
        """Add a connection per server for these functions, if there are any. It is not opened yet."""
        names = list(functions)
        if names:
            self.connections += [connect(address, names, on_job) for address in addresses]
        self.offer()

    def settle(self, jobs: int) -> None:
        """Count jobs whose outcome is committed."""
        self._settled += jobs
        if not self._paused:
            self.offer()

    def offer(self) -> None:
        """Offer the free slots to the servers. A job that is being committed takes no slot."""
        self._paused = False
        self._set(self.slots + self.ran - self._settled)

    def prefetch(self, seconds: float) -> None:
        """Offer the number of slots that suits jobs that take this many seconds each."""
        self.slots = next_prefetch(self.slots, seconds) if self.prefetches else 1
        self.offer()

    def pause(self) -> None:
        """Request no more jobs until the next offer."""
        self._paused = True
        self._set(0)

    def _set(self, slots: int) -> None:
        for connection in self.connections:
            connection.slots = slots
