"""A connection of psycopg's with a time limit for each answer. Imported only if PostgreSQL is used."""

import select
from collections.abc import Generator
from typing import Any, Final, Self, TypeVar

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.rows import tuple_row
from psycopg.waiting import Ready, Wait

from garivini.store.rows import decode

_R = TypeVar("_R")

#: The events to poll for, by psycopg's names, and psycopg's names of the events that have come.
_ASKED: Final = {
    Wait.R: select.POLLIN,
    Wait.W: select.POLLOUT,
    Wait.RW: select.POLLIN | select.POLLOUT,
}
_READY: Final = {select.POLLIN: Ready.R, select.POLLOUT: Ready.W, select.POLLIN | select.POLLOUT: Ready.RW}


class _AnyText(Loader):
    """Reads text of a database of encoding SQL_ASCII, which does not check it."""

    def load(self, data: Buffer) -> str:
        """Return the text of these bytes."""
        return decode(bytes(data))


def read_any_text(cursor: Any) -> None:
    """Let a cursor read texts that are not UTF-8."""
    for name in ("text", "varchar", "bpchar", "name"):
        cursor.adapters.register_loader(name, _AnyText)


class NoAnswer(psycopg.OperationalError):
    """The server has sent nothing for too long. The connection is closed."""


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """Closes itself if the server is silent for longer than ``read_timeout`` seconds.

    libpq has no such limit, and the timeouts of TCP do not detect a frozen server, whose kernel still
    answers.
    """

    read_timeout: float | None = None

    @classmethod
    def connect(cls, conninfo: str = "", *, read_timeout: float | None = None, **named: Any) -> Self:  # type: ignore[override]
        """Connect as psycopg does, in ``connect_timeout``. ``read_timeout`` limits each later answer."""
        connection = super().connect(conninfo, row_factory=tuple_row, **named)
        connection.read_timeout = read_timeout
        return connection

    def wait(self, gen: Generator[Any, Any, _R], *_: Any, **__: Any) -> _R:
        """Run a generator of psycopg's, which yields events to wait for and receives those that occur."""
        limit = None if self.read_timeout is None else self.read_timeout * 1000
        poll = select.poll()
        try:
            asked = next(gen)
            while True:
                poll.register(self.pgconn.socket, _ASKED[asked])
                if not (found := poll.poll(limit)):
                    raise NoAnswer(f"no answer for {self.read_timeout:g} s")
                # psycopg finds an error or the end of the connection by trying.
                asked = gen.send(_READY.get(found[0][1], Ready.RW))
        except StopIteration as end:
            result: _R = end.value
            return result
        except (NoAnswer, KeyboardInterrupt, SystemExit):
            gen.close()
            self.close()  # because a late answer would count as that of the next statement
            raise
