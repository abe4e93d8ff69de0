"""The settings of our PostgreSQL sessions and cursors, or of each transaction behind a pooler. No I/O."""

import re
from collections.abc import Mapping
from typing import Any, Final
from zlib import crc32

from garivini.store.dialects.dialect import IDLE_TIMEOUT, LOCK_TIMEOUT

#: Settings of our sessions; those in the URL override them. The planner must use the order of the index: a
#: bitmap scan would lock the rows of a list of ids in the order of the table, while other sessions lock them
#: in the order of ids. And by its statistics, which are always out of date for a queue, the planner would
#: choose a scan of the table.
SETTINGS: Final[Mapping[str, str]] = {
    "default_transaction_isolation": "read committed",
    "lock_timeout": f"{LOCK_TIMEOUT}s",
    "idle_in_transaction_session_timeout": f"{IDLE_TIMEOUT}s",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
}
#: Starts a transaction. At a higher isolation level, a claim would fail if another claim has changed a row,
#: instead of skipping the row.
BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"
#: Turns ``synchronous_commit`` on if it is off, and leaves a stricter setting.
_DURABLE: Final = (
    "CASE current_setting('synchronous_commit') WHEN 'off'"
    " THEN set_config('synchronous_commit', 'on', true) END"
)

#: Asks for the incarnation: the identity of the cluster, and its timeline, which each promotion raises. On a
#: standby it is NULL.
ASK_INCARNATION: Final = (
    "SELECT CASE WHEN NOT pg_is_in_recovery() THEN (SELECT system_identifier FROM pg_control_system())"
    " || left(pg_walfile_name(pg_current_wal_lsn()), 8) END"
)
#: The incarnation as a column of a query.
INCARNATION: Final = ASK_INCARNATION.removeprefix("SELECT ")


def number_of(name: str | bytes | None) -> int | None:
    """Return an incarnation as a number below 2^32."""
    return None if name is None else crc32(name.encode() if isinstance(name, str) else name)


def startup_options(given: str) -> str:
    """Return the options of a new session: our settings, then the options given in the URL."""
    ours = [f"-c {name}={_escaped(value)}" for name, value in SETTINGS.items()]
    return " ".join([*ours, given] if given else ours)


def parse_options(text: str) -> dict[str, str]:
    """Return the settings in the options of a session: ``-c name=value`` or ``--name=value``.

    Other options, which only concern a server that is being debugged, are omitted.
    """
    # A space separates unless a backslash is before it.
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r"(?:\\.|[^\\\s])+", text)]
    found: dict[str, str] = {}
    while words:
        word = words.pop(0)
        if word == "-c" and words:
            word += words.pop(0)
        if word.startswith(("-c", "--")):
            name, equals, value = word[2:].partition("=")
        else:
            continue
        if equals:
            found[name.replace("-", "_").lower()] = value
    return found


def begin_with(settings: Mapping[str, str], last: str) -> str:
    """Return the statements that begin a transaction with these settings, to be sent in one round trip.

    The settings do not remain in the session, which another program's transaction may get next. The
    statements return one row, whose last column is ``last``.
    """
    calls = [
        f"set_config({_literal(name)}, {_literal(value)}, true)"
        for name, value in settings.items()
        if name != "default_transaction_isolation"  # BEGIN names the level
    ]
    return f"{BEGIN}; SELECT {', '.join([*calls, _DURABLE, last])}"


def read_binary(cursor: Any) -> None:
    """Let the server send values in their binary form from here on, which psycopg reads in half the time.

    Only a statement that is sent alone can have such a result. Another driver's cursor is left as it is.
    """
    if hasattr(cursor, "format"):
        from psycopg.pq import Format

        cursor.format = Format.BINARY


def _escaped(value: str) -> str:
    """Return a value as a part of options, in which a space would end it."""
    return value.replace(" ", r"\ ")


def _literal(text: str) -> str:
    """Return a text as a literal that has the same meaning with each setting of the server."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'"
