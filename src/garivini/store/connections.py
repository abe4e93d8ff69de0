"""The seam to a database: an engine, connections and transactions, the schema, the translation of errors."""

import copy
import os
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar
from weakref import WeakSet

from sqlalchemy import URL, Engine, create_engine, exc, make_url

from garivini.databases import DatabaseSettings
from garivini.databases.urls import check_url, is_secret, shown_value, without_password
from garivini.errors import (
    GariviniError,
    OutcomeUnknownError,
    RefusedError,
    SchemaError,
    UnreachableError,
    UsageError,
)
from garivini.store import schema
from garivini.store.callers import Cursor, cursor_of
from garivini.store.dialects import DIALECTS
from garivini.store.dialects.dialect import SCHEMA_ADVICE, Dialect, unknown_parameter
from garivini.store.rows import COLUMNS
from garivini.store.schema import SCHEMA
from garivini.store.statements import load
from garivini.store.values import check_values

#: What the trigger of a database that is being drained says.
DRAINING: Final = "garivini is draining this database"
#: Seconds between two tries of what failed by another's doing, more or less.
_PAUSES: Final = (0.0, 0.01, 0.03, 0.1, 0.3)

_C = TypeVar("_C", bound="Connections")
_P = ParamSpec("_P")
_R = TypeVar("_R")


def again(method: Callable[Concatenate[_C, _P], _R]) -> Callable[Concatenate[_C, _P], _R]:
    """Call a method again where nothing was done and the reason is gone: see ``GariviniError.transient``."""

    @wraps(method)
    def call(self: _C, /, *arguments: _P.args, **named: _P.kwargs) -> _R:
        for pause in _PAUSES:
            try:
                return method(self, *arguments, **named)
            except GariviniError as error:
                # A caller's transaction is gone as a whole: only the caller can begin it again.
                if not error.transient or named.get("connection") is not None:
                    raise
            time.sleep(pause * random.uniform(0.5, 1.5))
        return method(self, *arguments, **named)

    return call


#: Databases whose connections must not be open while this process forks.
_CLOSE_BEFORE_FORK: "Final[WeakSet[Connections]]" = WeakSet()


def _before_fork() -> None:
    for database in list(_CLOSE_BEFORE_FORK):
        database.close()


os.register_at_fork(before=_before_fork)


class Connections:
    """The connections to one database, and transactions on them. Errors of the driver become ours here."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self.dbid = settings.dbid
        self._settings = settings  # whose repr has no password
        self._owned = not isinstance(settings.target, Engine)
        self._connect()
        self._pid = os.getpid()
        self._checked = False
        if self._owned and self._dialect.close_before_fork:
            _CLOSE_BEFORE_FORK.add(self)
        #: For messages: the id and the URL without its password.
        self.where = f"database {self.dbid} ({_shown(self._engine.url)})"

    def _connect(self) -> None:
        """Make the engine and the dialect. No I/O."""
        if self._owned:
            url = _url(self.dbid, self._settings.target)
            _refuse_misread(url)
            self._dialect = _dialect(url.get_backend_name())
            self._engine: Engine = _engine(self._dialect, url)
        else:
            self._engine = self._settings.target
            _refuse_misread(self._engine.url)
            self._dialect = _dialect(self._engine.dialect.name)

    @property
    def locks_rows(self) -> bool:
        """Whether a transaction locks rows, and not the whole database."""
        return self._dialect.locks_rows

    def with_lock_timeout(self, seconds: float) -> Self:
        """Return the same database with other connections and this maximum wait for a row lock.

        MariaDB and MySQL accept only whole seconds, and get at least 1. A database without row locks is
        returned as it is.
        """
        if not self.locks_rows:
            return self
        other = copy.copy(self)
        other._connect()
        other._dialect.lock_timeout = seconds
        return other

    # ---- the schema

    def upgrade(self) -> None:
        """Bring the schema to the version of this code. Does nothing where it is there already."""
        from alembic.util import CommandError  # see schema

        if self._owned:
            self._dialect.create(self.where)
        with self._connection() as connection:
            self._dialect.before_upgrade(connection)
        try:
            with self._engine.begin() as connection:
                self._dialect.begin_upgrade(connection)
                schema.upgrade(connection)
        except CommandError as error:
            raise SchemaError(f"{self.where}: its schema is not known here: update garivini") from error
        except exc.SQLAlchemyError as error:
            raise self._translated(error) from error
        finally:
            self.close()  # an upgrade's connection may wait for longer than others
        self._checked = False
        self.check()

    def check(self, *, name: bool = True) -> None:
        """Make sure that the schema is this code's and the database is known by this id.

        ``name``: whether to give the database this id if it has none. That writes, which on SQLite would
        wait for a caller's own transaction.

        Raises:
            SchemaError: it has no schema, another version of it, or another id.

        """
        with self._connection() as connection:
            run = Run(self._dialect, self._dialect.cursor(connection))
            versions = [version for (version,) in run("schema")]
            if versions != [SCHEMA]:
                found = ", ".join(versions) or "none"
                newer = any(version > SCHEMA for version in versions)
                advice = "update garivini" if newer else SCHEMA_ADVICE
                raise SchemaError(f"{self.where} has schema {found}, this code needs {SCHEMA}: {advice}")
            self._dialect.folding = bool(run("folds")[0][0])
            if name and not run("dbid"):
                run("set_dbid", dbid=self.dbid)
            named = [dbid for (dbid,) in run("dbid")]
        if named not in ([], [self.dbid]):
            raise SchemaError(
                f"{self.where} calls itself database {named[0]}: is the list of databases in another order?"
            )
        self._checked = bool(named)

    def close(self) -> None:
        """Close the pooled connections, if they are ours. A later call opens new ones."""
        if self._owned:
            self._engine.dispose()

    # ---- the seam

    @contextmanager
    def reading(self) -> "Iterator[Run]":
        """Run statements that read, each on its own."""
        if not self._checked:
            self.check()
        with self._connection() as connection:
            yield Run(self._dialect, self._dialect.cursor(connection))

    @contextmanager
    def transaction(self, *, single: bool = False) -> "Iterator[Run]":
        """Run several statements as one transaction.

        ``single``: one of them writes, and no more. So it is a transaction by itself, two round trips
        shorter, where the connection is known to be there; elsewhere it is the BEGIN that shows a loss, and
        nothing is left open by it.
        """
        if not self._checked:
            self.check()
        with self._connection() as connection:
            cursor = self._dialect.cursor(connection)
            alone = single and self._dialect.alive(connection)
            committing, done = alone, False
            run = Run(self._dialect, cursor)
            try:
                if not alone:
                    self._dialect.begin_transaction(cursor)
                yield run
                committing = True
                if not alone:
                    cursor.execute("COMMIT")
                done = True
            except self._driver_error as error:
                raise self._translated(error, connection, committing=committing) from error
            finally:
                if not done and self._dialect.in_transaction(connection):
                    with suppress(self._driver_error):
                        cursor.execute("ROLLBACK")
                with suppress(self._driver_error):  # then the connection is lost
                    run.end_hurry()

    @contextmanager
    def joined(self, connection: Any, texts: Collection[str] = ()) -> "Iterator[Run]":
        """Run statements in a caller's transaction, which the caller ends; ``texts`` are to be stored."""
        if not self._checked:
            self.check(name=False)
        cursor, url = cursor_of(connection, self._dialect.cursor)
        if url is not None and not isinstance(
            _dialect(make_url(url).get_backend_name()), type(self._dialect)
        ):
            raise UsageError(f"the connection is not one to {self.where}")
        try:
            with self._dialect.carrying(cursor, texts):
                yield Run(self._dialect, cursor)
        except (exc.DBAPIError, self._driver_error) as error:
            raise self._translated(error) from error
        except UnicodeEncodeError as error:
            raise UsageError(f"the connection cannot carry a text: {error}") from None

    def is_at(self, url: str) -> bool:
        """Whether this database is the one of a URL, whoever connects and by which driver."""
        return _place(make_url(url)) == _place(self._engine.url)

    def _checkout(self) -> Any:
        """Take a connection out of the pool."""
        try:
            return self._engine.raw_connection()
        except (exc.DBAPIError, self._driver_error, OSError) as error:
            raise self._translated(error) from error
        except (AttributeError, TypeError, ValueError) as error:
            if not self._owned:
                if advice := self._dialect.engine_advice(error):
                    raise UsageError(f"{self.where}: {advice}") from error
                raise
            # A driver misinterpreted a parameter of the URL.
            raise UsageError(f"{self.where}: a parameter of its URL is none that the driver takes") from error

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """Borrow a driver's connection from the pool, in autocommit; translate the driver's errors."""
        if self._pid != os.getpid():
            # The parent's connections are not ours to use, nor to close.
            self._pid = os.getpid()
            if self._owned:
                self._engine.dispose(close=False)
        pool = self._engine.pool
        pooled = self._checkout()
        connection = pooled.driver_connection
        before, lost = None, False
        try:
            if not self._owned:
                before = self._dialect.borrow(connection)
            elif not pooled.info.get("garivini"):
                self._dialect.prepare(connection)
                pooled.info["garivini"] = True
            yield connection
        except self._driver_error as error:
            found = self._translated(error, connection)
            lost = isinstance(found, (UnreachableError, OutcomeUnknownError))
            raise found from error
        except (UnreachableError, OutcomeUnknownError):
            lost = True
            raise
        finally:
            # Not every driver knows of its connection that it is lost.
            good = not lost and self._dialect.usable(connection) and self._given_back(connection, before)
            if good and pool is self._engine.pool:
                pooled.close()
            else:
                # Also where another thread has disposed of the pool: nobody would ever take it from there.
                pooled.invalidate()
                if self._owned and not good:
                    # A server that restarted has closed the others too.
                    self._engine.dispose()

    def _given_back(self, connection: Any, before: Any) -> bool:
        """Switch a caller's connection back; return whether it is as it was."""
        if not self._owned:
            try:
                self._dialect.give_back(connection, before)
            except self._driver_error:
                return False
        return True

    @property
    def _driver_error(self) -> type[Exception]:
        error: type[Exception] = self._engine.dialect.loaded_dbapi.Error
        return error

    def _translated(
        self, error: BaseException, connection: Any = None, *, committing: bool = False
    ) -> GariviniError:
        original = error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error
        assert isinstance(original, Exception)
        if DRAINING in str(original):
            refused = RefusedError(f"{self.where} takes no jobs: it is being drained")
            refused.draining = True
            return refused
        found = self._dialect.translate(original, self.where, committing=committing)
        # Lost while it was in use, not in the making: another will do, unless the database is gone.
        lost = isinstance(found, UnreachableError) and connection is not None
        if lost and not self._dialect.silent(original):
            found.transient = True
        return found


class Run:
    """Runs named statements on one cursor."""

    __slots__ = ("_bound", "_cursor", "_dialect", "_hurried", "_statements")

    def __init__(self, dialect: Dialect, cursor: Cursor) -> None:
        self._statements = load(dialect.name, dialect.placeholder, dialect.form, folding=dialect.folding)
        self._cursor = cursor
        self._dialect = dialect
        self._bound = dialect.bound
        #: The setting that ``end_hurry`` restores, if locks are not waited for.
        self._hurried: list[Any] = []

    def hurry(self) -> None:
        """Let this transaction not wait for locks from here on, or as briefly as possible."""
        if not self._hurried:
            self._hurried.append(self._dialect.hurry(self._cursor))

    def end_hurry(self) -> None:
        """Let the session wait for locks again, after the transaction."""
        while self._hurried:
            self._dialect.end_hurry(self._cursor, self._hurried.pop())

    def __call__(self, name: str, /, rows: Sequence[Mapping[str, Any]] = (), **values: Any) -> Any:
        """Run the statement of this name; see ``dialect.Run``."""
        found: Any = []
        statement = self._statements[name]
        check_values(values)
        for step in statement.steps:
            try:
                text, bound = step.bind(values, rows)
                self._cursor.execute(text, self._bound(bound))
            except (UnicodeEncodeError, OverflowError) as error:
                raise UsageError(f"a value does not fit the database: {error}") from None
            if self._cursor.description is not None:
                found = self._cursor.fetchall()
                if not found:
                    break
        if name in COLUMNS:
            found = COLUMNS[name].read(found)
        match statement.result:
            case "count":
                return self._cursor.rowcount
            case "id":
                return self._cursor.lastrowid
        return found


#: Other names in URLs.
_ALSO: Final = {"mariadb": "mysql", "postgres": "postgresql"}


_PORTS: Final = {"mysql": 3306, "postgresql": 5432}


def _place(url: URL) -> tuple[str, str | None, int | None, str | None]:
    """Return where a URL leads to."""
    name = url.get_backend_name()
    name = _ALSO.get(name, name)
    return name, url.host, url.port or _PORTS.get(name), url.database


def _url(dbid: int, target: Any) -> URL:
    if not isinstance(target, str):
        raise UsageError(f"a database is a URL or an SQLAlchemy Engine, not {type(target).__name__}")
    check_url(dbid, target)
    with suppress(exc.SQLAlchemyError, ValueError):
        return make_url(target)
    # Not within an except: SQLAlchemy's error, which may quote the URL, must not come along as the context.
    raise UsageError(f"{without_password(target)!r} is not a database URL such as sqlite:///jobs.db")


def _shown(url: URL) -> str:
    """Return a URL for messages; for an invalid one, only the kind of database."""
    place = URL.create(url.drivername, url.username, None, url.host, url.port, url.database, url.query)
    shown = without_password(place.render_as_string())
    return url.get_backend_name() if "***" in shown else shown


def _refuse_misread(url: URL) -> None:
    """Refuse a URL in which part of the password is parsed as the host or the database.

    Drivers put these into their messages.
    """
    parts = [url.host or "", "" if url.get_backend_name() == "sqlite" else url.database or ""]
    if any("@" in part or "://" in part for part in parts) or "://" in (url.database or ""):
        raise UsageError(
            f"the URL of a {url.get_backend_name()} database has more than one @, or more than one ://: in a "
            "user or password write @ as %40, : as %3A and / as %2F"
        )


def _dialect(name: str) -> Dialect:
    name = _ALSO.get(name, name)
    if name not in DIALECTS:
        raise UsageError(f"{name} is not supported; use {', '.join(DIALECTS)}")
    return DIALECTS[name]()


def _engine(dialect: Dialect, url: URL) -> Engine:
    """Make an engine of ours. No I/O."""
    url, arguments = dialect.engine(url)
    url, secrets = _without_secrets(url)
    why = ""
    try:
        engine = create_engine(url, connect_args=arguments | secrets, pool_reset_on_return=None)
        known = dialect.parameters(engine.dialect.loaded_dbapi)
        if known is not None:
            why = unknown_parameter([*url.query, *secrets], known, engine.dialect.driver)
        if not why:
            dialect.hook(engine)
            return engine
    except ImportError as error:
        package = dialect.packages.get(url.get_driver_name(), "'garivini[mysql,postgresql]'")
        why = f"its driver is not installed (pip install {package}): {error}"
    except exc.NoSuchModuleError:
        why = f"the driver {shown_value(url.drivername)} is not known"
    except (exc.SQLAlchemyError, TypeError, ValueError):
        why = "a part of it, or one of its parameters, is none that the driver takes"
    raise UsageError(f"{_shown(url)!r} cannot be used: {why}")


def _without_secrets(url: URL) -> tuple[URL, dict[str, Any]]:
    """Move passwords from a URL to the arguments of the driver: SQLAlchemy prints those of the query."""
    secrets = {name: value for name, value in url.query.items() if is_secret(name)}
    if "passwd" in secrets:
        secrets["password"] = secrets.pop("passwd")  # PyMySQL's old name for it
    if url.password is not None:
        secrets["password"] = url.password
    query = {name: value for name, value in url.query.items() if not is_secret(name)}
    return URL.create(url.drivername, url.username, None, url.host, url.port, url.database, query), secrets
