"""The asyncio shell of the protocol: a client and a worker, each of one Gearman server."""

from garivini.gearman.aio.client import Client
from garivini.gearman.aio.worker import Held, Worker

__all__ = ["Client", "Held", "Worker"]
