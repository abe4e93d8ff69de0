"""Notices that a server takes no writes any more, as after a switchover, and reports it."""

import time
from collections.abc import MutableMapping
from typing import Any, Final

from garivini import events
from garivini.errors import GariviniError, UnreachableError
from garivini.store.dialects.dialect import Dialect

#: Seconds after a check for which a connection for reads counts as a connection to the primary.
_CHECK_INTERVAL: Final = 0.5
#: The monotonic time of the last check, among what a pool stores with a connection.
_CHECKED: Final = "garivini_checked"


class WriteAccess:
    """Whether the server of a database takes writes.

    After a switchover, connections to the former primary stay open. Writes on them fail. Reads do not fail:
    they return rows that are out of date, and a QueueRunner that finds nothing due there would never write.

    Args:
        dbid: of the database.
        where: names the database in messages.
        dialect: asks the server.

    """

    def __init__(self, dbid: int, where: str, dialect: Dialect) -> None:
        self._dbid = dbid
        self._where = where
        self._dialect = dialect
        #: Whether writes were refused, and none has succeeded since.
        self.refused: bool = False

    def opened(self, info: MutableMapping[Any, Any]) -> None:
        """Note the time of a connection's first use. ``info``: the pool's data about it."""
        info.setdefault(_CHECKED, time.monotonic())

    def check(self, connection: Any, info: MutableMapping[Any, Any]) -> None:
        """Make sure, twice per second, that a connection for reads leads to a server that takes writes.

        A new connection is used as it is: if no other server can be reached, reads go on.

        Args:
            connection: the driver's.
            info: the data that the pool stores with the connection.

        Raises:
            UnreachableError: the server takes no writes. Another connection may lead to one that does.

        """
        now = time.monotonic()
        if now - info[_CHECKED] < _CHECK_INTERVAL:
            return
        if not self._dialect.takes_writes(connection):
            error = UnreachableError(f"{self._where} takes no writes: its server is read-only now")
            error.read_only = error.transient = True
            raise error
        info[_CHECKED] = now
        if self.refused:
            self.granted()

    def lost(self, error: GariviniError) -> None:
        """Report the first of several errors of a server that takes no writes."""
        if isinstance(error, UnreachableError) and error.read_only and not self.refused:
            self.refused = True
            events.emit("database.read_only", dbid=self._dbid, error=str(error))

    def granted(self) -> None:
        """Report that a server takes writes again."""
        self.refused = False
        events.emit("database.writable", dbid=self._dbid)
