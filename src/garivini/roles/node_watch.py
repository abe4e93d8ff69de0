"""Notices connections that reach several nodes of a Galera cluster."""

import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

from garivini import events
from garivini.store.database import Database

#: Seconds between two checks.
_INTERVAL: Final = 60.0


class NodeWatch:
    """Reports that connections reach several nodes, which is a fault, because each node has its own locks.

    Args:
        database: has the connections.
        call: runs a call of the database in its thread.
        monotonic: returns the monotonic time.

    """

    def __init__(
        self, database: Database, call: Callable[..., Awaitable[Any]], monotonic: Callable[[], float]
    ) -> None:
        self._database = database
        self._call = call
        self._monotonic = monotonic
        self._due = -math.inf
        #: The nodes at the last check. The same nodes are reported only once.
        self._nodes: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Check the nodes, if that is due."""
        now = self._monotonic()
        if now < self._due:
            return
        self._due = now + _INTERVAL
        nodes = await self._call(self._database.nodes)
        if len(nodes) > 1 and nodes != self._nodes:
            events.emit("database.several_nodes", dbid=self._database.dbid, nodes=", ".join(sorted(nodes)))
        self._nodes = nodes
