"""What a user says of the databases, read into one form. No I/O."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote

import msgspec

from garivini.errors import UsageError

#: A URL, an SQLAlchemy Engine, a list of them, or the original's mapping of ids.
DatabasesLike: TypeAlias = str | Any | Sequence[Any] | Mapping[int | str, Any]


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """One database: the id that rows and handles carry, and how to reach it."""

    dbid: int
    #: A URL (with its password: never print it) or an SQLAlchemy Engine.
    target: Any = field(repr=False)


def parse_databases(dbs: DatabasesLike) -> list[DatabaseSettings]:
    """Read the databases of a Client.

    One URL or Engine is database 1; in a list, or in a text of several URLs with white space between them,
    the position is the id, from 1, unless it is written before the URL as in ``3=sqlite:///three.db``; a
    mapping names the ids, its values being URLs, Engines or the original's ``{"id", "dsn", "user", "pass"}``
    with a DBI data source.

    Raises:
        UsageError: it is none of these, or an id is wrong or there twice.

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
        raise UsageError("no database is named: give a URL such as sqlite:///jobs.db")
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
            raise UsageError(f"database {dbid} says that its id is {value['id']}")
        dsn, user, password = (value.get(name) for name in ("dsn", "user", "pass"))
        if not dsn:
            raise UsageError(f"database {dbid} has no dsn")
        if not all(part is None or isinstance(part, str) for part in (dsn, user, password)):
            raise UsageError(f"database {dbid}: dsn, user and pass are text")
        return DatabaseSettings(dbid, parse_dsn(dsn, user, password))
    if value is None or value == "":
        raise UsageError(f"database {dbid} has no URL")
    return DatabaseSettings(dbid, value)


def _dbid(key: Any) -> int:
    dbid = int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 20 else key
    if isinstance(dbid, bool) or not isinstance(dbid, int) or not 0 < dbid < 2**31:
        raise UsageError(f"{key!r} is no database id: use whole numbers from 1")
    return dbid


_DRIVERS: Final = {"mysql": "mysql", "mariadb": "mysql", "pg": "postgresql", "sqlite": "sqlite"}
#: What the drivers of the original call each part.
_PARTS: Final = {
    "database": "database",
    "dbname": "database",
    "db": "database",
    "host": "host",
    "hostname": "host",
    "port": "port",
    "user": "user",
    "password": "password",
}


def parse_dsn(dsn: str, user: str | None = None, password: str | None = None) -> str:
    """Return the URL of a Perl DBI data source such as ``DBI:mysql:job:host=127.0.0.1;port=3306``.

    A URL is returned as it is, with user and password put in where it has none.

    Raises:
        UsageError: it is neither, or names a driver or part that is not known here.

    """
    if "://" in dsn:
        scheme, _, rest = dsn.partition("://")
        return f"{scheme}://{_account(user, password)}{rest}" if user and "@" not in rest else dsn
    prefix, _, rest = dsn.partition(":")
    driver, _, rest = rest.partition(":")
    driver = driver.partition("(")[0].lower()  # attributes in parentheses are the driver's own business
    if prefix.lower() != "dbi" or driver not in _DRIVERS:
        known = ", ".join(_DRIVERS)
        raise UsageError(f"not a data source: write a URL, or DBI:driver:… with a driver of {known}")
    parts = {"user": user, "password": password}
    # DBD::mysql alone takes a colon between parts as well; it is not one within the brackets of IPv6.
    separated = r"(?:\[[^]]*\]|[^:;])+" if _DRIVERS[driver] == "mysql" else "[^;]+"
    for part in re.findall(separated, rest):
        name, equals, value = part.partition("=")
        if not equals:
            name, value = "database", name
        if name.lower() not in _PARTS:
            raise UsageError(f"part {name!r} of the data source is not known here: write a URL instead")
        if _PARTS[name.lower()] == "database" and "database" in parts:
            raise UsageError("the data source names two databases; an IPv6 address goes in brackets")
        parts[_PARTS[name.lower()]] = value
    if not parts.get("database"):
        raise UsageError("the data source names no database")
    database = parts["database"] or ""
    if driver == "sqlite":
        return f"sqlite:///{quote(database)}"
    port = f":{parts['port']}" if parts.get("port") else ""
    account = _account(parts["user"], parts["password"])
    return f"{_DRIVERS[driver]}://{account}{parts.get('host') or 'localhost'}{port}/{quote(database)}"


def _account(user: str | None, password: str | None) -> str:
    if not user:
        return ""
    return quote(user, safe="") + (f":{quote(password, safe='')}" if password else "") + "@"


def without_password(url: str) -> str:
    """Return ``url`` with its password left out, for messages. It need not be a sound URL."""
    url = re.sub(r"([?&;:](?:pass|passwd|password)=)[^&;]*", r"\1***", url, flags=re.IGNORECASE)
    scheme, separator, rest = url.rpartition("://") if "://" in url else ("", "", url)
    account, at, host = rest.rpartition("@")
    user = account.partition(":")[0]
    return f"{scheme}{separator}{user}{at}{host}" if at else url


class QueueRunnerTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The table ``[queue_runner]`` of a settings file; None where it says nothing."""

    lease: int | None = None
    watermark: int | None = None
    batch_max: int | None = None
    poll: float | None = None


class ControllerTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The table ``[controller]`` of a settings file."""

    max_calls: int | None = None
    drain: float | None = None


class InjectorTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The table ``[injector]`` of a settings file."""

    allow: list[str] | None = None
    max_arg: int | None = None
    rate: float | None = None
    calls: int | None = None
    json_args: bool | None = None


class WorkerTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The table ``[worker]`` of a settings file."""

    processes: int | None = None
    drain: float | None = None


class TlsTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The table ``[tls]`` of a settings file: how to talk to Gearman servers."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    verify_host: bool | None = None


class LogTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The table ``[log]`` of a settings file."""

    format: Literal["text", "json"] | None = None
    verbose: bool | None = None


class Settings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A settings file, ``garivini.toml``."""

    databases: list[str] = []
    job_servers: list[str] = []
    queue_runner: QueueRunnerTable = msgspec.field(default_factory=QueueRunnerTable)
    controller: ControllerTable = msgspec.field(default_factory=ControllerTable)
    injector: InjectorTable = msgspec.field(default_factory=InjectorTable)
    worker: WorkerTable = msgspec.field(default_factory=WorkerTable)
    tls: TlsTable = msgspec.field(default_factory=TlsTable)
    log: LogTable = msgspec.field(default_factory=LogTable)


def parse_settings(text: bytes, name: str) -> Settings:
    """Read the text of a settings file.

    Raises:
        UsageError: it is not TOML, or has a key or value that is not known; it says which.

    """
    try:
        return msgspec.toml.decode(text, type=Settings)
    except (msgspec.DecodeError, ValueError) as error:
        raise UsageError(f"{name}: {error}") from None
