"""SQLite, for one machine."""

import os
import shlex
import sqlite3
import time
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

from sqlalchemy import URL, Engine, event

from garivini.errors import (
    ConflictError,
    GariviniError,
    OutcomeUnknownError,
    RefusedError,
    SchemaError,
    UnreachableError,
    UsageError,
)
from garivini.store.dialects.dialect import (
    NO_IDS,
    SCHEMA_ADVICE,
    Dialect,
    RunStatement,
    set_times,
    unknown_parameter,
)
from garivini.store.dialects.file_systems import network_file_system
from garivini.store.rows import decode

#: Allowed parameters of a URL: parameters of Python's driver, and with ``uri=true`` of SQLite too.
_DRIVERS: Final = frozenset(
    {"uri", "timeout", "isolation_level", "detect_types", "check_same_thread", "cached_statements"}
)
_OWN: Final = frozenset({"mode", "cache", "psow", "nolock", "immutable", "vfs"})
#: Messages of errors about tables of another version, for which SQLite has no separate codes.
_NOT_THERE: Final = ("no such table", "no such column", "has no column named")


class SQLite(Dialect):
    """SQLite 3.35 and newer, through Python's own driver."""

    name = "sqlite"
    placeholder = "?"
    # IMMEDIATE takes the write lock at once. A transaction that reads first and writes later can fail with
    # SQLITE_BUSY in between, and waiting does not help then.
    begin = "BEGIN IMMEDIATE"
    locks_rows = False
    has_incarnations = False
    single_rows = 19
    # A child process inherits the state of the parent's locks without the locks, and uses the file unlocked:
    # its commits are lost when the parent closes. So idle connections are closed before a fork.
    close_before_fork = True
    #: Seconds to wait for another writer.
    busy_timeout: Final = 5.0

    def __init__(self) -> None:
        #: The path of the file, if the dialect opens it.
        self._path: Path | None = None

    def engine(self, url: URL) -> tuple[URL, dict[str, Any]]:
        if not url.database or ":memory:" in url.database:
            raise UsageError(
                "a database in memory would be gone with its process: name a file, as in sqlite:///jobs.db"
            )
        if url.username or url.password or url.host or url.port:
            raise UsageError("the SQLite URL cannot be used: it takes a path alone, as in sqlite:///jobs.db")
        known = _DRIVERS | _OWN if "uri" in url.query else _DRIVERS
        if why := unknown_parameter(url.query, known, "sqlite3"):
            raise UsageError(f"the SQLite URL cannot be used: {why}")
        name = url.database
        self._path = Path(unquote(name.removeprefix("file:")) if "uri" in url.query else name).absolute()
        arguments = {"timeout": self.busy_timeout, "isolation_level": None, "check_same_thread": False}
        return url, arguments

    def create(self, where: str) -> None:
        if self._path is None:
            return
        try:
            # Readable only by the owner: the arguments of jobs are often personal data. SQLite
            # makes the files beside it (-wal, -shm) with the same permissions.
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            pass
        except OSError as error:
            raise UnreachableError(
                f"{where} cannot be opened; check that its folder exists: {error.strerror}"
            ) from error

    def local_facts(self, read: Mapping[str, str]) -> dict[str, str]:
        kind = None if self._path is None else network_file_system(self._path)
        return self._permissions() | ({} if kind is None else {"network_file_system": kind})

    def _permissions(self) -> dict[str, str]:
        # Users who may not enter the folder cannot read the files in it.
        if self._path is None or not all(parent.stat().st_mode & 0o001 for parent in self._path.parents):
            return {}
        paths = [self._path.with_name(self._path.name + end) for end in ("", "-wal", "-shm")]
        files = [path for path in paths if path.exists()]
        mode = reduce(or_, (path.stat().st_mode for path in files), 0) & 0o777
        return {"file_permissions": f"{mode:04o}", "file": shlex.quote(str(self._path))}

    def hook(self, engine: Engine) -> None:
        @event.listens_for(engine, "do_connect")
        def connect(_: object, __: object, arguments: list[Any], named: dict[str, Any]) -> sqlite3.Connection:
            # Without a mode SQLite creates a missing file, even for a mistyped name.
            (name,) = arguments
            if not named.get("uri"):
                name = f"file:{quote(name)}?mode=rw"
            elif "mode=" not in name:
                name += "&mode=rw" if "?" in name else "?mode=rw"
            connection: sqlite3.Connection = sqlite3.connect(name, **{**named, "uri": True})
            return connection

    def prepare(self, connection: Any) -> None:
        # FULL is the default of most builds, not of all; with WAL it is one sync per commit.
        connection.execute("PRAGMA synchronous = FULL")
        connection.text_factory = decode

    def borrow(self, connection: Any) -> Any:
        before = connection.isolation_level, connection.text_factory, connection.row_factory
        connection.isolation_level, connection.text_factory, connection.row_factory = None, decode, None
        return before

    def give_back(self, connection: Any, before: Any) -> None:
        connection.isolation_level, connection.text_factory, connection.row_factory = before

    def cursor(self, connection: Any) -> Any:
        cursor = connection.cursor()
        if isinstance(cursor, sqlite3.Cursor):
            cursor.row_factory = None  # the caller's row factory may return mappings
        return cursor

    def in_transaction(self, connection: Any) -> bool:
        return bool(connection.in_transaction)

    def autocommits(self, connection: Any) -> bool:
        # Otherwise Python's driver begins a transaction with the first write, and not with a read.
        return super().autocommits(connection) and getattr(connection, "isolation_level", "") is None

    def usable(self, connection: Any) -> bool:
        return True

    def alive(self, connection: Any) -> bool:
        return True

    def before_upgrade(self, connection: Any) -> None:
        # Readers and the one writer do not block each other; a commit is one append and one sync. The switch
        # to WAL does not wait for another process by itself.
        deadline = time.monotonic() + self.busy_timeout
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def insert(self, run: RunStatement, rows: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
        try:
            if len(rows) <= self.single_rows or "partition" in rows[0]:
                return super().insert(run, rows)
            # This is in a transaction, which has waited for other writers before the time is read.
            ((now, next_second),) = run("times")
            set_times(rows, now, next_second)
            last = run("insert_many", rows=rows)
        except Exception as error:
            _refuse_without_ids(run, error)
            raise
        return [(jobid, now) for jobid in range(last - len(rows) + 1, last + 1)]

    def insert_keyed(
        self, run: RunStatement, rows: Sequence[dict[str, Any]]
    ) -> list[tuple[int, int, str, str]]:
        try:
            return super().insert_keyed(run, rows)
        except Exception as error:
            _refuse_without_ids(run, error)
            raise

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
                case sqlite3.SQLITE_CANTOPEN if self._is_missing():
                    return SchemaError(
                        f"{where} has no tables, for there is no such file: {SCHEMA_ADVICE} to make it, or "
                        "correct the path"
                    )
                case sqlite3.SQLITE_CANTOPEN:
                    return UnreachableError(f"{where} cannot be opened; check that its folder exists")
                case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
                    return RefusedError(f"{where} is not a sound SQLite database: {error}")
                case sqlite3.SQLITE_TOOBIG:
                    return UsageError(f"{where} does not take a value that large: {error}")
                case sqlite3.SQLITE_IOERR:
                    kind = OutcomeUnknownError if committing else UnreachableError
                    return kind(f"{where}: the disk failed: {error}")
            if any(words in str(error) for words in _NOT_THERE):
                return SchemaError(f"{where} has no tables of this version: {SCHEMA_ADVICE} ({error})")
        return RefusedError(f"{where} refused: {error}")

    def _is_missing(self) -> bool:
        return self._path is not None and self._path.parent.is_dir() and not self._path.exists()


def _refuse_without_ids(run: RunStatement, error: Exception) -> None:
    """Raise a separate error if ids have run out: SQLite has the same code for that and for a full disk."""
    original: Any = getattr(error, "orig", None) or error
    full = getattr(original, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    if full and run("ids_left")[0][0] <= 0:
        raise RefusedError(f"the database {NO_IDS}, in the table sqlite_sequence") from error
