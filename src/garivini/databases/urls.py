"""URLs of databases: checked, and shown in messages without their passwords. No I/O."""

import re
from typing import Final
from urllib.parse import unquote

from garivini.errors import UsageError

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
#: A URL of SQLite: a path, which may have any characters but a question mark.
_FILE_URL: Final = re.compile(
    r"(?P<scheme>sqlite(?:\+[a-z0-9_]+)?)://(?:/(?P<database>[^?]*)(?:\?(?P<query>[^?]*))?)?", re.IGNORECASE
)
#: Names of parameters with a secret, of all drivers. ``passfile`` names a file.
_SECRET: Final = re.compile(r"\w*(?:pass(?!file)|pwd|secret|token)\w*\s*=", re.IGNORECASE)
#: A parameter about the address of a database and the connection to it.
_PLACE: Final = re.compile(
    r"(?:host|hostaddr|port|unix_socket|service|sslmode|sslrootcert|sslcert|ssl_mode|ssl_ca|ssl_cert)=[\w./,:+-]+"
)
#: Values that may be shown in a message.
READABLE: Final = re.compile(r"[\w.+-]{1,32}")


def _read_url(url: str) -> re.Match[str] | None:
    """Return the parts of a URL, or None if they cannot be distinguished."""
    if url.count("://") != 1:
        return None
    found = _FILE_URL.fullmatch(url) or _URL.fullmatch(url)
    # If the part of the user or of the database contains a parameter, a ? is missing.
    if found is None or any(_SECRET.search(part or "") for part in (found["database"], *found.groups()[1:3])):
        return None
    # With a second @ and no database behind it, the host may be the end of a password.
    if "@" in (found.groupdict().get("password") or "") and not found["database"]:
        return None
    # If a value contained a secret, a driver that refuses the value would quote it.
    parts = (found["query"] or "").split("&")
    return None if any(_SECRET.search(part) and not _SECRET.match(part) for part in parts) else found


def check_url(dbid: int, url: str) -> None:
    """Check that a URL has each part in its place.

    Raises:
        UsageError: it does not. The message shows only parts that are certainly not a password.

    """
    found = _read_url(url)
    if found is None:
        raise UsageError(
            f"the value for database {dbid} is not a database URL such as sqlite:///jobs.db or mysql://user:password@host/database."
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
    """Whether the URL of a database has a password, or is invalid and therefore may contain one."""
    url = re.sub(r"^\d{1,10}=", "", url)
    found = _read_url(url)
    if found is None:
        return "://" in url or "@" in url or _SECRET.search(url) is not None
    return bool(found.groupdict().get("password") or _SECRET.search(found["query"] or ""))


def without_password(url: str) -> str:
    """Return a URL for messages, with those parts that are certainly not a password.

    A text that cannot be read as a URL is returned as ``***``.
    """
    found = _read_url(url)
    if found is None:
        return "***" if url else ""
    part = {name: value or "" for name, value in found.groupdict().items()}
    user = part.get("user", "")
    account = f"{user if READABLE.fullmatch(user) else '***'}@" if user else ""
    port = f":{part['port']}" if part.get("port") else ""
    path = f"/{part['database']}" if found["database"] is not None else ""
    known = [one for one in map(unquote, part["query"].split("&")) if _PLACE.fullmatch(one)]
    query = f"?{'&'.join(known)}" if known else ""
    return f"{part['scheme']}://{account}{part.get('host', '')}{port}{path}{query}"


def shown_name(name: str) -> str:
    """Return the name of a file or server for a message, or ``***`` if it may be a URL with a password."""
    return "***" if has_password(name) else name


def shown_value(value: object) -> str:
    """Return a short plain value for a message, or ``***`` for any other: it may be part of a password."""
    text = str(value)
    return text if READABLE.fullmatch(text) else "***"
