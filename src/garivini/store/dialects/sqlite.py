"""SQLite, for one machine."""

import sqlite3
import time
from typing import Any, Final

from sqlalchemy import URL

from garivini.errors import (
    ConflictError,
    GariviniError,
    OutcomeUnknownError,
    RefusedError,
    SchemaError,
    UnreachableError,
    UsageError,
)
from garivini.store.dialects.dialect import SCHEMA_ADVICE, Dialect


class SQLite(Dialect):
    """SQLite 3.35 and newer, through Python's own driver."""

    name = "sqlite"
    placeholder = "?"
    # IMMEDIATE takes the write lock at once. A transaction that reads first and writes later can fail with
    # SQLITE_BUSY in the middle, where waiting does not help.
    begin = "BEGIN IMMEDIATE"
    locks_rows = False
    # A child process inherits the belief that the parent's locks are its own, and from then on shares the
    # file without any: its commits are lost when the parent closes. Idle connections are closed before.
    close_before_fork = True
    #: Seconds to wait for another writer.
    busy_timeout: Final = 5.0

    def engine(self, url: URL) -> tuple[URL, dict[str, Any]]:
        if not url.database or url.database == ":memory:":
            raise UsageError(
                f"{url.render_as_string()!r} would be gone with its process: name a file, as in sqlite:///jobs.db"
            )
        arguments = {"timeout": self.busy_timeout, "isolation_level": None, "check_same_thread": False}
        return url, arguments

    def prepare(self, connection: Any) -> None:
        # FULL is the default of most builds, not of all; with WAL it is one sync a commit.
        connection.execute("PRAGMA synchronous = FULL")

    def borrow(self, connection: Any) -> Any:
        level, connection.isolation_level = connection.isolation_level, None
        return level

    def give_back(self, connection: Any, level: Any) -> None:
        connection.isolation_level = level

    def in_transaction(self, connection: Any) -> bool:
        return bool(connection.in_transaction)

    def usable(self, connection: Any) -> bool:
        return True

    def alive(self, connection: Any) -> bool:
        return True

    def before_upgrade(self, connection: Any) -> None:
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
        # Codes: sqlite.org, "Result and Error Codes".
        if isinstance(error, sqlite3.Error):
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            match code:
                case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                    found = ConflictError(f"{where} was locked for {self.busy_timeout:g} s by another writer")
                    found.whole = True
                    return found
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
