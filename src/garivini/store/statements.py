"""Runs the named statements of a database on one cursor."""

from collections.abc import Mapping, Sequence
from typing import Any

from garivini.errors import UsageError
from garivini.store.callers import Cursor
from garivini.store.dialects.dialect import Dialect
from garivini.store.rows import COLUMNS
from garivini.store.sql_files import load
from garivini.store.values import check_values


class Statements:
    """Runs named statements on one cursor, in the transaction that its connection is in."""

    __slots__ = ("_cursor", "_lock_wait", "_statements", "dbid", "dialect", "incarnation", "where")

    def __init__(self, dialect: Dialect, cursor: Cursor, dbid: int, where: str) -> None:
        self.dialect: Dialect = dialect
        #: The id of the database.
        self.dbid: int = dbid
        #: Names the database in messages.
        self.where: str = where
        #: The incarnation that the transaction is in. None: the database has none, or nothing has read it.
        self.incarnation: int | None = None
        self._statements = load(dialect.name, dialect.placeholder, dialect.array, dialect.folding)
        self._cursor = cursor
        #: The session's lock timeout before ``wait_for_no_lock``. None: it was not called.
        self._lock_wait: tuple[Any] | None = None

    def __call__(self, name: str, /, rows: Sequence[Mapping[str, Any]] = (), **values: Any) -> Any:
        """Run the statement of this name.

        Args:
            name: of the statement.
            rows: the values of the line that repeats, one mapping per row.
            values: all other values.

        Returns:
            The result that the head in the SQL file names: rows, the number of changed rows, or an id.

        Raises:
            UsageError: a value has the wrong type, or the driver cannot send it.

        """
        found: Any = []
        statement = self._statements[name]
        check_values(values)
        for template in statement.templates:
            try:
                self._cursor.execute(*template.bind(values, rows))
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

    def wait_for_no_lock(self) -> None:
        """From here on, this transaction waits for no lock, or as briefly as the server allows."""
        if self._lock_wait is None:
            self._lock_wait = (self.dialect.shorten_lock_wait(self._cursor),)

    def restore_lock_wait(self) -> None:
        """Let the session wait for locks as before, after the transaction."""
        if self._lock_wait is not None:
            self.dialect.restore_lock_wait(self._cursor, self._lock_wait[0])
            self._lock_wait = None
