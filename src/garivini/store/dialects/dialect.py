"""What differs between databases beyond the text of their statements."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Protocol

from sqlalchemy import URL

from garivini.errors import GariviniError

SCHEMA_ADVICE: Final = "run `garivini db upgrade`"


class Run(Protocol):
    """Runs a named statement and returns its rows."""

    def __call__(self, name: str, /, rows: Sequence[Mapping[str, Any]] = (), **values: Any) -> Any:
        """Run it with these values; ``rows`` for the line that repeats."""


class Dialect:
    """One kind of database, through one driver. Stateless but for what a connection has told it."""

    #: SQLAlchemy's name, and that of the file of statements.
    name: ClassVar[str]
    #: What the driver puts for a value.
    placeholder: ClassVar[str]
    #: Starts a transaction in which a row that has been read for an update stays as it is.
    begin: ClassVar[str]
    #: Whether idle connections must be closed before this process forks.
    close_before_fork: ClassVar[bool] = False

    def engine(self, url: URL) -> tuple[URL, dict[str, Any]]:
        """Return the URL with the driver to use, and what the driver's ``connect`` takes beside it.

        Raises:
            UsageError: the URL cannot be used.

        """
        raise NotImplementedError

    def prepare(self, connection: Any) -> None:
        """Set a connection of ours up, once: autocommit, and what its session needs."""
        raise NotImplementedError

    def borrow(self, connection: Any) -> Any:
        """Switch a caller's connection to autocommit; return what ``give_back`` needs."""
        raise NotImplementedError

    def give_back(self, connection: Any, before: Any) -> None:
        """Switch it back."""
        raise NotImplementedError

    def in_transaction(self, connection: Any) -> bool:
        """Whether a transaction is open on a connection. No round trip."""
        raise NotImplementedError

    def usable(self, connection: Any) -> bool:
        """Whether a connection may go back to the pool: it is not lost. No round trip."""
        raise NotImplementedError

    def insert(self, run: Run, rows: Sequence[Mapping[str, Any]]) -> list[int]:
        """Insert rows without a unique key; return their ids in order."""
        return sorted(jobid for (jobid,) in run("insert", rows=rows))

    def insert_keyed(self, run: Run, rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, str, str]]:
        """Insert rows with a unique key where there is no live job of that key.

        Returns id, function and key of those that are new. No error but that conflict is passed over.
        """
        return list(run("insert_keyed", rows=rows))

    def before_upgrade(self, connection: Any) -> None:
        """Set up what stays with the database, outside a transaction."""

    def translate(self, error: Exception, where: str, *, committing: bool) -> GariviniError:
        """Return our error for one of the driver's.

        Args:
            error: what the driver raised.
            where: names the database.
            committing: whether it was raised by COMMIT, so that a lost connection leaves the outcome open.

        """
        raise NotImplementedError
