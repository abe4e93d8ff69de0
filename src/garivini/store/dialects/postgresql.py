"""PostgreSQL, through psycopg 3."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import lru_cache
from typing import Any, ClassVar, Final

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
from garivini.store.dialects.dialect import (
    LOCK_TIMEOUT,
    NO_IDS,
    SCHEMA_ADVICE,
    TIMEOUT,
    UPGRADE_TIMEOUT,
    Dialect,
    parse_timeout,
    silent_socket,
)
from garivini.store.dialects.distributed import refuse_distributed
from garivini.store.dialects.postgresql_sessions import (
    ASK_INCARNATION,
    BEGIN,
    INCARNATION,
    SETTINGS,
    begin_with,
    number_of,
    parse_options,
    read_binary,
    startup_options,
)

#: Names the lock of an upgrade: "garivini" in hexadecimal.
_UPGRADE_LOCK: Final = 0x676172_6976696E69

#: What PgBouncer answers to options of a session, unless its settings ignore these.
_NO_OPTIONS: Final = "unsupported startup parameter"

#: Messages with which a server refuses a connection, without a code, and our advice.
_NOT_LET_IN: Final = (
    ("password authentication failed", "check user and password"),
    ("no password supplied", "put the password into the URL"),
    ("no pg_hba.conf entry", "its pg_hba.conf does not let this user in from here"),
    ("does not support SSL", "sslmode in the URL asks for TLS, which it does not offer"),
    ("does not support TLS", "sslmode in the URL asks for TLS, which it does not offer"),
    ("certificate", "check sslmode and sslrootcert in the URL"),
    ("not permitted to log in", "let the role log in, or use another"),
    ("permission denied", "the role may not connect"),
    ("does not exist", "create it, or correct the URL"),
    ("too many", "run fewer processes, or raise the limit"),
    ("no more connections allowed", "run fewer processes, or raise max_client_conn in PgBouncer"),
    ("query_wait_timeout", "PgBouncer has too few connections, raise default_pool_size"),
    ("statement pooling mode", "set pool_mode = transaction in PgBouncer"),
    ("remaining connection slots", "run fewer processes, or raise max_connections"),
    (_NO_OPTIONS, "set ignore_startup_parameters in PgBouncer"),
)

#: The encoding of a database that checks no text.
_UNCHECKED: Final = "SQL_ASCII"
#: Parameters for TLS that URLs of other drivers have.
_TLS_NAMES: Final = frozenset("ssl tls ssl_mode usessl use_ssl require_ssl use_tls tls_mode".split())
#: libpq's errors about a parameter's value.
_INVALID: Final = re.compile(r"invalid \w+ value: |bad value for |invalid integer value ")

_POOLER: Final = (
    "behind a pooler in transaction mode, put prepare_threshold=none into the URL, or None into the "
    "connect_args of your engine"
)

#: By code: our error and its text. Codes: postgresql.org, "PostgreSQL Error Codes".
_ERRORS: Final[dict[str, tuple[type[GariviniError], str]]] = {
    # A statement that was prepared in one session of the server is unknown in the next that PgBouncer picks.
    "26000": (RefusedError, f"refused: {_POOLER}"),
    "42P05": (RefusedError, f"refused: {_POOLER}"),
    # The values do not fit the statement of this name, which another session has prepared. It was not run.
    "08P01": (RefusedError, f"refused: {_POOLER}"),
    "2200H": (RefusedError, f"{NO_IDS}, by setval on job_jobid_seq"),
    "25006": (UnreachableError, "takes no writes: it is read-only, as a standby is, or a former primary"),
    "25P02": (RefusedError, "refused: the transaction has failed before, roll it back"),
    "3F000": (SchemaError, f"has no tables of this version: {SCHEMA_ADVICE}"),
    "40001": (ConflictError, "gave way to another transaction"),
    "40P01": (ConflictError, "gave way to another transaction"),
    "42501": (RefusedError, "refused: the role lacks a privilege"),
    "42703": (SchemaError, f"has no tables of this version: {SCHEMA_ADVICE}"),
    "42P01": (SchemaError, f"has no tables of this version: {SCHEMA_ADVICE}"),
    "53100": (RefusedError, "refused: the disk is full, make room"),
    "53300": (RefusedError, "refused: too many connections, run fewer processes"),
    "54000": (UsageError, "does not take a value that large"),
    "55P03": (ConflictError, "was locked for too long by another transaction"),
    "57014": (ConflictError, "ended a statement that took too long"),
}
#: Codes with which a server refuses to report its incarnation: not allowed, not known, not supported.
_NOT_TOLD: Final = ("42501", "42883", "0A000", "55000")
#: Errors after which the other transaction has finished, so that the same call can be repeated immediately.
_TRANSIENT: Final = ("40001", "40P01")


class PostgreSQL(Dialect):
    """PostgreSQL 13 and newer, through psycopg 3."""

    name = "postgresql"
    placeholder = "%s"
    packages: ClassVar[Mapping[str, str]] = {"psycopg": "'garivini[postgresql]'"}
    begin = BEGIN

    def __init__(self) -> None:
        #: Whether the version of the server has been checked.
        self._known = False
        #: Whether the URL gives ``prepare_threshold``; then it applies behind a pooler, too.
        self._threshold_given = False
        #: The settings that each transaction gets behind a pooler.
        self._settings: dict[str, str] = dict(SETTINGS)
        self._takes_any_text = False  # whether the encoding of the database checks no text

    def begin_transaction(self, cursor: Any) -> int | None:
        if self.pooled:
            wait = {} if self.lock_timeout is None else {"lock_timeout": f"{round(self.lock_timeout * 1000)}"}
            statements = begin_with(self._settings | wait, INCARNATION if self.has_incarnations else "NULL")
            cursor.execute(statements)
            cursor.nextset()  # the first result is that of BEGIN
            incarnation = number_of(cursor.fetchall()[0][-1])
        else:
            incarnation = None
            begin = self.begin
            if self.lock_timeout is not None:  # in one round trip; a caller's session has its own setting
                begin += f"; SET LOCAL lock_timeout = {round(self.lock_timeout * 1000)}"
            cursor.execute(begin)
        if not self._takes_any_text:
            read_binary(cursor)
        return incarnation

    def shorten_lock_wait(self, cursor: Any) -> None:
        cursor.execute("SET LOCAL lock_timeout = 10")

    def engine(self, url: URL) -> tuple[URL, dict[str, Any]]:
        if url.drivername not in ("postgres", "postgresql", "postgresql+psycopg"):
            driver = url.drivername.partition("+")[2]
            raise UsageError(
                f"the driver {driver} is not used here: write postgresql://, which means psycopg here (pip "
                "install 'garivini[postgresql]')"
            )
        refuse_distributed("", url.host or "")
        query = dict(url.query)
        if wrong := _TLS_NAMES & {name.lower().replace("-", "_") for name in query}:
            raise UsageError(
                f"{min(wrong)} in the URL: write sslmode=require, or sslmode=verify-full and sslrootcert=FILE"
            )
        seconds = parse_timeout("read_timeout", query.pop("read_timeout", TIMEOUT))
        given = query.pop("options", "")
        options = given if isinstance(given, str) else " ".join(given)
        query.pop("client_encoding", None)
        self._settings = {**SETTINGS, **parse_options(options)}
        self._threshold_given = "prepare_threshold" in query
        arguments: dict[str, Any] = {
            "options": startup_options(options),
            "autocommit": True,
            # Fixed, overriding PGCLIENTENCODING, because with another encoding some texts could not be
            # stored.
            "client_encoding": "utf8",
            "prepare_threshold": _threshold(query.pop("prepare_threshold", "5")),
            "read_timeout": seconds,
        }
        defaults: dict[str, Any] = {"connect_timeout": max(2, round(seconds)), "application_name": "garivini"}
        if len(_several(query.get("host", url.host or ""))) > 1:
            defaults["target_session_attrs"] = "read-write"  # a queue needs the primary
        arguments |= {name: value for name, value in defaults.items() if name not in query}
        return url.set(drivername="postgresql+psycopg", query=query), arguments

    def parameters(self, driver: Any) -> frozenset[str] | None:
        return frozenset(option.keyword.decode() for option in driver.pq.Conninfo.get_defaults())

    def local_facts(self, read: Mapping[str, str]) -> dict[str, str]:
        if not self.pooled:
            return {"settings_of_others": "none"}  # a session of our own has settings of the URL
        others = [
            name for name in read["settings_of_others"].split(", ") if name.lower() not in self._settings
        ]
        prepared = {"prepare_threshold": "given"} if self._threshold_given else {}
        return {"settings_of_others": ", ".join(others) or "none", **prepared}

    def hook(self, engine: Engine) -> None:
        from garivini.store.dialects.psycopg_connection import Connection

        @event.listens_for(engine, "do_connect")
        def connect(_: object, __: object, arguments: list[Any], named: dict[str, Any]) -> Connection:
            # Empty and not absent, because libpq would read missing options from PGOPTIONS.
            bare = {**named, "options": ""}
            if not self.pooled:
                try:
                    return Connection.connect(*arguments, **named)
                except Exception as error:
                    if _NO_OPTIONS not in str(error):
                        raise
                self._note_pooler()
            return Connection.connect(*arguments, **bare)

    def _note_pooler(self) -> None:
        self.pooled: bool = True

    def prepare(self, connection: Any) -> None:
        about = "SELECT version(), pg_backend_pid(), current_setting('synchronous_commit')"
        ((version, process, commits),) = connection.execute(about).fetchall()
        self._meet(version)
        # A pooler announces a number of its own, because it changes the sessions behind it.
        if process != connection.info.backend_pid:
            self._note_pooler()
        if self.pooled:
            if not self._threshold_given:
                connection.prepare_threshold = None
            self.incarnation(connection)  # tried here, because in a transaction an error would abort that
        elif commits == "off":
            # With "off", the server acknowledges commits that a crash loses. A stricter setting than "on"
            # stays.
            connection.execute("SELECT set_config('synchronous_commit', 'on', false)")
        self._take_any_text(connection)

    def borrow(self, connection: Any) -> Any:
        before, connection.autocommit = connection.autocommit, True
        if not self._known:
            ((version,),) = self.cursor(connection).execute("SELECT version()").fetchall()
            self._meet(version if isinstance(version, str) else version.decode())
        return before, self._take_any_text(connection)

    def _meet(self, version: str) -> None:
        """Refuse a server that only speaks the protocol of PostgreSQL."""
        if not self._known:
            refuse_distributed(version)
            self._known = True

    def give_back(self, connection: Any, before: Any) -> None:
        autocommit, encoding = before
        if encoding is not None:
            connection.execute("SELECT set_config('client_encoding', %s, false)", (encoding,))
        connection.autocommit = autocommit

    def _take_any_text(self, connection: Any) -> str | None:
        """Let a server that does not check text send any bytes; return the session's previous encoding."""
        status = connection.info.parameter_status
        if status("server_encoding") != _UNCHECKED:
            return None
        before: str = status("client_encoding")
        connection.execute("SELECT set_config('client_encoding', %s, false)", (_UNCHECKED,))
        return before

    def engine_advice(self, error: Exception) -> str:
        if "bytes-like" in str(error):
            return "its encoding is SQL_ASCII: give create_engine client_encoding='utf8'"
        return ""

    def cursor(self, connection: Any) -> Any:
        cursor = connection.cursor()
        if hasattr(cursor, "row_factory"):
            from psycopg.rows import tuple_row

            cursor.row_factory = tuple_row  # the caller's row factory may return mappings
        info = getattr(connection, "info", None)
        if info is not None and info.parameter_status("server_encoding") == _UNCHECKED:
            from garivini.store.dialects.psycopg_connection import read_any_text

            self._takes_any_text = True
            read_any_text(cursor)
        return cursor

    def in_transaction(self, connection: Any) -> bool:
        return connection.info.transaction_status.name in ("INTRANS", "INERROR")

    def usable(self, connection: Any) -> bool:
        return not connection.closed and connection.info.transaction_status.name != "ACTIVE"

    def takes_writes(self, connection: Any) -> bool:
        with closing(self.cursor(connection)) as cursor:
            cursor.execute("SHOW transaction_read_only")  # on a standby, ``transaction_read_only`` is on
            return bool(cursor.fetchall() == [("off",)])

    def incarnation(self, connection: Any) -> int | None:
        with closing(self.cursor(connection)) as cursor:
            try:
                cursor.execute(ASK_INCARNATION)
                return number_of(cursor.fetchall()[0][0])
            except Exception as error:
                # A service that is not quite PostgreSQL, or does not let its users call these functions.
                if getattr(error, "sqlstate", None) not in _NOT_TOLD:
                    raise
                self.has_incarnations: bool = False
        return None

    def alive(self, connection: Any) -> bool:
        return not connection.closed and silent_socket(connection.fileno())

    @staticmethod
    def array(items: list[Any]) -> str:
        # As text of an array (manual, "Array Input and Output Syntax"): psycopg searches each item of a list
        # for what to escape, which takes several times as long. Every array has its type in the statement.
        try:
            return f"{{{','.join([_WRITTEN[type(item)](item) for item in items])}}}"
        except KeyError as error:
            raise UsageError(f"a list of values takes no {error.args[0].__name__}") from None

    def begin_upgrade(self, connection: Connection) -> None:
        super().begin_upgrade(connection)
        driver: Any = connection.connection.driver_connection
        if hasattr(driver, "read_timeout"):
            driver.read_timeout = None  # creating an index may take hours
        wait = "SELECT set_config('lock_timeout', %s, true)"
        connection.exec_driver_sql(wait, (f"{UPGRADE_TIMEOUT}s",))
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (_UPGRADE_LOCK,))
        # A session waiting for a table lock makes every later one queue up behind it.
        connection.exec_driver_sql(wait, (f"{LOCK_TIMEOUT}s",))

    def silent(self, error: Exception) -> bool:
        return type(error).__name__ in ("NoAnswer", "ConnectionTimeout")

    def translate(self, error: Exception, where: str, *, committing: bool) -> GariviniError:
        code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or ""
        words = " ".join(str(error).split())
        if not code and _INVALID.search(words):
            return UsageError(f"{where}: a parameter of its URL has a wrong value: {words}")
        if _lost(error, code):
            return _gone(where, words, committing=committing)
        if code in _ERRORS:
            kind, text = _ERRORS[code]
            found = kind(f"{where} {text} ({words})")
            found.transient = code in _TRANSIENT
            if isinstance(found, UnreachableError):
                found.read_only = True
            return found
        # 22: data exceptions. psycopg finds some before it sends them; these have no code.
        if code.startswith("22") or (not code and "DataError" in _kinds(error)):
            return UsageError(f"{where} does not take a value: {words}")
        return RefusedError(f"{where} refused: {words}")


@lru_cache(1024)
def _quoted(text: str) -> str:
    """Return a text as an item of an array."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


#: Writes an item of an array, by the item's type.
_WRITTEN: Final[dict[type, Callable[[Any], str]]] = {
    int: str,
    float: repr,
    str: _quoted,
    bytes: lambda item: f'"\\\\x{item.hex()}"',
    type(None): lambda item: "NULL",
}


def _lost(error: Exception, code: str) -> bool:
    if code == "08P01":
        # PgBouncer sends only ``severity``.
        said = getattr(error, "diag", None)
        severity = getattr(said, "severity_nonlocalized", None) or getattr(said, "severity", None)
        return severity in ("FATAL", "PANIC")
    if code:
        # Connection exceptions, shutdowns of the server, and sessions that it ended.
        return code.startswith(("08", "57P", "25P03", "25P04"))
    return not _kinds(error).isdisjoint(("OperationalError", "InterfaceError"))


def _gone(where: str, words: str, *, committing: bool) -> GariviniError:
    if committing:
        return OutcomeUnknownError(f"{where} was lost at the commit, which it may have done or not: {words}")
    for said, advice in _NOT_LET_IN:
        if said in words:
            return RefusedError(f"{where} refuses the connection: {advice} ({words})")
    found = UnreachableError(f"{where} cannot be reached: {words}")
    found.read_only = "session is read-only" in words  # libpq's answer to target_session_attrs=read-write
    return found


def _several(hosts: str | Sequence[str]) -> Sequence[str]:
    """Return the hosts of a URL."""
    return hosts.split(",") if isinstance(hosts, str) else hosts


def _kinds(error: Exception) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _threshold(given: Any) -> int | None:
    """Return after how many runs a statement is prepared, None for never."""
    if given == "none":
        return None
    if isinstance(given, str) and given.isascii() and given.isdigit() and len(given) < 10:
        return int(given)
    raise UsageError(f"prepare_threshold={shown_value(given)} in the URL: give a number of runs, or none")
