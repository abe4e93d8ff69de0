"""The errors of MariaDB and MySQL, as errors of this library."""

import re
from typing import Final

from garivini.errors import (
    ConflictError,
    GariviniError,
    OutcomeUnknownError,
    RefusedError,
    SchemaError,
    UnreachableError,
    UsageError,
)
from garivini.store.dialects.dialect import NO_IDS, SCHEMA_ADVICE

#: The error of a duplicate key, and how it names the primary key. A duplicate id means that ids have run out.
_DUPLICATE: Final = 1062
_PRIMARY: Final = re.compile(r"for key '(job\.)?PRIMARY'")

#: An error of COMMIT, and its words for a deadlock, which Group Replication uses beside 1213 and 3101.
_COMMIT_FAILED: Final = 1180
_DEADLOCK: Final = "error 149 "

#: The error of a NULL in a column that may have none.
_NULL: Final = 1048
_NO_IDS: Final = f"{NO_IDS}, by ALTER TABLE job AUTO_INCREMENT = 1"
_READ_ONLY: Final = "takes no writes: it is read-only, as a replica is, or a former primary"
_NO_TRIGGER: Final = (
    "has a binary log, and lets only administrators create or drop a trigger: "
    "SET GLOBAL log_bin_trust_function_creators = 1, or use a user with SUPER"
)
#: By code: our error and its text. Some codes below 1000 and above 2000 are the client's.
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
    1290: (UnreachableError, _READ_ONLY),
    1317: (ConflictError, "ended a statement: somebody killed it"),
    1366: (UsageError, "does not take a value"),
    1370: (RefusedError, "refused: the user lacks a privilege"),
    1406: (UsageError, "does not take a value that long"),
    1419: (RefusedError, _NO_TRIGGER),
    1467: (RefusedError, _NO_IDS),
    1665: (RefusedError, "logs statements, and needs binlog_format = MIXED or ROW"),
    1698: (RefusedError, "refuses the connection: check user and password"),
    1792: (UnreachableError, _READ_ONLY),
    1836: (UnreachableError, _READ_ONLY),
    1845: (RefusedError, "cannot do that at once: see `garivini db sql`"),
    1846: (RefusedError, "cannot do that at once: see `garivini db sql`"),
    1969: (ConflictError, "ended a statement that took longer than max_statement_time"),
    2026: (RefusedError, "refuses the connection: the URL asks for TLS, see ssl_mode and ssl_ca"),
    # Group Replication found that another member has changed the same rows.
    3101: (ConflictError, "gave way to another transaction"),
    3024: (ConflictError, "ended a statement that took longer than max_execution_time"),
}
#: Errors after which the other transaction has finished, so that the same call can be repeated immediately.
_TRANSIENT: Final = (1020, 1213, 3101)
#: Errors of connections that could not be made, or are lost. Galera's 1047 is the answer of a node outside
#: the cluster. MySQL's 3100 ends a commit on a member that leaves its group; the other members may have the
#: transaction. 3032: the server is offline.
_LOST: Final = frozenset(
    {1047, 1053, 1080, 1152, 1158, 1159, 1160, 1161, 1184, 1927}
    | {2002, 2003, 2005, 2006, 2012, 2013, 2055, 3032, 3100, 3169, 4031, 4032}
)


def translate(error: Exception, where: str, *, committing: bool) -> GariviniError:
    """Translate an error of the driver into an error of this library: see ``Dialect.translate``."""
    if isinstance(error, OSError):
        return UsageError(f"{where}: ssl_ca, ssl_cert or ssl_key in the URL cannot be used: {error}")
    code = _code_of(error)
    words = " ".join(str(part) for part in error.args[1:]) or str(error)
    if code in _LOST or type(error).__name__ == "InterfaceError":
        # A lost connection with TLS has "SSLEOFError" in its words.
        if "SSL" in words and "EOF occurred" not in words and not committing:
            return RefusedError(
                f"{where} refuses the connection: see ssl_mode and ssl_ca in the URL ({words})"
            )
        if committing:
            return OutcomeUnknownError(
                f"{where} was lost at the commit, which it may have done or not: {words}"
            )
        return UnreachableError(f"{where} cannot be reached: {words}")
    if code == _DUPLICATE and _PRIMARY.search(words):
        code = 167  # MariaDB's code for the same error
    if code == _COMMIT_FAILED and _DEADLOCK in words:
        code = 1213
    if code in _ERRORS:
        kind, text = _ERRORS[code]
        found = kind(f"{where} {text} ({words})")
        found.transient = code in _TRANSIENT
        if isinstance(found, UnreachableError):
            found.read_only = True
        return found
    return RefusedError(f"{where} refused: {words}")


def is_null(error: BaseException) -> bool:
    """Whether a row was refused because a column may not be NULL."""
    return _code_of(error) == _NULL


def is_duplicate(error: BaseException) -> bool:
    """Whether a row was refused because a job with its unique key exists."""
    return _code_of(error) == _DUPLICATE and not _PRIMARY.search(str(error))


def _code_of(error: BaseException) -> int:
    """Return the number of an error, 0 if it has none."""
    return error.args[0] if error.args and isinstance(error.args[0], int) else 0
