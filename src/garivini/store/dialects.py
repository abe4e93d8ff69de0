"""What differs between databases beyond the text of a statement: one small class each."""

import sqlite3
import time
from collections.abc import Mapping
from typing import Any, Final

from garivini.errors import (
    ConflictError,
    GariviniError,
    OutcomeUnknownError,
    RefusedError,
    SchemaError,
    UnreachableError,
    UsageError,
)

SCHEMA_ADVICE: Final = "run `garivini db upgrade`"


class SQLite:
    """SQLite 3.35 and newer, through Python's own driver."""

    name: Final = "sqlite"
    placeholder: Final = "?"
    #: Values in one statement, at most (SQLITE_MAX_VARIABLE_NUMBER since 3.32).
    max_values: Final = 32_766
    #: IMMEDIATE takes the write lock at once. A transaction that reads first and writes later can fail
    #: with SQLITE_BUSY in the middle, where waiting does not help.
    begin: Final = "BEGIN IMMEDIATE"
    #: A child process inherits the belief that the parent's locks are its own, and from then on shares the
    #: file without any: its commits are lost when the parent closes. Idle connections are closed before.
    close_before_fork: Final = True
    #: Seconds to wait for another writer.
    busy_timeout: Final = 5.0

    def open_arguments(self) -> Mapping[str, Any]:
        """Return what the driver's ``connect`` takes beside the URL."""
        return {"timeout": self.busy_timeout, "isolation_level": None, "check_same_thread": False}

    def prepare(self, connection: Any) -> None:
        """Set a connection of ours up, once."""
        # FULL is the default of most builds, not of all; with WAL it is one sync a commit.
        connection.execute("PRAGMA synchronous = FULL")

    def borrow(self, connection: Any) -> Any:
        """Switch a caller's connection to autocommit; return what ``give_back`` needs."""
        level, connection.isolation_level = connection.isolation_level, None
        return level

    def give_back(self, connection: Any, level: Any) -> None:
        """Switch it back."""
        connection.isolation_level = level

    def before_upgrade(self, connection: Any) -> None:
        """Set up what stays with the database, outside a transaction."""
        # Readers and the one writer do not block each other; a commit is one append and one sync. The switch
        # does not wait for another process by itself.
        deadline = time.monotonic() + self.busy_timeout
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def translate(self, error: Exception, where: str, *, committing: bool) -> GariviniError:
        """Return our error for one of the driver's. Codes: sqlite.org, "Result and Error Codes"."""
        if isinstance(error, sqlite3.Error):
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            match code:
                case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                    return ConflictError(f"{where} was locked for {self.busy_timeout:g} s by another writer")
                case sqlite3.SQLITE_FULL:
                    return RefusedError(f"{where}: the disk is full; make room")
                case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
                    return RefusedError(f"{where} is read-only; check the permissions of file and folder")
                case sqlite3.SQLITE_CANTOPEN:
                    return UnreachableError(f"{where} cannot be opened; check that its folder exists")
                case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
                    return RefusedError(f"{where} is not a sound SQLite database: {error}")
                case sqlite3.SQLITE_TOOBIG:
                    return UsageError(f"{where} does not take a value that large: {error}")
                case sqlite3.SQLITE_IOERR:
                    kind = OutcomeUnknownError if committing else UnreachableError
                    return kind(f"{where}: the disk failed: {error}")
            if "no such table" in str(error) or "no such column" in str(error):
                return SchemaError(f"{where} has no tables of this version: {SCHEMA_ADVICE} ({error})")
        return RefusedError(f"{where} refused: {error}")


DIALECTS: Final = {"sqlite": SQLite}
