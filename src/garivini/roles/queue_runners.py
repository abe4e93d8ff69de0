"""The role of the QueueRunners: it runs a QueueRunner and a scheduler for each database."""

import asyncio
import ssl
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

from garivini import events
from garivini.gearman.aio import Client, Held, Worker
from garivini.model.pacing import WATERMARK
from garivini.roles.job_servers import JobServers
from garivini.roles.outbox import Outboxes
from garivini.roles.queue_runner import QueueRunner, QueueRunnerSettings
from garivini.roles.role_ids import queue_runner_id
from garivini.roles.runner import run_passes, run_role
from garivini.roles.scheduler import Schedulers
from garivini.store.database import Database
from garivini.submission import WAKE


class QueueRunners:
    """A role: a QueueRunner and a scheduler for each database.

    A job of ``garivini_wake`` starts the next pass of all QueueRunners.
    """

    #: Maximum seconds for the passes that are in progress when the role is stopped.
    drain_timeout: Final = 30.0

    def __init__(
        self,
        databases: Sequence[Database],
        addresses: Sequence[str],
        settings: QueueRunnerSettings,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Create the QueueRunners; this does no I/O."""
        self._servers = JobServers(
            addresses, remember=2 * (settings.watermark or WATERMARK), connect=partial(Client, tls=tls)
        )
        self._runners = [QueueRunner(database, self._servers, settings) for database in databases]
        self._stop = asyncio.Event()
        self._wakes = [asyncio.Event() for _ in databases]
        self._schedulers = Schedulers(databases, self._wakes)
        self._outboxes = Outboxes(databases, self._wakes)
        self._loops: list[asyncio.Task[None]] = []
        self.links: list[Worker] = [
            Worker(address, [WAKE.encode()], self._woken, client_id=queue_runner_id(), tls=tls)
            for address in addresses
        ]

    def _woken(self, held: Held) -> None:
        # The wake-up is completed before the pass. Otherwise the server would merge a wake-up that arrives
        # during the pass with this one, because both have the same unique, and no pass would follow.
        held.complete()
        for wake in self._wakes:
            wake.set()

    async def start(self) -> Iterable[asyncio.Task[None]]:
        """Start the passes of each QueueRunner."""
        self._loops = [
            asyncio.create_task(run_passes(runner, stop=self._stop, wake=wake))
            for runner, wake in zip(self._runners, self._wakes, strict=True)
        ]
        self._loops += [*self._schedulers.start(self._stop), *self._outboxes.start(self._stop)]
        return self._loops

    async def drain(self) -> None:
        """Wait for the passes that are in progress."""
        self._stop.set()
        await asyncio.wait(self._loops)

    async def give_up(self) -> None:
        """Report the passes that have not ended. The leases of jobs that they have claimed will expire."""
        left = sum(not loop.done() for loop in self._loops)
        events.emit("role.drain_incomplete", role="queue-runner", left=left, seconds=self.drain_timeout)

    async def close(self) -> None:
        """Close connections and end the database threads."""
        for runner in self._runners:
            runner.close()
        self._schedulers.close()
        self._outboxes.close()
        await self._servers.close()


async def serve(
    databases: Sequence[Database],
    addresses: Sequence[str],
    settings: QueueRunnerSettings,
    *,
    stop: asyncio.Event,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Run a QueueRunner for each database until ``stop`` is set."""
    await run_role(QueueRunners(databases, addresses, settings, tls=tls), stop)
