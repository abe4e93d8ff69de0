"""The steps of the baselines on each database, with only a driver: no renewals, no retries, no fences."""

import json
import sqlite3
import time
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from sqlalchemy import make_url

from garivini.cli.bench.runs import FLOOR
from garivini.errors import UsageError

#: A claimed job: jobid, funcname, arg, uniqkey, coalesce, run_after, flag, failcount.
Row: TypeAlias = tuple[int, str, bytes, str | None, str | None, int, str | None, int]

#: Rows per statement and transaction.
BATCH: Final = 1000


class BareSQLite:
    """The steps on SQLite, with Python's driver only."""

    #: The description of the bulk insert, for the output.
    method: Final = "sqlite3 executemany, one transaction per batch"

    _INSERT: Final = "INSERT INTO job (funcname, arg, run_after, created) VALUES (?, ?, ?, ?)"
    _CLAIM: Final = """
        UPDATE job SET state = 1, run_after = ?
         WHERE jobid IN (SELECT jobid FROM job INDEXED BY job_lane
                          WHERE funcname = ? AND state = 0 AND priority = 1 AND run_after <= ?
                          ORDER BY run_after LIMIT ?)
        RETURNING jobid, funcname, arg, uniqkey, "coalesce", run_after, flag, failcount"""
    _DELETE: Final = "DELETE FROM job WHERE jobid IN (SELECT value FROM json_each(?))"
    _ENDED: Final = """
        SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'job'), 0)
               - (SELECT count(*) FROM job)"""

    def __init__(self, url: str) -> None:
        self._db = sqlite3.connect(str(make_url(url).database), timeout=60, isolation_level=None)
        self._db.execute("PRAGMA synchronous = FULL")  # the WAL mode is stored in the file

    def insert_many(self, args: Sequence[bytes], delay: int = 0) -> range:
        """Insert jobs that are due after ``delay`` seconds, in one transaction; return their ids."""
        now = int(time.time())
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(self._INSERT, [(FLOOR, arg, now + delay, now) for arg in args])
        ((last,),) = self._db.execute("SELECT last_insert_rowid()")
        self._db.execute("COMMIT")
        return range(last - len(args) + 1, last + 1)

    def insert_one(self, arg: bytes) -> int:
        """Insert a job with its own commit; return its id."""
        now = int(time.time())
        return self._db.execute(self._INSERT, (FLOOR, arg, now, now)).lastrowid or 0

    def claim(self) -> list[Row]:
        """Lease a batch of due jobs; return their rows."""
        now = int(time.time())
        return self._db.execute(self._CLAIM, (now + 60, FLOOR, now, BATCH)).fetchall()

    def delete(self, jobids: Sequence[int]) -> None:
        """Delete finished jobs."""
        self._db.execute(self._DELETE, (json.dumps(jobids),))

    # ---- for checks by the bench

    def standing(self, *, leased: bool = False) -> list[int]:
        """Return the ids in the table; ``leased``: only of claimed jobs."""
        query = "SELECT jobid FROM job WHERE state >= ?"
        return [jobid for (jobid,) in self._db.execute(query, (1 if leased else 0,))]

    def empty(self) -> bool:
        """Return whether the table has no job."""
        return not self._db.execute("SELECT EXISTS (SELECT 1 FROM job)").fetchone()[0]

    def holds(self, count: int) -> bool:
        """Return whether the table has at least this number of jobs."""
        query = "SELECT count(*) FROM (SELECT 1 FROM job LIMIT ?)"
        return bool(self._db.execute(query, (count,)).fetchone()[0] == count)

    def ended(self) -> int:
        """Return the number of jobs that were inserted and have been deleted. One statement counts them."""
        return int(self._db.execute(self._ENDED).fetchone()[0])

    def clear(self) -> None:
        """Empty the table and the write-ahead log, so that each round starts in the same state."""
        self._db.execute("DELETE FROM job")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def describe(self) -> dict[str, str]:
        """Return the version and durability that the database reports."""
        (journal,) = self._db.execute("PRAGMA journal_mode").fetchone()
        (synchronous,) = self._db.execute("PRAGMA synchronous").fetchone()
        level = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}[synchronous]
        return {
            "database": f"SQLite {sqlite3.sqlite_version}",
            "durability": f"journal_mode={journal.upper()}, synchronous={level}",
        }

    def close(self) -> None:
        """Close the connection."""
        self._db.close()


class BareMySQL:
    """The steps on MariaDB or MySQL, with PyMySQL only."""

    method: Final = "PyMySQL, INSERT of many rows, one statement and transaction per batch"

    _INSERT: Final = "INSERT INTO job (funcname, arg, run_after, created) VALUES "
    _CLAIM: Final = """
        SELECT jobid, funcname, arg, uniqkey, `coalesce`, run_after, flag, failcount
          FROM job FORCE INDEX (job_lane)
         WHERE funcname = %s AND state = 0 AND priority = 1 AND run_after <= %s
         ORDER BY run_after LIMIT %s FOR UPDATE SKIP LOCKED"""
    _LEASE: Final = "UPDATE job SET state = 1, run_after = %s WHERE jobid IN %s"
    _ENDED: Final = """
        SELECT (SELECT auto_increment FROM information_schema.tables
                 WHERE table_schema = DATABASE() AND table_name = 'job') - 1 - (SELECT COUNT(*) FROM job)"""

    def __init__(self, url: str) -> None:
        import pymysql  # installed by the extra

        parts = make_url(url)
        self._db = pymysql.connect(
            host=parts.host or "127.0.0.1",
            port=parts.port or 3306,
            user=parts.username,
            password=parts.password or "",
            database=parts.database,
            autocommit=True,
            init_command="SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        )
        self._cursor = self._db.cursor()
        # Otherwise MySQL could report a next id of the table that is up to a day old.
        self._cursor.execute("SET /*!80000 information_schema_stats_expiry = 0, */ autocommit = 1")

    def insert_many(self, args: Sequence[bytes], delay: int = 0) -> range:
        """Insert jobs that are due after ``delay`` seconds, in one transaction; return their ids."""
        now = int(time.time())
        values = [value for arg in args for value in (FLOOR, arg, now + delay, now)]
        self._cursor.execute(self._INSERT + ",".join(["(%s,%s,%s,%s)"] * len(args)), values)
        first = self._cursor.lastrowid
        return range(first, first + len(args))

    def insert_one(self, arg: bytes) -> int:
        """Insert a job with its own commit; return its id."""
        return self.insert_many([arg])[0]

    def claim(self) -> list[Row]:
        """Lease a batch of due jobs; return their rows."""
        now = int(time.time())
        self._cursor.execute("BEGIN")
        self._cursor.execute(self._CLAIM, (FLOOR, now, BATCH))
        found: list[Any] = list(self._cursor.fetchall())
        if found:
            self._cursor.execute(self._LEASE, (now + 60, sorted(row[0] for row in found)))
        self._cursor.execute("COMMIT")
        return found

    def delete(self, jobids: Sequence[int]) -> None:
        """Delete finished jobs."""
        self._cursor.execute("DELETE FROM job WHERE jobid IN %s", (sorted(jobids),))

    # ---- for checks by the bench

    def standing(self, *, leased: bool = False) -> list[int]:
        """Return the ids in the table; ``leased``: only of claimed jobs."""
        self._cursor.execute("SELECT jobid FROM job WHERE state >= %s", (1 if leased else 0,))
        return [jobid for (jobid,) in self._cursor.fetchall()]

    def empty(self) -> bool:
        """Return whether the table has no job."""
        return not self._one("SELECT EXISTS (SELECT 1 FROM job)")

    def holds(self, count: int) -> bool:
        """Return whether the table has at least this number of jobs."""
        return bool(self._one("SELECT COUNT(*) FROM (SELECT 1 FROM job LIMIT %s) AS j", count) == count)

    def ended(self) -> int:
        """Return the number of jobs that were inserted and have been deleted. One statement counts them."""
        return int(self._one(self._ENDED))

    def clear(self) -> None:
        """Empty the table and its files, so that each round starts in the same state. Ids continue."""
        following = self._one("SELECT COALESCE(MAX(jobid), 0) + 1 FROM job")
        following = max(following, self.ended() + 1)
        self._cursor.execute("TRUNCATE job")
        self._cursor.execute("ALTER TABLE job AUTO_INCREMENT = %s", (following,))

    def describe(self) -> dict[str, str]:
        """Return the version and durability that the database reports."""
        names = ("innodb_flush_log_at_trx_commit", "innodb_doublewrite", "log_bin", "sync_binlog")
        settings = {name: self._one(f"SELECT @@{name}") for name in names}
        return {
            "database": self._one("SELECT VERSION()"),
            "durability": ", ".join(f"{name}={value}" for name, value in settings.items()),
        }

    def _one(self, query: str, *values: Any) -> Any:
        self._cursor.execute(query, values or None)
        ((value,),) = self._cursor.fetchall()
        return value

    def close(self) -> None:
        """Close the connection."""
        self._db.close()


class BarePostgreSQL:
    """The steps on PostgreSQL, with psycopg only, which prepares the statements."""

    method: Final = "psycopg, INSERT of unnest, one statement and transaction per batch"

    _INSERT: Final = """
        INSERT INTO job (funcname, arg, run_after, created)
        SELECT %s, a, %s, %s FROM unnest(%s::bytea[]) AS a RETURNING jobid"""
    _CLAIM: Final = """
        WITH due AS MATERIALIZED (
          SELECT jobid FROM job
           WHERE funcname = %s AND state = 0 AND priority = 1 AND run_after <= %s
           ORDER BY run_after LIMIT %s FOR UPDATE SKIP LOCKED)
        UPDATE job SET state = 1, run_after = %s FROM due WHERE job.jobid = due.jobid
        RETURNING job.jobid, funcname, arg, uniqkey, "coalesce", run_after, flag, failcount"""
    _DELETE: Final = "DELETE FROM job WHERE jobid = ANY (%s)"
    _ENDED: Final = """
        SELECT (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM job_jobid_seq)
               - (SELECT count(*) FROM job)"""

    def __init__(self, url: str) -> None:
        import psycopg  # installed by the extra

        self._db = psycopg.connect(url, autocommit=True, prepare_threshold=1)
        ((process,),) = self._db.execute("SELECT pg_backend_pid()").fetchall()
        if process != self._db.info.backend_pid:
            # This is a pooler: the next transaction may be in a session in which nothing was prepared.
            self._db.prepare_threshold = None

    def insert_many(self, args: Sequence[bytes], delay: int = 0) -> Sequence[int]:
        """Insert jobs that are due after ``delay`` seconds, in one transaction; return their ids."""
        now = int(time.time())
        return sorted(
            jobid for (jobid,) in self._db.execute(self._INSERT, (FLOOR, now + delay, now, list(args)))
        )

    def insert_one(self, arg: bytes) -> int:
        """Insert a job with its own commit; return its id."""
        return self.insert_many([arg])[0]

    def claim(self) -> list[Row]:
        """Lease a batch of due jobs; return their rows."""
        now = int(time.time())
        found: list[Any] = self._db.execute(self._CLAIM, (FLOOR, now, BATCH, now + 60)).fetchall()
        return found

    def delete(self, jobids: Sequence[int]) -> None:
        """Delete finished jobs."""
        self._db.execute(self._DELETE, (list(jobids),))

    # ---- for checks by the bench

    def standing(self, *, leased: bool = False) -> list[int]:
        """Return the ids in the table; ``leased``: only of claimed jobs."""
        query = "SELECT jobid FROM job WHERE state >= %s ORDER BY jobid"
        return [jobid for (jobid,) in self._db.execute(query, (1 if leased else 0,))]

    def empty(self) -> bool:
        """Return whether the table has no job."""
        return not self._one("SELECT EXISTS (SELECT 1 FROM job)")

    def holds(self, count: int) -> bool:
        """Return whether the table has at least this number of jobs."""
        return bool(self._one("SELECT count(*) FROM (SELECT 1 FROM job LIMIT %s) AS j", count) == count)

    def ended(self) -> int:
        """Return the number of jobs that were inserted and have been deleted. One statement counts them."""
        return int(self._one(self._ENDED))

    def clear(self) -> None:
        """Empty the table and its files, so that each round starts in the same state."""
        self._db.execute("TRUNCATE job")

    def describe(self) -> dict[str, str]:
        """Return the version and durability that the database reports."""
        settings = {name: self._one("SELECT current_setting(%s)", name) for name in _DURABILITY}
        return {
            "database": f"PostgreSQL {self._one('SHOW server_version')}",
            "durability": ", ".join(f"{name}={value}" for name, value in settings.items()),
        }

    def _one(self, query: str, *values: Any) -> Any:
        ((value,),) = self._db.execute(query.encode(), values or None).fetchall()
        return value

    def close(self) -> None:
        """Close the connection."""
        self._db.close()


_DURABILITY: Final = ("fsync", "synchronous_commit", "full_page_writes")

Bare: TypeAlias = BareSQLite | BareMySQL | BarePostgreSQL
_FLOORS: Final[dict[str, type[Bare]]] = {
    "mysql": BareMySQL,
    "postgresql": BarePostgreSQL,
    "sqlite": BareSQLite,
}


def connect(url: str) -> Bare:
    """Return the bare steps on the database of this URL.

    Raises:
        UsageError: there is no baseline for this kind of database.

    """
    backend = make_url(url).get_backend_name()
    if backend not in _FLOORS:
        raise UsageError(f"there is no baseline for {backend}: use one of {', '.join(_FLOORS)}")
    return _FLOORS[backend](url)
