"""MariaDB and MySQL, through PyMySQL or mysqlclient."""

import inspect
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import zip_longest
from typing import Any, ClassVar, Final

from sqlalchemy import URL, Connection, Engine, event

from garivini.errors import (
    ConflictError,
    GariviniError,
    RefusedError,
    UsageError,
)
from garivini.store.dialects import mysql_inserts
from garivini.store.dialects.dialect import (
    IDLE_TIMEOUT,
    LOCK_TIMEOUT,
    UPGRADE_TIMEOUT,
    Dialect,
    RunStatement,
    silent_socket,
)
from garivini.store.dialects.distributed import refuse_distributed
from garivini.store.dialects.mysql_errors import translate
from garivini.store.dialects.mysql_lanes import LaneWalk
from garivini.store.dialects.mysql_primary import (
    PrimarySearch,
    ServerAddress,
    incarnation_of,
    servers_of,
    takes_writes,
)
from garivini.store.dialects.mysql_urls import PACKAGES, asks_for_tls, engine_url
from garivini.store.rows import decode

#: The code of the error if a user lacks a privilege of the whole server.
_NO_PRIVILEGE: Final = 1227
#: Used for ``IDLE_TIMEOUT`` on MySQL, which has no such setting: seconds after which the server ends any idle
#: connection.
WAIT_TIMEOUT: Final = 60
#: Maximum number of texts of a caller's insert that one statement checks.
_CARRIED: Final = 100
#: Maximum bytes of a statement that are not arguments.
_OVERHEAD: Final = 64 * 1024
#: The oldest versions with all that the statements need.
_OLDEST: Final = {"MariaDB": (10, 6, 0), "MySQL": (8, 0, 17)}
#: Asks for the identity of a server. MariaDB has none of its own; replicas differ in their server_id.
_NAME_OF: Final = {
    "MariaDB": "SELECT CONCAT_WS(' ', @@hostname, @@port, @@server_id, @@datadir)",
    "MySQL": "SELECT @@server_uuid",
}
#: The mode of our sessions: an error if a value does not fit.
_SQL_MODE: Final = "STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
#: Prevents a node of Galera from running a single statement again when another node has changed the same
#: rows, because then INSERT ... RETURNING returns nothing, or the rows of two runs.
_NO_RERUN: Final = "SESSION wsrep_retry_autocommit = 0"
#: The bit for an open transaction in the flags that the server sends with each answer.
_IN_TRANSACTION: Final = 1
#: The bit for autocommit.
_AUTOCOMMIT: Final = 2


class MySQL(Dialect):
    """MariaDB 10.6 and newer and MySQL 8, through PyMySQL or mysqlclient."""

    name = "mysql"
    placeholder = "%s"
    packages: ClassVar[Mapping[str, str]] = PACKAGES
    # A read-only server refuses this. After a plain BEGIN a former primary would answer locking reads, from
    # rows that are out of date.
    begin = "START TRANSACTION READ WRITE"
    statement_setting = "max_allowed_packet"

    def __init__(self) -> None:
        self._server = ""
        #: The number of rows below which INSERT returns the rows that it has stored.
        self._returning = 0
        #: Whether the server can run a statement again by itself.
        self._reruns = False
        #: Whether the URL asks for TLS.
        self._tls = False
        #: The servers that the URL names, if there are several.
        self._servers: list[ServerAddress] = []
        self._walk = LaneWalk()
        self._clock = mysql_inserts.ServerClock()

    # ---- connections

    def server_facts(self, run: RunStatement) -> dict[str, str]:
        found = {name: str(value) for name, value in run("cluster")} if self.clustered else {}
        group = dict(run("group_replication"))
        if "group_replication_single_primary_mode" in group:  # otherwise the plugin is not loaded
            found |= group
        return found | _snapshots(run)

    def engine(self, url: URL) -> tuple[URL, dict[str, Any]]:
        self._tls = asks_for_tls(url)
        self._servers = servers_of(url)
        return engine_url(url)

    def parameters(self, driver: Any) -> frozenset[str] | None:
        if driver.__name__ != "pymysql":
            return None
        ours = ("ssl_capath", "ssl_cipher", "ssl_check_hostname")  # SQLAlchemy's argument ``ssl``
        return frozenset((*inspect.signature(driver.connections.Connection).parameters, *ours))

    def hook(self, engine: Engine) -> None:
        open_connection = engine.dialect.loaded_dbapi.connect
        if engine.dialect.driver == "pymysql":
            from garivini.store.dialects.pymysql_connection import Connection as open_connection
        if self._servers:
            error = engine.dialect.loaded_dbapi.OperationalError
            open_connection = PrimarySearch(self._servers, open_connection, error)

        @event.listens_for(engine, "do_connect")
        def connect(_: object, __: object, arguments: list[Any], named: dict[str, Any]) -> Any:
            return open_connection(*arguments, **named)

    def prepare(self, connection: Any) -> None:
        with closing(connection.cursor()) as cursor:
            if self._tls:
                _check_tls(cursor)
            self._meet(cursor)
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            own = (
                # Otherwise the server would convert a list of ids into a table, and lose their order.
                f"idle_transaction_timeout = {IDLE_TIMEOUT}, in_predicate_conversion_threshold = 0"
                if self._server == "MariaDB"
                else f"wait_timeout = {WAIT_TIMEOUT}"
            )
            if self._reruns:
                own += f", {_NO_RERUN}"
            settings = (
                # Set again, because an init_command in the URL may have chosen another character set.
                "SET character_set_client = utf8mb4, character_set_connection = utf8mb4,"
                " character_set_results = utf8mb4,"
                f" SESSION sql_mode = '{_SQL_MODE}', innodb_lock_wait_timeout = {self._lock_wait()},"
                f" lock_wait_timeout = {LOCK_TIMEOUT}, autocommit = 1, {own}"
            )
            cursor.execute(settings)

    def borrow(self, connection: Any) -> Any:
        with closing(self.cursor(connection)) as cursor:
            self._meet(cursor)
            isolation = "tx_isolation" if self._server == "MariaDB" else "transaction_isolation"
            settings = (
                "SELECT @@SESSION.autocommit, @@SESSION.sql_mode, @@SESSION.innodb_lock_wait_timeout,"
                f" @@SESSION.{isolation}"
            )
            cursor.execute(settings)
            ((autocommit, sql_mode, lock_wait, level),) = cursor.fetchall()
            reruns = self._stop_reruns(cursor)
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            cursor.execute(
                "SET SESSION sql_mode = %s, autocommit = 1, innodb_lock_wait_timeout = %s",
                (_SQL_MODE, lock_wait if self.lock_timeout is None else self._lock_wait()),
            )
        return autocommit, sql_mode, lock_wait, level.replace("-", " "), reruns

    def _stop_reruns(self, cursor: Any) -> int | None:
        """Let a caller's session run each statement once; return the previous setting, if there is one."""
        if not self.clustered:
            return None
        cursor.execute("SELECT @@SESSION.wsrep_retry_autocommit")
        ((before,),) = cursor.fetchall()
        cursor.execute("SET SESSION wsrep_retry_autocommit = 0")
        return int(before)

    def give_back(self, connection: Any, before: Any) -> None:
        autocommit, sql_mode, lock_wait, level, reruns = before
        with closing(self.cursor(connection)) as cursor:
            isolation = f"SET SESSION TRANSACTION ISOLATION LEVEL {level}"  # as the server sent it
            cursor.execute(isolation)
            cursor.execute(
                "SET SESSION sql_mode = %s, autocommit = %s, innodb_lock_wait_timeout = %s",
                (sql_mode, autocommit, lock_wait),
            )
            if reruns is not None:
                cursor.execute("SET SESSION wsrep_retry_autocommit = %s", (reruns,))

    def node(self, connection: Any) -> str:
        if not self.clustered:
            return ""
        with closing(self.cursor(connection)) as cursor:
            cursor.execute("SELECT @@wsrep_node_name")
            ((name,),) = cursor.fetchall()
        return str(name)

    def _lock_wait(self) -> int:
        """Return the seconds to wait for a row lock; the server accepts only whole ones."""
        return LOCK_TIMEOUT if self.lock_timeout is None else max(1, round(self.lock_timeout))

    def shorten_lock_wait(self, cursor: Any) -> int:
        cursor.execute("SELECT @@SESSION.innodb_lock_wait_timeout")
        ((before,),) = cursor.fetchall()
        # MySQL and MariaDB accept no timeout below one second.
        cursor.execute("SET SESSION innodb_lock_wait_timeout = %s", (0 if self._server == "MariaDB" else 1,))
        return int(before)

    def restore_lock_wait(self, cursor: Any, before: int) -> None:
        cursor.execute("SET SESSION innodb_lock_wait_timeout = %s", (before,))

    def _meet(self, cursor: Any) -> None:
        """Read once which server it is and how large a statement may be."""
        if self._server:
            return
        cursor.execute("SELECT VERSION(), @@max_allowed_packet")
        ((version, packet),) = cursor.fetchall()
        refuse_distributed(version)
        server = "MariaDB" if "mariadb" in version.lower() else "MySQL"
        # MariaDB may send a false version first, for old clients: 5.5.5-10.11.2-MariaDB.
        found = re.findall(r"(\d+)\.(\d+)\.(\d+)", version)
        number = tuple(map(int, found[-1])) if found else (0, 0, 0)
        if number < _OLDEST[server]:
            oldest = ".".join(map(str, _OLDEST[server]))
            raise RefusedError(f"{server} {version} is too old: {server} {oldest} is the first that works")
        # Half of a packet, because each byte of an argument may need an escape.
        self.statement_bytes: int = packet // 2 - _OVERHEAD
        cursor.execute("SHOW VARIABLES WHERE Variable_name IN ('wsrep_on', 'wsrep_retry_autocommit')")
        galera = dict(cursor.fetchall())
        self.clustered: bool = galera.get("wsrep_on") == "ON"
        self._reruns = "wsrep_retry_autocommit" in galera
        if self.returns_rows(server):
            # On a cluster RETURNING gives all ids. To compute them, we would need their step, and it changes
            # when a node joins or leaves, perhaps after we have read it.
            self._returning = sys.maxsize if self.clustered else mysql_inserts.FEW
        self._server = server

    def returns_rows(self, server: str) -> bool:
        """Whether a server's INSERT can have RETURNING."""
        return server == "MariaDB"

    def cursor(self, connection: Any) -> Any:
        try:
            from pymysql.connections import Connection as PyMySQLConnection
            from pymysql.cursors import Cursor
        except ImportError:
            return connection.cursor()
        # The cursor class of the caller's connection may return mappings.
        return connection.cursor(Cursor) if isinstance(connection, PyMySQLConnection) else connection.cursor()

    @contextmanager
    def carrying(self, cursor: Any, texts: Collection[str]) -> Iterator[None]:
        mode, strict = "", True
        for part in _batched(texts, _CARRIED):
            # Returns the texts as the server receives them, whatever the character sets. They are joined by
            # NUL, which no text contains.
            cursor.execute("SELECT @@SESSION.sql_mode, HEX(CONVERT(%s USING utf8mb4))", ("\0".join(part),))
            ((mode, found),) = cursor.fetchall()
            strict = "STRICT_" in mode or "TRADITIONAL" in mode
            understood = bytes.fromhex(found or "").split(b"\0")
            for text, got in zip_longest(part, understood):
                if text is None or got != text.encode():
                    raise UsageError(
                        f"the connection cannot carry {text!r:.100}: connect with charset=utf8mb4, "
                        "and leave its character sets as they are"
                    )
        if not strict:
            # Otherwise a column that cannot store a text would store question marks instead.
            cursor.execute("SET SESSION sql_mode = %s", (f"{mode},STRICT_ALL_TABLES".strip(","),))
        try:
            yield
        finally:
            if not strict:
                with suppress(Exception):  # the connection is lost, and its user gets that error
                    cursor.execute("SET SESSION sql_mode = %s", (mode,))

    def in_transaction(self, connection: Any) -> bool:
        status = getattr(connection, "server_status", None)
        if status is None:
            return True  # mysqlclient does not report whether a transaction is open
        return bool(connection.open and status & _IN_TRANSACTION)

    def autocommits(self, connection: Any) -> bool:
        # PyMySQL takes no flags from the answer to a read.
        status = getattr(connection, "server_status", 0)
        return status & (_AUTOCOMMIT | _IN_TRANSACTION) == _AUTOCOMMIT

    def usable(self, connection: Any) -> bool:
        return bool(getattr(connection, "open", True))

    def takes_writes(self, connection: Any) -> bool:
        return takes_writes(connection)

    def incarnation(self, connection: Any) -> int | None:
        return incarnation_of(connection, _NAME_OF[self._server])

    def alive(self, connection: Any) -> bool:
        # Only PyMySQL gives access to the socket of a connection.
        socket = getattr(connection, "_sock", None)
        return socket is not None and silent_socket(socket.fileno())

    # ---- jobs

    def name_of(self, stored: Any) -> str | bytes:
        # The name is from a binary column, whose values are compared with the bytes of a text.
        name = decode(bytes(stored))
        return name if type(name) is str else super().name_of(name)

    def insert(self, run: RunStatement, rows: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
        return mysql_inserts.insert(run, rows, self._clock, returning=self._returning)

    def insert_keyed(
        self, run: RunStatement, rows: Sequence[dict[str, Any]]
    ) -> list[tuple[int, int, str, str]]:
        return mysql_inserts.insert_keyed(run, rows, self._clock, returning=self._returning)

    def lanes(self, run: RunStatement) -> list[tuple[str, int, int, int, float]]:
        return self._walk.run(run)

    # ---- the schema

    def begin_upgrade(self, connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        # The connection is not used again: it closes at the end, which releases the lock.
        connection.detach()
        if hasattr(driver, "_read_timeout"):
            driver._read_timeout = None  # creating an index may take hours
        # Our mode, but with the kind of quotes that SQLAlchemy detected for this server, because Alembic
        # writes it.
        quotes = ",ANSI_QUOTES" if connection.dialect.identifier_preparer.initial_quote == '"' else ""
        connection.exec_driver_sql("SET SESSION sql_mode = %s", (_SQL_MODE + quotes,))
        # A session waiting for a table lock makes every later one queue up behind it.
        connection.exec_driver_sql("SET SESSION lock_wait_timeout = %s", (LOCK_TIMEOUT,))
        lock = "SELECT GET_LOCK(CONCAT('garivini ', LEFT(SHA2(DATABASE(), 256), 32)), %s)"
        if connection.exec_driver_sql(lock, (UPGRADE_TIMEOUT,)).scalar() != 1:
            raise ConflictError(f"another upgrade of this database took longer than {UPGRADE_TIMEOUT} s")

    # ---- errors

    def silent(self, error: Exception) -> bool:
        return "timed out" in str(error) or "(110)" in str(error)

    def translate(self, error: Exception, where: str, *, committing: bool) -> GariviniError:
        return translate(error, where, committing=committing)


def _batched(texts: Collection[str], size: int) -> Iterator[list[str]]:
    """Split texts into parts of at most ``size`` texts."""
    listed = sorted(texts)
    for start in range(0, len(listed), size):
        yield listed[start : start + size]


def _check_tls(cursor: Any) -> None:
    """Refuse an unencrypted connection: MariaDB's C library ignores ssl_mode."""
    cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
    if not any(cipher for _, cipher in cursor.fetchall()):
        raise RefusedError("the URL asks for TLS, see ssl_mode and ssl_ca, and the server offers none")


def _snapshots(run: RunStatement) -> dict[str, str]:
    """Return the oldest transaction that keeps deleted rows, for ``doctor``."""
    try:
        found = run("snapshots")
    except Exception as error:
        if error.args[:1] != (_NO_PRIVILEGE,):
            raise
        return {"snapshots": "hidden"}
    if not found:
        return {"oldest_snapshot": "0"}
    ((session, seconds),) = found
    return {"oldest_snapshot": str(seconds), "snapshot_holder": str(session)}
