"""Uses a caller's own connection, so that a job is inserted in the caller's own transaction."""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeGuard, Union

from sqlalchemy import Connection, event
from sqlalchemy.engine import CursorResult

from garivini.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session


class DriverConnection(Protocol):
    """A connection of a database driver (DB-API), or Django's."""

    def cursor(self) -> Any:
        """Return a new cursor."""

    def commit(self) -> Any:
        """Commit the transaction."""


# The ORM and asyncio are slow to import, so their types are only named here.
#: A connection in whose transaction a job can be inserted.
Joinable: TypeAlias = Union[Connection, "Session", DriverConnection]
#: A connection in whose transaction an ``AsyncClient`` can insert a job.
AsyncJoinable: TypeAlias = Union[Joinable, "AsyncConnection", "AsyncSession"]


class Cursor(Protocol):
    """The part of a driver's cursor that statements need."""

    @property
    def description(self) -> Any:
        """None if the last statement returns no rows."""

    @property
    def rowcount(self) -> int:
        """The number of rows that the last statement changed."""

    @property
    def lastrowid(self) -> int | None:
        """An id of the last INSERT: on MySQL its first new id, on SQLite its last."""

    def execute(self, text: str, values: Sequence[Any], /) -> Any:
        """Run one statement."""

    def fetchall(self) -> Any:
        """Return the rows of the last statement."""


class _ConnectionCursor:
    """Runs statements through a SQLAlchemy connection, which then knows of its transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._result: CursorResult[Any] | None = None

    def execute(self, text: str, values: Sequence[Any], /) -> None:
        self._result = self._connection.exec_driver_sql(text, tuple(values))

    @property
    def rowcount(self) -> int:
        return self._result.rowcount if self._result is not None else -1

    @property
    def lastrowid(self) -> int | None:
        return self._result.lastrowid if self._result is not None else None

    @property
    def description(self) -> Any:
        return self._result if self._result is not None and self._result.returns_rows else None

    def fetchall(self) -> Any:
        return self._result.fetchall() if self._result is not None else []


def cursor_of(connection: Any, cursor: Callable[[Any], Cursor] | None = None) -> tuple[Cursor, str | None]:
    """Return a cursor in the caller's transaction, and the URL of its database if that is known.

    Args:
        connection: a SQLAlchemy Connection or Session, Django's connection, or a driver's (DB-API). For an
            AsyncConnection or AsyncSession, the connection that its ``run_sync`` passes to a function.
        cursor: makes the cursor of a driver's connection.

    Raises:
        UsageError: the connection is none of these.

    """
    if _is_session(connection):
        connection = connection.connection()
    if isinstance(connection, Connection):
        return _ConnectionCursor(connection), str(connection.engine.url)
    if callable(getattr(connection, "cursor", None)) and callable(getattr(connection, "commit", None)):
        return cursor(connection) if cursor else connection.cursor(), None
    raise UsageError(
        f"{type(connection).__name__} is not a connection to join: give a SQLAlchemy Connection or Session, "
        "or a driver's connection; with AsyncClient also an AsyncConnection or AsyncSession"
    )


def driver_of(connection: Any) -> Any:
    """Return the driver's connection below a caller's connection."""
    if _is_session(connection):
        connection = connection.connection()
    if isinstance(connection, Connection):
        return connection.connection.driver_connection
    # Django's connection has the driver's connection as an attribute.
    below = getattr(connection, "connection", None)
    return connection if below is None or callable(below) else below


def after_commit(connection: Any, call: Callable[[], None]) -> bool:
    """Call something once after the caller's next commit; return whether the connection reports commits.

    Only a Session and Django's connection report commits. A SQLAlchemy Connection has only an event before
    the commit, and a driver's connection has no events.
    """
    if callable(on_commit := getattr(connection, "on_commit", None)):
        on_commit(call)
        return True
    if not _is_session(connection):
        return False
    event.listen(connection, "after_commit", lambda session: call(), once=True)
    return True


def _is_session(connection: Any) -> "TypeGuard[Session]":
    """Whether a connection is an ORM Session. The ORM, slow to import, is loaded if the caller has one."""
    orm = sys.modules.get("sqlalchemy.orm")
    return orm is not None and isinstance(connection, orm.Session)
