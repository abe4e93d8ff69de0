"""Where the connections to one database come from: a pool of our own, or the Engine of a caller."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol
from weakref import WeakSet, finalize

from sqlalchemy import Engine, PoolProxiedConnection, exc

from garivini.databases import DatabaseSettings
from garivini.errors import GariviniError, OutcomeUnknownError, RefusedError, UnreachableError, UsageError
from garivini.store.dialects.dialect import Dialect
from garivini.store.engines import dialect_of, make_engine, parse_url, refuse_misread, shown
from garivini.store.write_access import WriteAccess

#: The error of the trigger in a database that is being drained.
DRAINING: Final = "garivini is draining this database"
#: Errors after which a connection is not used again.
_LOST: Final = (UnreachableError, OutcomeUnknownError)


class Source(Protocol):
    """Lends connections to one database."""

    engine: Engine
    dialect: Dialect
    #: Names the database in messages: its id, and its URL without the password.
    where: str
    #: Knows whether the server of the database takes writes.
    access: WriteAccess

    @contextmanager
    def connection(self, *, reads: bool = False) -> Iterator[Any]:
        """Lend a driver's connection in autocommit; translate the driver's errors.

        ``reads``: the caller only reads. A former primary would answer reads too, so the connection is
        checked.
        """
        yield

    def create(self) -> None:
        """Create an empty database if there is none and the dialect permits that."""

    def close(self) -> None:
        """Close the idle connections, unless they are a caller's Engine's. A later call opens new ones."""


def open_source(settings: DatabaseSettings) -> Source:
    """Return the source of the connections to a database. Does no I/O."""
    return CallersEngine(settings) if isinstance(settings.target, Engine) else OwnPool(settings)


#: Pools whose connections must not be open while this process forks.
_CLOSE_BEFORE_FORK: "Final[WeakSet[OwnPool]]" = WeakSet()


def _before_fork() -> None:
    for pool in list(_CLOSE_BEFORE_FORK):
        pool.close()


os.register_at_fork(before=_before_fork)


def _close_idle(engine: Engine, pid: int) -> None:
    """Close the idle connections of an engine, unless another process has opened them."""
    if os.getpid() == pid:
        engine.pool.dispose()


class OwnPool:
    """Connections made from the URL of a database, with the settings that our statements need.

    A pool that is not closed closes its idle connections when it is garbage collected, because drivers warn
    of each connection that is collected while it is open.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        url = parse_url(settings.dbid, settings.target)
        refuse_misread(url)
        self.dialect: Dialect = dialect_of(url.get_backend_name())
        self.engine: Engine = make_engine(self.dialect, url)
        self.where: str = f"database {settings.dbid} ({shown(self.engine.url)})"
        self.access: WriteAccess = WriteAccess(settings.dbid, self.where, self.dialect)
        self._own()
        if self.dialect.close_before_fork:
            _CLOSE_BEFORE_FORK.add(self)

    def _own(self) -> None:
        """Record that the connections opened from here on belong to this process."""
        self._pid = os.getpid()
        self._finalizer = finalize(self, _close_idle, self.engine, self._pid)
        self._finalizer.atexit = False  # the exit of a process does no I/O

    @contextmanager
    def connection(self, *, reads: bool = False) -> Iterator[Any]:
        """Lend a driver's connection in autocommit: see ``Source.connection``."""
        if self._pid != os.getpid():
            # The parent's connections are not ours to use, nor to close.
            self._finalizer.detach()
            self.engine.dispose(close=False)
            self._own()
        pool = self.engine.pool
        pooled = self._checkout()
        connection = pooled.driver_connection
        lost = False
        try:
            if not pooled.info.get("garivini"):
                self.dialect.prepare(connection)
                pooled.info["garivini"] = True
                self.access.opened(pooled.info)
            if reads:
                self.access.check(connection, pooled.info)
            yield connection
        except driver_error(self.engine) as error:
            found = translated(error, self, connection)
            lost = isinstance(found, _LOST)
            self.access.lost(found)
            raise found from error
        except _LOST as error:
            lost = True
            self.access.lost(error)
            raise
        finally:
            # Not every driver knows that its connection is lost.
            lost = lost or not self.dialect.usable(connection)
            if lost or pool is not self.engine.pool:
                # If another thread has replaced the pool, nobody would use the connection in the old one.
                pooled.invalidate()
            else:
                pooled.close()
            if lost and pool is self.engine.pool:
                # The pool's other connections are useless too: a server that restarted has closed them, and
                # one that accepts no writes is no longer the primary. New connections look the host up again.
                self.engine.dispose()

    def _checkout(self) -> PoolProxiedConnection:
        try:
            return self.engine.raw_connection()
        except (exc.DBAPIError, driver_error(self.engine), OSError) as error:
            found = translated(error, self)
            self.access.lost(found)
            # If none of several hosts accepts writes, a switchover may be going on. Then one of them will
            # soon accept writes.
            found.transient = isinstance(found, UnreachableError) and found.read_only
            raise found from error
        except (AttributeError, TypeError, ValueError) as error:
            # A driver misinterpreted a parameter of the URL.
            raise UsageError(f"{self.where}: a parameter of its URL is none that the driver takes") from error

    def create(self) -> None:
        """Create an empty database if there is none and the dialect permits that."""
        self.dialect.create(self.where)

    def close(self) -> None:
        """Close the idle connections. A later call opens new ones."""
        self.engine.dispose()


class CallersEngine:
    """Connections of a caller's Engine, which get our settings for as long as they are lent."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self.engine: Engine = settings.target
        refuse_misread(self.engine.url)
        self.dialect: Dialect = dialect_of(self.engine.dialect.name)
        self.where: str = f"database {settings.dbid} ({shown(self.engine.url)})"
        self.access: WriteAccess = WriteAccess(settings.dbid, self.where, self.dialect)

    @contextmanager
    def connection(self, *, reads: bool = False) -> Iterator[Any]:
        """Lend a driver's connection in autocommit: see ``Source.connection``."""
        pool = self.engine.pool
        pooled = self._checkout()
        connection = pooled.driver_connection
        before, lost = None, False
        try:
            before = self.dialect.borrow(connection)
            self.access.opened(pooled.info)
            if reads:
                self.access.check(connection, pooled.info)
            yield connection
        except driver_error(self.engine) as error:
            found = translated(error, self, connection)
            lost = isinstance(found, _LOST)
            self.access.lost(found)
            raise found from error
        except _LOST as error:
            lost = True
            self.access.lost(error)
            raise
        finally:
            good = not lost and before is not None and self.dialect.usable(connection)
            if good and self._restored(connection, before) and pool is self.engine.pool:
                pooled.close()
            else:
                pooled.invalidate()

    def _checkout(self) -> PoolProxiedConnection:
        try:
            return self.engine.raw_connection()
        except (exc.DBAPIError, driver_error(self.engine), OSError) as error:
            raise translated(error, self) from error
        except (AttributeError, TypeError, ValueError) as error:
            if advice := self.dialect.engine_advice(error):
                raise UsageError(f"{self.where}: {advice}") from error
            raise

    def _restored(self, connection: Any, before: Any) -> bool:
        """Give a connection its settings back; return whether that succeeded."""
        try:
            self.dialect.give_back(connection, before)
        except driver_error(self.engine):
            return False
        return True

    def create(self) -> None:
        """Do nothing: the caller creates the database."""

    def close(self) -> None:
        """Do nothing: the caller closes the engine."""


def driver_error(engine: Engine) -> type[Exception]:
    """Return the base class of the errors that an engine's driver raises."""
    error: type[Exception] = engine.dialect.loaded_dbapi.Error
    return error


def translated(
    error: BaseException, source: Source, connection: Any = None, *, committing: bool = False
) -> GariviniError:
    """Translate an error of the driver into an error of this library.

    Args:
        error: the driver's error, or SQLAlchemy's error that contains it.
        source: where the connection is from.
        connection: the connection in use; None: it is still being made.
        committing: whether COMMIT raised the error: then a lost connection leaves the outcome unknown.

    """
    original = error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error
    assert isinstance(original, Exception)
    if DRAINING in str(original):
        refused = RefusedError(f"{source.where} takes no jobs: it is being drained")
        refused.draining = True
        return refused
    found = source.dialect.translate(original, source.where, committing=committing)
    # If the connection was lost in use, and not while it was being made, a new connection works unless the
    # database is gone.
    lost = isinstance(found, UnreachableError) and connection is not None
    if lost and not source.dialect.silent(original):
        found.transient = True
    return found
