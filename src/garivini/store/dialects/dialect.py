"""The differences between databases beyond the text of their statements."""

import select
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, ClassVar, Final, Protocol

from sqlalchemy import URL, Connection, Engine

from garivini.databases.urls import shown_value
from garivini.errors import GariviniError, UsageError
from garivini.store.rows import Undecodable

NO_IDS: Final = (
    "has no id left for a new job: its counter is at its end. If somebody gave a job the largest id, delete "
    "that job and set the counter back"
)
SCHEMA_ADVICE: Final = "run `garivini db upgrade`"
#: Seconds of silence after which a server counts as lost, if the URL gives no other number.
TIMEOUT: Final = 10.0
#: Seconds to wait for a lock. Less than ``TIMEOUT``, so that a lock does not count as silence, and much less
#: than a lease, so that a renewal that waits is made in time.
LOCK_TIMEOUT: Final = 5
#: Seconds after which a server ends an idle transaction: a process that freezes in a transaction must not
#: keep rows locked.
IDLE_TIMEOUT: Final = 10
#: Seconds for which one upgrade waits for another.
UPGRADE_TIMEOUT: Final = 60


def parse_timeout(name: str, given: Any) -> float:
    """Return the seconds that a URL gives for a parameter.

    Raises:
        UsageError: it is not a number of seconds above 0 and below a day.

    """
    try:
        seconds = float(given)
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds < 86400:
        raise UsageError(f"{name}={shown_value(given)} in the URL: give seconds above 0, such as {TIMEOUT:g}")
    return seconds


def unknown_parameter(names: Iterable[str], known: Collection[str], driver: str) -> str:
    """Return the error about unknown names of parameters in a URL, if there are any.

    The text does not contain the name: it may be part of a password that contains an &.
    """
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, 1, 0.75)
            hint = f": did you mean {near[0]}?" if near else "; write & in a password as %26"
            return f"one of its parameters is not known to {driver}{hint}"
    return ""


def silent_socket(descriptor: int) -> bool:
    """Whether nothing has arrived on an idle connection: its end would arrive as an event."""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return not waiting.poll(0)


def set_times(rows: Sequence[dict[str, Any]], now: int, next_second: int) -> None:
    """Set the times of rows to insert, as numbers, which the database evaluates faster than expressions.

    Args:
        rows: to insert.
        now: the database's unix time, rounded down.
        next_second: the same, rounded up: a delay counts from it, so that it is never too short.

    """
    for row in rows:
        leased, delay = row["leased"], row["delay"]
        row["now"] = now
        row["due"] = delay + (now if leased or not delay else next_second)
        row["since"] = now if leased else 0
        row["lease_end"] = row["due"] if leased else 0


def statement_for(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the name of the statement that inserts these rows: there is another one for wide rows."""
    return f"{name}_wide" if "partition" in rows[0] else name


class RunStatement(Protocol):
    """Runs a named statement and returns its rows."""

    def __call__(self, name: str, /, rows: Sequence[Mapping[str, Any]] = (), **values: Any) -> Any:
        """Run the statement with these values; ``rows``: the values of the line that repeats."""


class Dialect:
    """One kind of database, through one driver. Its state is what it has read from a URL and a server."""

    #: The name of the dialect in SQLAlchemy, and of its file of statements.
    name: ClassVar[str]
    #: The driver's placeholder for a value.
    placeholder: ClassVar[str]
    #: Starts a transaction. Until it ends, no other transaction changes a row that it has read for an update.
    begin: ClassVar[str]
    #: Whether a transaction locks rows, and not the whole database.
    locks_rows: ClassVar[bool] = True
    #: Maximum number of jobs that are inserted by one statement outside of a transaction.
    single_rows: ClassVar[int] = sys.maxsize
    #: Whether idle connections must be closed before this process forks.
    close_before_fork: ClassVar[bool] = False
    #: Seconds to wait for a row lock, if not ``LOCK_TIMEOUT``.
    lock_timeout: float | None = None
    #: The package to install for each driver that a URL may name.
    packages: ClassVar[Mapping[str, str]] = {}
    #: Whether the job table treats names that differ in their bytes as equal; known after the first check.
    folding: bool = False
    #: Whether a pooler may run each transaction in another session, so that a setting lasts for one
    #: transaction; known after the first connection.
    pooled: bool = False
    #: Whether the database has incarnations: its ids can start again on another server.
    has_incarnations: bool = True
    #: Whether the server is a node of a Galera cluster; known after the first connection.
    clustered: bool = False
    #: Maximum bytes of the arguments of one statement; known after the first connection.
    statement_bytes: int = sys.maxsize
    #: The name of the server's setting that limits these bytes.
    statement_setting: ClassVar[str] = ""

    def engine(self, url: URL) -> tuple[URL, dict[str, Any]]:
        """Return the URL with the driver to use, and further arguments of the driver's ``connect``.

        Raises:
            UsageError: the URL cannot be used.

        """
        raise NotImplementedError

    def create(self, where: str) -> None:
        """Create an empty database if there is none and the dialect permits that.

        Raises:
            UnreachableError: it cannot be made.

        """

    def parameters(self, driver: Any) -> frozenset[str] | None:
        """Return the names of parameters that a URL may have for the driver, None if they are not known."""
        return None

    def server_facts(self, run: RunStatement) -> dict[str, str]:
        """Return facts for ``doctor`` that need further statements, or privileges that a user may lack."""
        return {}

    def local_facts(self, read: Mapping[str, str]) -> dict[str, str]:
        """Return facts for ``doctor`` that no statement reads, or that replace facts from a statement."""
        return {}

    def node(self, connection: Any) -> str:
        """Return the name of the node of a cluster that a connection reaches; empty without a cluster."""
        return ""

    def engine_advice(self, error: Exception) -> str:
        """Return advice if a caller's engine failed to connect with this error, which is not the driver's."""
        return ""

    def hook(self, engine: Engine) -> None:
        """Change how our own engine connects."""

    def prepare(self, connection: Any) -> None:
        """Set up a new connection of our pool: autocommit, and the settings of its session."""
        raise NotImplementedError

    def borrow(self, connection: Any) -> Any:
        """Switch a caller's connection to autocommit; return its settings for ``give_back``."""
        raise NotImplementedError

    def give_back(self, connection: Any, before: Any) -> None:
        """Give a caller's connection its settings back."""
        raise NotImplementedError

    def cursor(self, connection: Any) -> Any:
        """Return a cursor on a caller's connection whose rows are tuples, whatever the caller has set."""
        return connection.cursor()

    def begin_transaction(self, cursor: Any) -> int | None:
        """Begin a transaction with a lock timeout of ``lock_timeout``. One round trip.

        Returns the incarnation of the database, if a pooler may have changed the server.
        """
        cursor.execute(self.begin)
        return None

    def shorten_lock_wait(self, cursor: Any) -> Any:
        """Make the current transaction wait for no lock, or as briefly as the server allows.

        Returns the setting for ``restore_lock_wait``.
        """

    def restore_lock_wait(self, cursor: Any, before: Any) -> None:
        """Let the session wait for locks as before."""

    @contextmanager
    def carrying(self, cursor: Any, texts: Collection[str]) -> Iterator[None]:
        """Make sure that a caller's connection stores these texts as they are, until the context ends.

        Raises:
            UsageError: the connection would change a text.

        """
        yield

    def in_transaction(self, connection: Any) -> bool:
        """Whether a transaction is open on a connection. No round trip."""
        raise NotImplementedError

    def autocommits(self, connection: Any) -> bool:
        """Whether a caller's connection, after its first locking read, is known to be in no transaction."""
        try:
            return not self.in_transaction(connection)
        except AttributeError:  # an asynchronous driver, or another one than ours
            return False

    def usable(self, connection: Any) -> bool:
        """Whether a connection may go back to the pool: it is not lost. No round trip."""
        raise NotImplementedError

    def takes_writes(self, connection: Any) -> bool:
        """Whether the server of a connection takes writes, as a primary does. One round trip."""
        return True

    def incarnation(self, connection: Any) -> int | None:
        """Return the incarnation of the database that a connection reaches. One round trip.

        The number is below 2^32. None: the database has no incarnation now, because it accepts no writes, or
        the server does not report it.
        """
        return None

    def alive(self, connection: Any) -> bool:
        """Whether an idle connection is known not to have been closed from the other side. No round trip."""
        return False

    @staticmethod
    def array(items: list[Any]) -> Any:
        """Return a list as the value of an array, if the database has arrays."""
        return items

    def insert(self, run: RunStatement, rows: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
        """Insert rows without a unique key; return id and time of each, in order. The rows may be changed.

        Either all rows have the values ``partition`` and ``headers``, or none has.
        """
        return sorted(run(statement_for("insert", rows), rows=rows))

    def insert_keyed(
        self, run: RunStatement, rows: Sequence[dict[str, Any]]
    ) -> list[tuple[int, int, str, str]]:
        """Insert those rows whose unique key no existing job has, not even a dead one.

        Returns id, time, function and key of the new rows. No other error than this conflict is ignored.
        """
        return list(run(statement_for("insert_keyed", rows), rows=rows))

    def name_of(self, stored: Any) -> str | bytes:
        """Return the name of a function that was not read as plain text.

        The name is bytes if a statement could not find the function's jobs by a text.
        """
        return stored.raw if isinstance(stored, Undecodable) else bytes(stored)

    def lanes(self, run: RunStatement) -> list[tuple[str, int, int, int, float]]:
        """Return function, state, priority and due time of each lane below dead, and the time now.

        The most urgent come first.
        """
        return list(run("lanes"))

    def before_upgrade(self, connection: Any) -> None:
        """Make the settings that the database keeps, outside a transaction."""

    def begin_upgrade(self, connection: Connection) -> None:
        """Start the transaction of an upgrade, and wait until no other upgrade is running."""
        # SQLite's driver starts no transaction by itself. Without one, half a schema could remain, or two
        # processes could create the tables.
        connection.exec_driver_sql(self.begin)

    def silent(self, error: Exception) -> bool:
        """Whether the server did not answer in time, so that another connection would not help."""
        return False

    def translate(self, error: Exception, where: str, *, committing: bool) -> GariviniError:
        """Translate an error of the driver into an error of this library.

        Args:
            error: the exception of the driver.
            where: names the database in the message.
            committing: whether COMMIT raised the error: then a lost connection leaves the outcome unknown.

        """
        raise NotImplementedError
