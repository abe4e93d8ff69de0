"""What a user says of the databases, read into one form. No I/O."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import unquote

import msgspec

from garivini.decoding import decode_toml
from garivini.dsn import is_dsn, parse_dsn
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
            raise UsageError(f"database {dbid} says that its id is {shown_value(value['id'])}")
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
        shown = repr(key) if key is None or _READABLE.fullmatch(str(key)) else "***"
        raise UsageError(f"{shown} is no database id: use whole numbers from 1")
    return dbid


#: A URL whose parts are unambiguous. Any other URL is neither used nor shown: an unescaped character may have
#: moved part of the password into another part.
_URL: Final = re.compile(
    r"""(?P<scheme>[a-z][a-z0-9]*(?:\+[a-z0-9_]+)?)://
    (?:(?P<user>[^:/@?]*)(?::(?P<password>[^?]*|[^=]*))?@)?
    (?P<host>\[[0-9a-f:.]+(?:%[\w.-]+)?\]|[\w.,~%-]*)(?::(?P<port>[0-9]{1,5}))?
    (?:/(?P<database>[^?@&=;]*))?
    (?:\?(?P<query>[^@?]*))?""",
    re.VERBOSE | re.IGNORECASE,
)
#: A URL of SQLite: a path, which may have odd characters.
_FILE_URL: Final = re.compile(
    r"(?P<scheme>sqlite(?:\+[a-z0-9_]+)?)://(?:/(?P<database>[^?]*)(?:\?(?P<query>[^?]*))?)?", re.IGNORECASE
)
#: Names of parameters with a secret, of all drivers. ``passfile`` names a file.
_SECRET: Final = re.compile(r"\w*(?:pass(?!file)|pwd|secret|token)\w*\s*=", re.IGNORECASE)
#: A parameter about the address of a database and the connection to it.
_PLACE: Final = re.compile(
    r"(?:host|hostaddr|port|unix_socket|service|sslmode|sslrootcert|sslcert|ssl_mode|ssl_ca|ssl_cert)=[\w./,:+-]+"
)
_READABLE: Final = re.compile(r"[\w.+-]{1,32}")


def _read_url(url: str) -> re.Match[str] | None:
    """Return the parts of a URL, or None if they cannot be distinguished."""
    if url.count("://") != 1:
        return None
    found = _FILE_URL.fullmatch(url) or _URL.fullmatch(url)
    # Nor is a parameter a part of the account: then a ? was forgotten.
    if found is None or any(_SECRET.search(part or "") for part in (found["database"], *found.groups()[1:3])):
        return None
    # With a second @ and nothing behind it, the host may be the end of a password.
    if "@" in (found.groupdict().get("password") or "") and not found["database"]:
        return None
    # A secret within another parameter's value would be quoted by the driver that refuses the value.
    parts = (found["query"] or "").split("&")
    return None if any(_SECRET.search(part) and not _SECRET.match(part) for part in parts) else found


def check_url(dbid: int, url: str) -> None:
    """Make sure that a URL has each part in its place.

    Raises:
        UsageError: it has not. The message shows only parts that are certainly not a password.

    """
    found = _read_url(url)
    if found is None:
        raise UsageError(
            f"what is given for database {dbid} is not a database URL such as sqlite:///jobs.db or mysql://user:password@host/database."
            f" (It is not shown: it may have a password.) {_ESCAPES}"
        )
    if "@" in (found.groupdict().get("password") or ""):
        raise UsageError(
            f"the URL of database {dbid}, {without_password(url)!r}, has more than one @. {_ESCAPES}"
        )


_ESCAPES: Final = (
    "Separate several URLs with white space; in a user or password write @ as %40, : as %3A, / as %2F, ? as "
    "%3F and white space as %20"
)


def is_secret(name: str) -> bool:
    """Whether the value of a parameter of this name is a secret."""
    return _SECRET.fullmatch(f"{name}=") is not None


def has_password(url: str) -> bool:
    """Whether a database has a password, or may have one: it may be an invalid URL."""
    url = re.sub(r"^\d{1,10}=", "", url)
    found = _read_url(url)
    if found is None:
        return "://" in url or "@" in url or _SECRET.search(url) is not None
    return bool(found.groupdict().get("password") or _SECRET.search(found["query"] or ""))


def without_password(url: str) -> str:
    """Return a URL for messages: user, host, port and database, as far as they are certainly that.

    ``***`` stands for a text that cannot be read as a URL.
    """
    found = _read_url(url)
    if found is None:
        return "***" if url else ""
    part = {name: value or "" for name, value in found.groupdict().items()}
    user = part.get("user", "")
    account = f"{user if _READABLE.fullmatch(user) else '***'}@" if user else ""
    port = f":{part['port']}" if part.get("port") else ""
    path = f"/{part['database']}" if found["database"] is not None else ""
    known = [one for one in map(unquote, part["query"].split("&")) if _PLACE.fullmatch(one)]
    query = f"?{'&'.join(known)}" if known else ""
    return f"{part['scheme']}://{account}{part.get('host', '')}{port}{path}{query}"


def shown_name(name: str) -> str:
    """Return the name of a file or server for a message, ``***`` if it may be a URL with a password."""
    return "***" if has_password(name) else name


def shown_value(value: object) -> str:
    """Return a short plain value for a message, ``***`` for any other: it may hold a piece of a password."""
    text = str(value)
    return text if _READABLE.fullmatch(text) else "***"


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

    def __repr__(self) -> str:
        """Return its values, with the databases as in messages."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        values["databases"] = [without_password(url) for url in self.databases]
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in values.items())})"

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
    return decode_toml(text, Settings, name)
