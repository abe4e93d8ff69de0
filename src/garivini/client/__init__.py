"""The client of a queue: inserts jobs, reports their ends and reads them.

* ``client`` blocks; ``aio`` has the same calls for asyncio, and commits concurrent inserts together.
* ``reads`` has the calls of both that read jobs; ``functions``: those that pause and resume a function.
* ``bulk`` and ``aio_bulk``: their calls for all jobs that match a query.
* ``waiting``: their calls that wait for the end of a job.
* ``schedules`` and ``batches``: their calls about these.
* ``direct`` submits new jobs right after their commit, to the servers of ``server_pool``.
* ``late_outcomes`` writes outcomes. After a failover, outcomes whose rows belong to other jobs are dropped.
"""

from garivini.client.client import Client

__all__ = ["Client"]
