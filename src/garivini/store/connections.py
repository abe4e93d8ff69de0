"""Transactions on the connections to one database, whose schema has been checked."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from typing import Any, Final, Self

from sqlalchemy import Engine, exc, make_url

from garivini.databases import DatabaseSettings
from garivini.errors import SchemaError, UsageError
from garivini.store import schema
from garivini.store.callers import cursor_of
from garivini.store.dialects.dialect import SCHEMA_ADVICE, Dialect
from garivini.store.engines import dialect_of, same_place
from garivini.store.incarnations import Incarnations
from garivini.store.pools import driver_error, open_source, translated
from garivini.store.statements import Statements

#: The number of connections that are compared to find out whether they reach several nodes of a cluster.
_TO_NODES: Final = 4


class Connections:
    """Runs statements of one database, one by one or in transactions.

    Construction does no I/O. The first use checks the schema. All methods raise the errors of
    ``garivini.errors``.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        self.dbid: int = settings.dbid
        self._settings = settings  # whose repr has no password
        self._source = open_source(settings)
        self.dialect: Dialect = self._source.dialect
        self.engine: Engine = self._source.engine
        #: Names the database in messages: its id, and its URL without the password.
        self.where: str = self._source.where
        #: Lends a driver's connection in autocommit, as a context manager.
        self.connection: Final = self._source.connection
        self.close: Final = self._source.close
        self._checked = False
        self._incarnations = Incarnations(self.dbid, self.where, self.dialect)
        self._expected: int | None = None
        #: A caller's connection for reads; None: a connection of our own.
        self._callers: Any = None

    def with_lock_timeout(self, seconds: float) -> Self:
        """Return other connections to the same database with this maximum wait for a row lock."""
        other = type(self)(self._settings)
        other.dialect.lock_timeout = seconds
        other.dialect.folding = self.dialect.folding
        other.dialect.pooled = self.dialect.pooled
        other._checked = self._checked
        return other

    # ---- the incarnation

    @property
    def incarnation(self) -> int | None:
        """The incarnation that was reached last: see ``Incarnations.last``."""
        return self._incarnations.last

    def expecting(self, incarnation: int | None) -> Self:
        """Return the same connections for transactions in this incarnation only; None: in any."""
        other = copy(self)
        other._expected = incarnation
        return other

    def expect(self) -> int | None:
        """Return the incarnation that is reached now; from here on, refuse transactions in any other."""
        if self.dialect.has_incarnations:
            self._expected = None
            with self.transaction() as run:
                self._expected = run.incarnation
        return self._expected

    def nodes(self) -> frozenset[str]:
        """Return the names of the nodes of a cluster that several connections reach at the same time.

        If the first connection has reached no cluster, the set is empty, and there is no I/O.
        """
        if not self.dialect.clustered:
            return frozenset()
        with ExitStack() as stack:
            connections = [stack.enter_context(self.connection()) for _ in range(_TO_NODES)]
            return frozenset(map(self.dialect.node, connections))

    # ---- the schema

    def upgrade(self, revision: str = "head") -> None:
        """Bring the schema to the version of this code, or to an older revision.

        Does nothing if the schema has this version already, or a newer one that this code can use.

        Raises:
            SchemaError: the schema has a newer version that this code cannot use.

        """
        from alembic.util import CommandError  # imported here because it is slow

        self._source.create()
        with self.connection() as connection:
            self.dialect.before_upgrade(connection)
        try:
            with self.engine.begin() as begun:
                self.dialect.begin_upgrade(begun)
                schema.upgrade(begun, revision)
        except CommandError:
            pass  # the revision is not known here; the check below decides whether it can be used
        except exc.SQLAlchemyError as error:
            raise translated(error, self._source) from error
        finally:
            self.close()  # a connection of an upgrade may wait for longer than others, so it is not reused
        self._checked = False
        if revision == "head":
            self.check()

    def check(self, *, name: bool = True) -> str:
        """Make sure that this code can use the schema, and that the id stored in the database is this one.

        Args:
            name: whether to store this id in a database that has none. That is a write, which on SQLite would
                wait for a caller's own transaction.

        Returns:
            The revision of the schema: this code's, or a newer one that this code can use.

        Raises:
            SchemaError: the database has no schema, a schema that this code cannot use, or another id.

        """
        with self.connection() as connection:
            run = Statements(self.dialect, self.dialect.cursor(connection), self.dbid, self.where)
            revision = _usable_revision(run)
            self._incarnations.of(connection)  # so that it is read before the first insert
            self.dialect.folding = bool(run("folds")[0][0])
            if name and not run("dbid"):
                run("set_dbid", dbid=self.dbid)
            named = [dbid for (dbid,) in run("dbid")]
        if named not in ([], [self.dbid]):
            raise SchemaError(
                f"{self.where} calls itself database {named[0]}: is the list of databases in another order?"
            )
        self._checked = bool(named)
        return revision

    # ---- statements

    def joining(self, connection: Any) -> Self:
        """Return the same connections, whose reads are part of a caller's transaction: see ``joined``."""
        other = copy(self)
        other._callers = connection
        return other

    @contextmanager
    def reading(self) -> Iterator[Statements]:
        """Run statements that read: each alone, or behind a pooler all of them in one transaction."""
        if self._callers is not None:
            with self.joined(self._callers) as run:
                yield run
            return
        if not self._checked:
            self.check()
        try:
            with self.connection(reads=True) as connection:
                cursor = self.dialect.cursor(connection)
                if self.dialect.pooled:
                    self.dialect.begin_transaction(cursor)
                try:
                    yield Statements(self.dialect, cursor, self.dbid, self.where)
                finally:
                    if self.dialect.pooled and self.dialect.in_transaction(connection):
                        with suppress(driver_error(self.engine)):
                            cursor.execute("ROLLBACK")
        except SchemaError:
            self._checked = False  # perhaps the schema has been upgraded: the next use checks it again
            raise

    @contextmanager
    def transaction(self, *, single: bool = False) -> Iterator[Statements]:
        """Run several statements as one transaction.

        Args:
            single: whether only one of the statements writes. If so, and if the connection is known to be
                open, that statement is a transaction by itself, which saves two round trips. Otherwise BEGIN
                is sent first: on a lost connection it fails before anything is written.

        """
        if not self._checked:
            self.check()
        with self.connection() as connection:
            cursor = self.dialect.cursor(connection)
            alone = single and not self.dialect.pooled and self.dialect.alive(connection)
            committing, done = alone, False
            run = Statements(self.dialect, cursor, self.dbid, self.where)
            try:
                run.incarnation = self._begin(connection, None if alone else cursor)
                yield run
                committing = True
                if not alone:
                    cursor.execute("COMMIT")
                done = True
                if self._source.access.refused:
                    self._source.access.granted()
            except driver_error(self.engine) as error:
                found = translated(error, self._source, connection, committing=committing)
                if isinstance(found, SchemaError):
                    self._checked = False  # as in ``reading``: the schema may have been upgraded
                raise found from error
            finally:
                if not done and self.dialect.in_transaction(connection):
                    with suppress(driver_error(self.engine)):
                        cursor.execute("ROLLBACK")
                with suppress(driver_error(self.engine)):  # if this fails, the connection is lost
                    run.restore_lock_wait()

    def _begin(self, connection: Any, cursor: Any) -> int | None:
        """Begin a transaction, unless there is no cursor for it; return its incarnation.

        Raises:
            ReplacedError: the incarnation is not the expected one.

        """
        if self.dialect.pooled:
            incarnation = self.dialect.begin_transaction(cursor)
            if incarnation is not None:
                self._incarnations.reached(incarnation)
        else:
            incarnation = self._incarnations.of(connection)
            if cursor is not None:
                self.dialect.begin_transaction(cursor)
        self._incarnations.check(incarnation, self._expected)
        return incarnation

    @contextmanager
    def joined(self, connection: Any, texts: Collection[str] = ()) -> Iterator[Statements]:
        """Run statements in a caller's transaction, which the caller ends.

        Args:
            connection: the caller's; see ``callers.cursor_of``.
            texts: the texts that are to be stored.

        """
        if not self._checked:
            self.check(name=False)
        cursor, url = cursor_of(connection, self.dialect.cursor)
        if url is not None and not isinstance(
            dialect_of(make_url(url).get_backend_name()), type(self.dialect)
        ):
            raise UsageError(f"the connection is not one to {self.where}")
        try:
            with self.dialect.carrying(cursor, texts):
                yield Statements(self.dialect, cursor, self.dbid, self.where)
        except (exc.DBAPIError, driver_error(self.engine)) as error:
            raise translated(error, self._source) from error
        except UnicodeEncodeError as error:
            raise UsageError(f"the connection cannot carry a text: {error}") from None

    def is_at(self, url: str) -> bool:
        """Whether a URL leads to this database, whatever its user and driver."""
        return same_place(make_url(url), self.engine.url)


def _usable_revision(run: Statements) -> str:
    """Return the revision of the schema.

    Raises:
        SchemaError: this code cannot use it.

    """
    revisions = [revision for (revision,) in run("schema")]
    if len(revisions) == 1 and schema.is_usable(revisions[0]):
        return str(revisions[0])
    found = ", ".join(revisions) or "none"
    newer = any(revision > schema.SCHEMA for revision in revisions)
    advice = "update garivini" if newer else SCHEMA_ADVICE
    raise SchemaError(f"{run.where} has schema {found}, this code needs {schema.SCHEMA}: {advice}")
