"""The databases of a client: their ids and their URLs or engines. No I/O."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from garivini.databases.dsn import is_dsn, parse_dsn
from garivini.databases.urls import READABLE, shown_value
from garivini.errors import UsageError

#: A URL, a SQLAlchemy Engine, a list of these, or the original's mapping of ids.
DatabasesLike: TypeAlias = str | Any | Sequence[Any] | Mapping[int | str, Any]


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """One database: the id that handles and payloads have, and its URL or engine."""

    dbid: int
    #: A URL or a SQLAlchemy Engine. Never print it: a URL may have a password.
    target: Any = field(repr=False)


def parse_databases(dbs: DatabasesLike) -> list[DatabaseSettings]:
    """Return the databases of a Client.

    A single URL or Engine is database 1. In a list, or in a text of several URLs with white space between
    them, the position from 1 is the id, unless the id is before the URL as in ``3=sqlite:///three.db``. In a
    mapping, the keys are the ids, and the values are URLs, Engines or the original's
    ``{"id", "dsn", "user", "pass"}`` with a DBI data source.

    Raises:
        UsageError: it is none of these, or an id is wrong or occurs twice.

    """
    if isinstance(dbs, str) and len(dbs.split()) > 1 and all("://" in part for part in dbs.split()):
        dbs = dbs.split()  # as in the environment variable GARIVINI_DB
    if isinstance(dbs, Mapping):
        found = [_entry(key, value) for key, value in dbs.items()]
    elif isinstance(dbs, Sequence) and not isinstance(dbs, str | bytes):
        found = [_listed(position, value) for position, value in enumerate(dbs, 1)]
    else:
        found = [_listed(1, dbs)]
    if not found:
        raise UsageError("no database is given: give a URL such as sqlite:///jobs.db")
    if len({entry.dbid for entry in found}) < len(found):
        raise UsageError("two databases have the same id")
    return found


def _listed(position: int, value: Any) -> DatabaseSettings:
    named = re.match(r"(\d{1,10})=(.*)", value, re.DOTALL) if isinstance(value, str) else None
    return _entry(named[1], named[2]) if named else _entry(position, value)


def _entry(key: int | str, value: Any) -> DatabaseSettings:
    dbid = _dbid(key)
    if isinstance(value, Mapping):
        if _dbid(value.get("id", dbid)) != dbid:
            raise UsageError(f"database {dbid} has another id in its settings: {shown_value(value['id'])}")
        dsn, user, password = (value.get(name) for name in ("dsn", "user", "pass"))
        if not dsn:
            raise UsageError(f"database {dbid} has no dsn")
        if not all(part is None or isinstance(part, str) for part in (dsn, user, password)):
            raise UsageError(f"database {dbid}: dsn, user and pass are text")
        return DatabaseSettings(dbid, parse_dsn(dsn, user, password))
    if value is None or value == "":
        raise UsageError(f"database {dbid} has no URL")
    if isinstance(value, str) and is_dsn(value):
        value = parse_dsn(value)
    return DatabaseSettings(dbid, value)


def _dbid(key: Any) -> int:
    dbid = int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 20 else key
    if isinstance(dbid, bool) or not isinstance(dbid, int) or not 0 < dbid < 2**31:
        shown = repr(key) if key is None or READABLE.fullmatch(str(key)) else "***"
        raise UsageError(f"{shown} is not the id of a database: use whole numbers from 1")
    return dbid
