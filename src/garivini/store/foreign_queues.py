"""Reads the job tables of gearmand and of TheSchwartz, and deletes rows that were imported. Blocking.

A user may choose the names of the tables, so SQLAlchemy makes the statements, and quotes the names.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from secrets import token_hex
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    and_,
    cast,
    exc,
    func,
    insert,
    inspect,
    literal,
    or_,
    select,
    update,
)

from garivini.databases import DatabaseSettings
from garivini.errors import ConflictError, SchemaError, UsageError
from garivini.model.job import NewJob
from garivini.model.limits import MAX_DELAY, Flag
from garivini.model.new_jobs import new_job
from garivini.model.pacing import BATCH_BYTES
from garivini.store.database import Database
from garivini.store.engines import shown
from garivini.store.pools import driver_error, open_source, translated

#: Maximum rows of a page.
PAGE_ROWS: Final = 200

#: The position of a row in the order in which its table is read.
Key: TypeAlias = tuple[Any, ...]


class ForeignRow(NamedTuple):
    """A row of another queue, as a job or with the reason why it cannot become one."""

    key: Key
    #: Names the row for an operator.
    name: str
    #: A text by which an interrupted import recognizes the row.
    identity: str
    #: The job. None: it cannot be imported.
    job: NewJob | None
    #: Why it cannot be imported, or empty.
    reason: str = ""
    #: Unix time at which the job is due; 0: immediately.
    run_after: int = 0
    #: Unix time of its insert; 0: unknown.
    created: int = 0
    #: The number of failed attempts.
    failures: int = 0
    #: Unix time and message of its newest failures, oldest first.
    messages: tuple[tuple[int, str], ...] = ()


class Page(NamedTuple):
    """A page of rows."""

    rows: list[ForeignRow]
    #: The key after which the next page begins. ``START``: the first page.
    after: Key


#: Before the first row.
START: Final[Key] = ()

#: The page that is being moved: a table in the source with one row. The page is noted before any of its jobs
#: is stored in the target, and forgotten in the transaction that deletes them from the source. So after an
#: interruption the next import gives the same ids to the same rows. ``page`` is the random name of the page;
#: ``first`` and ``last`` are the key before it and its last key, as JSON. NULL: no page is being moved.
_STATE: Final = Table(
    "garivini_import",
    MetaData(),
    Column("only_row", Integer, primary_key=True, autoincrement=False),
    Column("page", String(32), nullable=False),
    Column("first", Text),
    Column("last", Text),
)


class ForeignQueue(ABC):
    """The tables of another queue.

    Construction does no I/O. All methods raise the errors of ``garivini.errors``.

    Args:
        url: the URL of their database.
        flag: of the imported jobs.

    """

    #: The columns by which pages are ordered, in the order of an index.
    _order: Sequence[Column[Any]]
    #: The column with the argument.
    _data: Column[Any]
    #: The tables, with the columns that are read.
    _tables: Collection[Table]
    #: The option that names the tables.
    _option: ClassVar[str]

    def __init__(self, url: str, flag: Flag) -> None:
        self._source = open_source(DatabaseSettings(0, url))
        self._source.where = f"the source ({shown(self._source.engine.url)})"
        self._flag = flag

    @property
    def dialect(self) -> str:
        """The kind of database: ``sqlite``, ``mysql`` (MariaDB too) or ``postgresql``."""
        return self._source.dialect.name

    def check(self, targets: Collection[Database]) -> None:
        """Make sure that the tables exist, and can be read while jobs are inserted into the targets.

        Raises:
            UsageError: they do not exist, or are in the SQLite file of a target.

        """
        url = self._source.engine.url.render_as_string(hide_password=False)
        if self.dialect == "sqlite" and any(target.is_at(url) for target in targets):
            raise UsageError("the source is the SQLite file of the jobs: import into another file")
        with self._transaction() as connection:
            inspector = inspect(connection)
            for table in self._tables:
                if not inspector.has_table(table.name):
                    raise UsageError(
                        f"{self._source.where} has no table {table.name!r}: name it with {self._option}"
                    )
                found = {column["name"] for column in inspector.get_columns(table.name)}
                if missing := {column.name for column in table.columns} - found:
                    raise UsageError(
                        f"table {table.name!r} of {self._source.where} is not the expected one: it has no "
                        f"column {', '.join(sorted(missing))}"
                    )

    def read(self, after: Key, now: float) -> Page | None:
        """Return the next page, without a change. None: there are no more rows.

        Args:
            after: where the page begins.
            now: the unix time by the clock of the target.

        """
        with self._transaction() as connection:
            last = self._last(connection, after)
            return None if last is None else Page(self._rows_of(connection, after, last, now), last)

    def move(
        self, after: Key, now: float, receive: Callable[[Mapping[str, ForeignRow]], Mapping[Key, str]]
    ) -> Page | None:
        """Give the next page to ``receive``, then delete its jobs from the source; return the page.

        The source's transaction keeps the rows locked until the end. If it fails, the rows stay in the
        source, and the next call gives them to ``receive`` again, with the same ids. A page that was
        interrupted comes first.

        Args:
            after: where the page begins.
            now: the unix time by the clock of the target.
            receive: stores jobs, each once for an id; returns why some were not stored, by their keys.

        Returns:
            The page, with reasons for the rows that stay in the source. None: there are no more rows.

        Raises:
            ConflictError: another process imports from this source.

        """
        with self._transaction(writes=True) as connection:
            name, first, last = self._begin_page(connection, after)
        if last is None:
            return None
        with self._transaction(writes=True) as connection:
            if connection.scalar(select(_STATE.c.page).with_for_update()) != name:
                raise ConflictError(f"another process imports from {self._source.where}: run only one")
            rows = self._rows_of(connection, first, last, now, lock=True)
            jobs = {_id(name, row): row for row in rows if row.job is not None}
            refused = receive(jobs) if jobs else {}
            moved = [row.key for row in jobs.values() if row.key not in refused]
            if moved:
                self._delete(connection, moved)
            connection.execute(update(_STATE).values(page=token_hex(16), first=None, last=None))
        rows = [
            row._replace(job=None, reason=refused[row.key]) if row.key in refused else row for row in rows
        ]
        # Rows before a page that was interrupted have not been read yet.
        return Page(rows, last if first == after else after)

    def begin(self) -> None:
        """Create the table in which an import notes how far it has come, unless it exists."""
        with self._transaction(writes=True) as connection:
            _STATE.create(connection, checkfirst=True)

    def finish(self) -> None:
        """Drop the table that ``begin`` created. No page may be in progress: ``move`` has returned None."""
        with self._transaction(writes=True) as connection:
            _STATE.drop(connection, checkfirst=True)

    def close(self) -> None:
        """Close the idle connections."""
        self._source.close()

    @abstractmethod
    def _rows(self, connection: Connection, found: Sequence[Any], now: float) -> list[ForeignRow]:
        """Return jobs from rows with all columns."""

    @abstractmethod
    def _delete(self, connection: Connection, keys: Sequence[Key]) -> None:
        """Delete rows."""

    @contextmanager
    def _transaction(self, *, writes: bool = False) -> Iterator[Connection]:
        committing = False
        try:
            with self._source.engine.connect() as connection:
                if self.dialect == "sqlite":
                    driver: Any = connection.connection.driver_connection
                    driver.text_factory = _decode  # SQLite also stores texts that are not UTF-8
                if writes:
                    connection.exec_driver_sql(self._source.dialect.begin)
                yield connection
                committing = True
                connection.commit()
        except (exc.DBAPIError, driver_error(self._source.engine)) as error:
            found = translated(error, self._source, committing=committing)
            if isinstance(found, SchemaError):  # its advice is about our own tables
                reason = error.orig if isinstance(error, exc.DBAPIError) else error
                raise UsageError(f"{self._source.where} cannot be used: {reason}") from error
            raise found from error

    def _begin_page(self, connection: Connection, after: Key) -> tuple[str, Key, Key | None]:
        """Note the page that is to be moved, unless one was interrupted; return its name and its bounds."""
        row = connection.execute(select(_STATE).with_for_update()).one_or_none()
        name = token_hex(16) if row is None else str(row.page)
        if row is not None and row.last is not None:
            return name, tuple(json.loads(row.first)), tuple(json.loads(row.last))
        last = self._last(connection, after)
        if last is not None:
            values = {"page": name, "first": json.dumps(after), "last": json.dumps(last)}
            statement = insert(_STATE).values(only_row=1) if row is None else update(_STATE)
            connection.execute(statement.values(**values))
        return name, after, last

    def _last(self, connection: Connection, after: Key) -> Key | None:
        """Return the last key of the next page. None: there are no more rows."""
        last, total = None, 0
        sizes = select(*self._order, func.length(self._data)).where(self._after(after)).order_by(*self._order)
        for *key, size in connection.execute(sizes.limit(PAGE_ROWS)).all():
            total += size or 0
            if last is not None and total > BATCH_BYTES:
                break
            last = tuple(key)
        return last

    def _rows_of(
        self, connection: Connection, first: Key, last: Key, now: float, *, lock: bool = False
    ) -> list[ForeignRow]:
        table = self._data.table
        assert isinstance(table, Table)
        rows = select(*table.columns).where(self._after(first), self._up_to(last)).order_by(*self._order)
        return self._rows(connection, connection.execute(rows.with_for_update() if lock else rows).all(), now)

    def _after(self, key: Key) -> ColumnElement[bool]:
        """Return the condition of the rows after a key. Each database reads it by the index."""
        first, *rest = self._order
        if key == START:
            return first.is_not(None)
        at, *others = map(self._bound, key)
        return and_(first >= at, or_(first > at, rest[0] > others[0])) if rest else first > at

    def _up_to(self, key: Key) -> ColumnElement[bool]:
        first, *rest = self._order
        at, *others = map(self._bound, key)
        return and_(first <= at, or_(first < at, rest[0] <= others[0])) if rest else first <= at

    def _bound(self, value: Any) -> ColumnElement[Any]:
        if self.dialect == "sqlite" and isinstance(value, str):
            return cast(literal(value.encode("utf-8", "surrogateescape"), LargeBinary), Text)
        return literal(value, BigInteger if isinstance(value, int) else None)

    def _job(self, row: ForeignRow, now: float, *values: Any, **named: Any) -> ForeignRow:
        """Return a row with its job, or with the reason why it cannot become one."""
        delay = max(0, row.run_after - -int(-now // 1))  # a delay counts from the next whole second
        if delay > MAX_DELAY:
            return row._replace(reason="it is due in more than ten years")
        try:
            return row._replace(job=new_job(*values, delay=delay, flag=self._flag, dispatch=False, **named))
        except UsageError as error:
            return row._replace(reason=str(error))


def _id(page: str, row: ForeignRow) -> str:
    return sha256(f"{page} {row.identity}".encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")
