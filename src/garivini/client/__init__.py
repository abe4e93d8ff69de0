"""The client of a queue: inserts jobs, reports their ends and reads them.

* ``client`` blocks; ``aio`` has the same calls for asyncio, and joins inserts that are made together.
* ``schedules``: their calls about schedules.
* ``direct`` submits new jobs right after their commit, to the servers of ``server_pool``.
"""

from garivini.client.client import Client

__all__ = ["Client"]
