"""Finds the server that takes writes, among several that a URL of MariaDB or MySQL names."""

from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from itertools import zip_longest
from typing import Any, Final, NamedTuple
from zlib import crc32

from sqlalchemy import URL

from garivini.databases.urls import shown_value
from garivini.errors import UsageError

_PORT: Final = 3306
#: The code of a read-only server's error.
_READ_ONLY: Final = 1290


class ServerAddress(NamedTuple):
    """The address of a server."""

    host: str
    port: int


def servers_of(url: URL) -> list[ServerAddress]:
    """Return the servers that a URL names if it names several; otherwise an empty list.

    The forms are those of libpq: ``//user@one,two/jobs`` and ``//user@/jobs?host=one,two&port=3306,3307``.

    Raises:
        UsageError: the numbers of hosts and ports differ, or a port is not a number.

    """
    given = url.query.get("host", url.host or "")
    hosts = given.split(",") if isinstance(given, str) else list(given)
    if len(hosts) == 1:
        return []
    named = url.query.get("port", str(url.port or _PORT))
    ports = named.split(",") if isinstance(named, str) else list(named)
    if len(ports) not in (1, len(hosts)) or not all(hosts):
        raise UsageError(f"the URL has {len(hosts)} hosts and {len(ports)} ports: give one port, or one each")
    if not all(port.isascii() and port.isdigit() and 0 < int(port) < 65536 for port in ports):
        raise UsageError(f"port={shown_value(named)} in the URL: give numbers from 1 to 65535")
    return [ServerAddress(host, int(port)) for host, port in zip_longest(hosts, ports, fillvalue=ports[0])]


def takes_writes(connection: Any) -> bool:
    """Whether the server of a connection takes writes. One round trip."""
    with closing(connection.cursor()) as cursor:
        cursor.execute("SELECT @@GLOBAL.read_only")
        ((read_only,),) = cursor.fetchall()
    return read_only in (0, "OFF")


def incarnation_of(connection: Any, question: str) -> int:
    """Return the number of the server of a connection. One round trip. ``question``: reads its name."""
    with closing(connection.cursor()) as cursor:
        cursor.execute(question)
        ((found,),) = cursor.fetchall()
    return crc32(found if isinstance(found, bytes) else found.encode())


class PrimarySearch:
    """Connects to the first of several servers that takes writes. The server found last is asked first.

    Args:
        servers: in the order in which they are tried.
        connect: opens a connection of the driver.
        error: the class of the driver's errors of connections.

    """

    def __init__(
        self, servers: Sequence[ServerAddress], connect: Callable[..., Any], error: type[Exception]
    ) -> None:
        self._servers = list(servers)
        self._connect = connect
        self._error = error

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Return a connection. ``named``: arguments of the driver's ``connect``; host and port are replaced.

        Raises:
            Exception: the driver's error: no server accepts writes. If a read-only server answered, the code
                is that for read-only, because this server may soon accept writes. Otherwise it is the code of
                the first server's error.

        """
        codes, reasons = [], []
        for server in list(self._servers):
            connection = None
            try:
                connection = self._connect(*arguments, **{**named, **server._asdict()})
                if takes_writes(connection):
                    self._servers.sort(key=lambda other: other != server)
                    return connection
                codes.append(_READ_ONLY)
                reasons.append(f"{server.host}:{server.port} is read-only")
            except self._error as error:
                codes.append(error.args[0])
                reasons.append(f"{server.host}:{server.port}: {error.args[-1]}")
            if connection is not None:
                with suppress(Exception):  # the connection may have closed itself
                    connection.close()
        raise self._error(_READ_ONLY if _READ_ONLY in codes else codes[0], "; ".join(reasons))
