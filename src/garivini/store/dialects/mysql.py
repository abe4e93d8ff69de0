"""MariaDB and MySQL, through PyMySQL or mysqlclient."""

import inspect
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import zip_longest
from typing import Any, ClassVar, Final, TypeAlias

from sqlalchemy import URL, Connection, Engine, event

from garivini.databases.urls import shown_value
from garivini.errors import (
    ConflictError,
    GariviniError,
    OutcomeUnknownError,
    RefusedError,
    SchemaError,
    UnreachableError,
    UsageError,
)
from garivini.model.limits import NEVER, PRIORITIES
from garivini.model.state import State
from garivini.store.dialects.dialect import (
    IDLE_TIMEOUT,
    LOCK_TIMEOUT,
    NO_IDS,
    SCHEMA_ADVICE,
    TIMEOUT,
    UPGRADE_TIMEOUT,
    Dialect,
    RunStatement,
    parse_timeout,
    silent_socket,
)
from garivini.store.rows import decode

#: ``IDLE_TIMEOUT`` on MySQL, which knows no such bound: it ends any connection that is idle for so long.
WAIT_TIMEOUT: Final = 60
#: Rows for which RETURNING, one round trip less, is quicker than reading the id of the first alone.
_FEW: Final = 20
#: Texts of a caller's insert checked per statement.
_CARRIED: Final = 100
#: Places in the lane index that one statement looks at.
DIVES: Final = 100
#: Bytes of a statement that are not arguments.
_OVERHEAD: Final = 64 * 1024
#: The oldest versions with all that the statements need.
_OLDEST: Final = {"MariaDB": (10, 6, 0), "MySQL": (8, 0, 17)}
#: What our sessions need: errors where a value does not fit.
_SQL_MODE: Final = "STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
#: In the flags that the server sends with each answer.
_IN_TRANSACTION: Final = 1
_DUPLICATE: Final = 1062
_PRIMARY: Final = re.compile(r"for key '(job\.)?PRIMARY'")
#: Parameters for TLS that URLs of other drivers have.
_TLS_NAMES: Final = frozenset(
    "ssl ssl_mode tls sslmode usessl use_ssl requiressl require_ssl tls_mode".split()
)
_TIMEOUTS: Final = ("connect_timeout", "read_timeout", "write_timeout")

#: A place in the lane index: function, state, priority, time.
_Place: TypeAlias = tuple[str, int, int, int]
_START: Final[_Place] = ("", -1, -1, 0)
#: Behind every time that the column takes.
_END: Final = 2**32

_NO_IDS: Final = f"{NO_IDS}, by ALTER TABLE job AUTO_INCREMENT = 1"
#: By code: what it is here, and what to say. Codes below 1000 and above 2000 are partly the client's.
_ERRORS: Final[dict[int, tuple[type[GariviniError], str]]] = {
    167: (RefusedError, _NO_IDS),
    1020: (ConflictError, "gave way to another transaction"),
    1021: (RefusedError, "refused: the disk is full, make room"),
    1040: (RefusedError, "has too many connections: run fewer processes, or raise max_connections"),
    1044: (RefusedError, "refuses the user this database: GRANT it, or correct the URL"),
    1045: (RefusedError, "refuses the connection: check user and password"),
    1049: (RefusedError, "is not there: create it, or correct the URL"),
    1054: (SchemaError, f"has no tables of this version: {SCHEMA_ADVICE}"),
    1114: (RefusedError, "refused: the disk is full, make room"),
    1129: (RefusedError, "refuses this host: FLUSH HOSTS"),
    1130: (RefusedError, "does not let this host in: create the user for it"),
    1142: (RefusedError, "refused: the user lacks a privilege"),
    1143: (RefusedError, "refused: the user lacks a privilege"),
    1146: (SchemaError, f"has no tables of this version: {SCHEMA_ADVICE}"),
    1153: (UsageError, "does not take a statement that large: raise max_allowed_packet, or send less"),
    1176: (SchemaError, f"has no index of this version: {SCHEMA_ADVICE}"),
    1203: (RefusedError, "has too many connections: run fewer processes, or raise max_user_connections"),
    1205: (ConflictError, "was locked for too long by another transaction"),
    1206: (RefusedError, "has no room for locks: raise innodb_buffer_pool_size"),
    1213: (ConflictError, "gave way to another transaction"),
    1226: (RefusedError, "has too many connections: raise the user's MAX_USER_CONNECTIONS"),
    1227: (RefusedError, "refused: the user lacks a privilege"),
    1264: (UsageError, "does not take a value"),
    1290: (RefusedError, "is read-only: is it a replica?"),
    1317: (ConflictError, "ended a statement: somebody killed it"),
    1366: (UsageError, "does not take a value"),
    1370: (RefusedError, "refused: the user lacks a privilege"),
    1406: (UsageError, "does not take a value that long"),
    1467: (RefusedError, _NO_IDS),
    1665: (RefusedError, "logs statements, and needs binlog_format = MIXED or ROW"),
    1698: (RefusedError, "refuses the connection: check user and password"),
    1792: (RefusedError, "is read-only: is it a replica?"),
    1836: (RefusedError, "is read-only: is it a replica?"),
    1845: (RefusedError, "cannot do that at once: see `garivini db sql`"),
    1846: (RefusedError, "cannot do that at once: see `garivini db sql`"),
    1969: (ConflictError, "ended a statement that took longer than max_statement_time"),
    2026: (RefusedError, "refuses the connection: the URL asks for TLS, see ssl_mode and ssl_ca"),
    3024: (ConflictError, "ended a statement that took longer than max_execution_time"),
}
#: Where the other side has gone on, and the same call may be made again at once.
_TRANSIENT: Final = (1020, 1213)
#: Connections that could not be made, or are gone.
_LOST: Final = (
    1053,
    1080,
    1152,
    1158,
    1159,
    1160,
    1161,
    1184,
    1927,
    2002,
    2003,
    2005,
    2006,
    2012,
    2013,
    2055,
    3169,
    4031,
    4032,
)


class MySQL(Dialect):
    """MariaDB 10.6 and newer and MySQL 8, through PyMySQL or mysqlclient."""

    name = "mysql"
    placeholder = "%s"
    packages: ClassVar[Mapping[str, str]] = {"pymysql": "'garivini[mysql]'", "mysqldb": "mysqlclient"}
    begin = "BEGIN"
    statement_setting = "max_allowed_packet"

    def __init__(self) -> None:
        self._server = ""
        #: Whether INSERT returns the rows that it has stored.
        self._returning = False
        #: Whether the URL asks for TLS.
        self._tls = False
        #: Where lanes were found: places to look at first.
        self._places: list[_Place] = []

    # ---- connections

    def engine(self, url: URL) -> tuple[URL, dict[str, Any]]:
        driver = url.drivername.partition("+")[2] or "pymysql"
        if driver not in self.packages:
            raise UsageError(
                f"the driver {driver} is not used here: write mysql:// for PyMySQL (pip install "
                "'garivini[mysql]'), or mysql+mysqldb:// for mysqlclient (pip install mysqlclient)"
            )
        if not url.database:
            raise UsageError("the URL names no database, as mysql://user@host/database does")
        query = dict(url.query)
        arguments: dict[str, Any] = {"autocommit": True}
        for name in _TIMEOUTS:
            seconds = parse_timeout(name, query.pop(name, TIMEOUT))
            arguments[name] = seconds if driver == "pymysql" else max(1, round(seconds))
        # Fixed: with another one some texts could not be stored.
        query.pop("collation", None)
        query |= {"charset": "utf8mb4", "use_unicode": "1"}
        if wrong := _TLS_NAMES & {name.lower().replace("-", "_") for name in query if name != "ssl_mode"}:
            raise UsageError(
                f"{min(wrong)} in the URL: write ssl_mode=REQUIRED, or VERIFY_IDENTITY and ssl_ca=FILE"
            )
        asked = {"ssl_ca", "ssl_cert", "ssl_key"} & query.keys()
        self._tls = bool(asked) or query.get("ssl_mode", "PREFERRED") not in ("PREFERRED", "DISABLED")
        if driver == "pymysql":
            arguments |= _tls(query)
        return url.set(drivername=f"mysql+{driver}", query=query), arguments

    def parameters(self, driver: Any) -> frozenset[str] | None:
        if driver.__name__ != "pymysql":
            return None
        ours = ("ssl_capath", "ssl_cipher", "ssl_check_hostname")  # SQLAlchemy makes ``ssl`` of them
        return frozenset((*inspect.signature(driver.connections.Connection).parameters, *ours))

    def hook(self, engine: Engine) -> None:
        if engine.dialect.driver != "pymysql":
            return
        from garivini.store.dialects.pymysql_connection import Connection as Quick

        @event.listens_for(engine, "do_connect")
        def connect(_: object, __: object, arguments: list[Any], named: dict[str, Any]) -> Quick:
            return Quick(*arguments, **named)

    def prepare(self, connection: Any) -> None:
        with closing(connection.cursor()) as cursor:
            if self._tls:
                _check_tls(cursor)
            self._meet(cursor)
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            own = (
                # It would make a table of a list of ids, and lose their order.
                f"idle_transaction_timeout = {IDLE_TIMEOUT}, in_predicate_conversion_threshold = 0"
                if self._server == "MariaDB"
                else f"wait_timeout = {WAIT_TIMEOUT}"
            )
            settings = (
                # Again: an init_command in the URL may have chosen another character set.
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
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            cursor.execute(
                "SET SESSION sql_mode = %s, autocommit = 1, innodb_lock_wait_timeout = %s",
                (_SQL_MODE, lock_wait if self.lock_timeout is None else self._lock_wait()),
            )
        return autocommit, sql_mode, lock_wait, level.replace("-", " ")

    def give_back(self, connection: Any, before: Any) -> None:
        autocommit, sql_mode, lock_wait, level = before
        with closing(self.cursor(connection)) as cursor:
            isolation = f"SET SESSION TRANSACTION ISOLATION LEVEL {level}"  # as the server told it
            cursor.execute(isolation)
            cursor.execute(
                "SET SESSION sql_mode = %s, autocommit = %s, innodb_lock_wait_timeout = %s",
                (sql_mode, autocommit, lock_wait),
            )

    def _lock_wait(self) -> int:
        """Return the whole seconds to wait for a row's lock: there are no others here."""
        return LOCK_TIMEOUT if self.lock_timeout is None else max(1, round(self.lock_timeout))

    def shorten_lock_wait(self, cursor: Any) -> int:
        cursor.execute("SELECT @@SESSION.innodb_lock_wait_timeout")
        ((before,),) = cursor.fetchall()
        # MySQL waits for at least a second.
        cursor.execute("SET SESSION innodb_lock_wait_timeout = %s", (0 if self._server == "MariaDB" else 1,))
        return int(before)

    def restore_lock_wait(self, cursor: Any, before: int) -> None:
        cursor.execute("SET SESSION innodb_lock_wait_timeout = %s", (before,))

    def _meet(self, cursor: Any) -> None:
        """Learn what a server is, once."""
        if self._server:
            return
        cursor.execute("SELECT VERSION(), @@max_allowed_packet")
        ((version, packet),) = cursor.fetchall()
        server = "MariaDB" if "mariadb" in version.lower() else "MySQL"
        # Old clients were lied to: 5.5.5-10.11.2-MariaDB.
        found = re.findall(r"(\d+)\.(\d+)\.(\d+)", version)
        number = tuple(map(int, found[-1])) if found else (0, 0, 0)
        if number < _OLDEST[server]:
            oldest = ".".join(map(str, _OLDEST[server]))
            raise RefusedError(f"{server} {version} is too old: {server} {oldest} is the first that works")
        # Half of a packet, for each byte of an argument may need another before it.
        self.statement_bytes: int = packet // 2 - _OVERHEAD
        self._returning = self.returns_rows(server)
        self._server = server

    def returns_rows(self, server: str) -> bool:
        """Whether INSERT of a server has RETURNING."""
        return server == "MariaDB"

    def cursor(self, connection: Any) -> Any:
        try:
            from pymysql.connections import Connection as PyMySQLConnection
            from pymysql.cursors import Cursor
        except ImportError:
            return connection.cursor()
        # The caller's own kind may make mappings.
        return connection.cursor(Cursor) if isinstance(connection, PyMySQLConnection) else connection.cursor()

    @contextmanager
    def carrying(self, cursor: Any, texts: Collection[str]) -> Iterator[None]:
        mode, strict = "", True
        for part in _batched(texts, _CARRIED):
            # The text as the server receives it, with any character sets. No text has a NUL.
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
                with suppress(Exception):  # the connection is lost, which its user knows
                    cursor.execute("SET SESSION sql_mode = %s", (mode,))

    def in_transaction(self, connection: Any) -> bool:
        status = getattr(connection, "server_status", None)
        if status is None:
            return True  # mysqlclient does not tell
        return bool(connection.open and status & _IN_TRANSACTION)

    def usable(self, connection: Any) -> bool:
        return bool(getattr(connection, "open", True))

    def alive(self, connection: Any) -> bool:
        # Only PyMySQL has its socket where it can be looked at.
        socket = getattr(connection, "_sock", None)
        return socket is not None and silent_socket(socket.fileno())

    # ---- jobs

    def name_of(self, stored: Any) -> str | bytes:
        # From a binary column: it is compared with the bytes of a text.
        name = decode(bytes(stored))
        return name if type(name) is str else super().name_of(name)

    def insert(self, run: RunStatement, rows: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
        return self._insert(run, "insert", rows)

    def insert_keyed(
        self, run: RunStatement, rows: Sequence[dict[str, Any]]
    ) -> list[tuple[int, int, str, str]]:
        first = {(row["funcname"], row["uniqkey"]): row for row in reversed(rows)}
        return self._insert_apart(run, list(reversed(first.values())))

    def _insert_apart(
        self, run: RunStatement, rows: Sequence[dict[str, Any]]
    ) -> list[tuple[int, int, str, str]]:
        # All, or none where a key has a live job: then each half is tried. INSERT IGNORE would be one
        # statement, and would pass over any error.
        try:
            stored = self._insert(run, "insert_keyed", rows)
        except Exception as error:
            original = getattr(error, "orig", None) or error
            # A duplicate primary key means that ids have run out.
            if _code(original) != _DUPLICATE or _PRIMARY.search(str(original)):
                raise
            if len(rows) == 1:
                return []
            half = len(rows) // 2
            return self._insert_apart(run, rows[:half]) + self._insert_apart(run, rows[half:])
        return [(*new, row["funcname"], row["uniqkey"]) for new, row in zip(stored, rows, strict=True)]

    def _insert(self, run: RunStatement, name: str, rows: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
        if self._returning and len(rows) < _FEW:
            return sorted(run(f"{name}_returning", rows=rows))
        # Read now and not when connecting: a cluster that grows changes the step.
        ((time, step),) = run("clock")
        now = int(time)
        for row in rows:
            row["now"] = now
            taken, delay = row["taken"], row["delay"]
            # A delay is counted from the next whole second, so that it is never short.
            row["due"] = delay + (now if taken or not delay else math.ceil(time))
            row["since"] = now if taken else 0
            row["lease_end"] = row["due"] if taken else 0
        first = run(name, rows=rows)
        return [(first + number * step, now) for number in range(len(rows))]

    def lanes(self, run: RunStatement) -> list[tuple[str, int, int, int, float]]:
        # From each place one looks for the next lane. Where nothing new has come since the last time, the
        # places of then find all lanes in one statement; what is new is followed step by step.
        due: dict[tuple[str, int, int], int] = {}
        now = 0.0
        ahead = [_START, *self._places]
        asked = set(ahead)
        places: dict[_Place, None] = {}
        while ahead:
            found = [row for part in _parts(ahead) for row in run("lanes", rows=part)]
            ahead = []
            for funcname, state, priority, run_after, time in found:
                now = time
                parked = run_after == NEVER and state < State.DEAD
                if not parked:
                    lane = (funcname, state, priority)
                    due[lane] = min(run_after, due.get(lane, run_after))
                # What is parked stands at the head of its lane only from 2038 on or where nothing else is.
                place = (funcname, state, priority, NEVER if parked else _END)
                places[place] = None
                if place not in asked:
                    asked.add(place)
                    ahead.append(place)
        self._places = list(places)
        lanes = [
            (*lane, run_after, now)
            for lane, run_after in due.items()
            if lane[1] < State.DEAD and lane[2] < len(PRIORITIES)
        ]
        return sorted(lanes, key=lambda lane: (lane[2], lane[3]))

    # ---- the schema

    def begin_upgrade(self, connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        # Not to be used again: it closes at the end, and that frees the lock.
        connection.detach()
        if hasattr(driver, "_read_timeout"):
            driver._read_timeout = None  # an index takes as long as it takes
        # Our mode, except for the quotes that SQLAlchemy detected for this server: Alembic writes those.
        quotes = ",ANSI_QUOTES" if connection.dialect.identifier_preparer.initial_quote == '"' else ""
        connection.exec_driver_sql("SET SESSION sql_mode = %s", (_SQL_MODE + quotes,))
        # Who waits for a table makes all others wait behind.
        connection.exec_driver_sql("SET SESSION lock_wait_timeout = %s", (LOCK_TIMEOUT,))
        lock = "SELECT GET_LOCK(CONCAT('garivini ', LEFT(SHA2(DATABASE(), 256), 32)), %s)"
        if connection.exec_driver_sql(lock, (UPGRADE_TIMEOUT,)).scalar() != 1:
            raise ConflictError(f"another upgrade of this database took longer than {UPGRADE_TIMEOUT} s")

    # ---- errors

    def silent(self, error: Exception) -> bool:
        return "timed out" in str(error) or "(110)" in str(error)

    def translate(self, error: Exception, where: str, *, committing: bool) -> GariviniError:
        if isinstance(error, OSError):
            return UsageError(f"{where}: ssl_ca, ssl_cert or ssl_key in the URL cannot be used: {error}")
        code = _code(error)
        words = " ".join(str(part) for part in error.args[1:]) or str(error)
        if code in _LOST or type(error).__name__ == "InterfaceError":
            if "SSL" in words:
                return RefusedError(
                    f"{where} refuses the connection: see ssl_mode and ssl_ca in the URL ({words})"
                )
            if committing:
                return OutcomeUnknownError(
                    f"{where} was lost at the commit, which it may have done or not: {words}"
                )
            return UnreachableError(f"{where} cannot be reached: {words}")
        if code == _DUPLICATE and _PRIMARY.search(words):
            code = 167
        if code in _ERRORS:
            kind, text = _ERRORS[code]
            found = kind(f"{where} {text} ({words})")
            found.transient = code in _TRANSIENT
            return found
        return RefusedError(f"{where} refused: {words}")


def _batched(texts: Collection[str], size: int) -> Iterator[list[str]]:
    """Cut texts into parts of at most ``size``."""
    listed = sorted(texts)
    for start in range(0, len(listed), size):
        yield listed[start : start + size]


def _code(error: BaseException) -> int:
    return error.args[0] if error.args and isinstance(error.args[0], int) else 0


def _parts(places: Sequence[_Place]) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(places), DIVES):
        yield [
            {"funcname": funcname, "state": state, "priority": priority, "run_after": run_after}
            for funcname, state, priority, run_after in places[start : start + DIVES]
        ]


def _check_tls(cursor: Any) -> None:
    """Refuse a connection in the clear: MariaDB's C library does not know ssl_mode and goes on without."""
    cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
    if not any(cipher for _, cipher in cursor.fetchall()):
        raise RefusedError("the URL asks for TLS, see ssl_mode and ssl_ca, and the server offers none")


def _tls(query: dict[str, Any]) -> dict[str, Any]:
    """Take what is about TLS out of a URL's query; return what PyMySQL takes."""
    files: dict[str, Any] = {
        name: query.pop(name) for name in ("ssl_ca", "ssl_cert", "ssl_key") if name in query
    }
    mode = query.pop("ssl_mode", "VERIFY_CA" if "ssl_ca" in files else "PREFERRED")
    match mode:
        case "DISABLED":
            return {"ssl_disabled": True}
        case "PREFERRED":
            return files
        case "REQUIRED":
            return {"ssl": {"verify_mode": "none", **{name[4:]: file for name, file in files.items()}}}
        case "VERIFY_CA":
            return {"ssl_verify_cert": True, **files}
        case "VERIFY_IDENTITY" if "ssl_ca" in files:
            return {"ssl_verify_cert": True, "ssl_verify_identity": True, **files}
        case "VERIFY_IDENTITY":
            raise UsageError("ssl_mode=VERIFY_IDENTITY in the URL needs ssl_ca, the authority to trust")
    raise UsageError(
        f"ssl_mode={shown_value(mode)} in the URL: it is one of DISABLED, PREFERRED, REQUIRED, VERIFY_CA, "
        "VERIFY_IDENTITY"
    )
