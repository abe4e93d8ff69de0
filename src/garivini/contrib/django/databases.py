"""The database of the jobs: one of ``DATABASES``, and its URL for programs that connect by themselves."""

import os
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from django.conf import settings
from django.db import connections, router
from sqlalchemy import Engine, create_engine

from garivini.errors import UsageError


class JobModel:
    """What a database router is asked about. There is no model of jobs."""

    _meta: Final = SimpleNamespace(app_label="garivini", model_name="job", label_lower="garivini.job")


def options() -> Mapping[str, Any]:
    """Return the setting ``GARIVINI``.

    Raises:
        UsageError: it has an unknown key.

    """
    found: Mapping[str, Any] = getattr(settings, "GARIVINI", {})
    if unknown := sorted(set(found) - {"DATABASE", "JOB_SERVERS", "TLS"}):
        raise UsageError(f"GARIVINI has the keys DATABASE, JOB_SERVERS and TLS, not {', '.join(unknown)}")
    return found


def alias() -> str:
    """Return the alias of the database: that of the setting, or the one that the routers choose."""
    return str(options().get("DATABASE") or router.db_for_write(JobModel))


def database() -> str | Engine:
    """Return the database for a ``Client``: its URL; for tests on SQLite in memory, an engine."""
    found = connections[alias()]
    name = str(found.settings_dict["NAME"])
    if found.vendor == "sqlite" and "mode=memory" in name:
        return create_engine("sqlite://", creator=_opener(name), pool_reset_on_return=None)
    return url_of(found.vendor, found.settings_dict)


def _opener(name: str) -> Callable[[], sqlite3.Connection]:
    return lambda: sqlite3.connect(name, uri=True, isolation_level=None, check_same_thread=False)


class _Kind(NamedTuple):
    scheme: str
    #: For each option of the driver, the parameter of a URL.
    mapped: Mapping[str, str]
    #: Options about Django's own connections alone.
    harmless: frozenset[str]


_LIBPQ: Final = (
    "sslmode sslrootcert sslcert sslkey sslpassword sslcrl passfile options application_name connect_timeout "
    "target_session_attrs keepalives keepalives_idle keepalives_interval keepalives_count tcp_user_timeout "
    "hostaddr channel_binding gssencmode service"
)
_KINDS: Final[Mapping[str, _Kind]] = {
    "sqlite": _Kind("sqlite", {}, frozenset({"timeout", "transaction_mode", "init_command"})),
    "postgresql": _Kind(
        "postgresql",
        {name: name for name in _LIBPQ.split()},
        frozenset({"isolation_level", "server_side_binding", "pool", "prepare_threshold"}),
    ),
    "mysql": _Kind(
        "mysql",
        {
            name: name
            for name in (
                "connect_timeout read_timeout write_timeout unix_socket read_default_file read_default_group "
                "ssl_mode"
            ).split()
        },
        frozenset({"charset", "isolation_level", "init_command", "sql_mode", "use_unicode", "conv"}),
    ),
}
#: Keys of the option ``ssl`` of the drivers for MySQL, and the parameters of a URL.
_SSL: Final = {"ca": "ssl_ca", "cert": "ssl_cert", "key": "ssl_key"}


def url_of(vendor: str, found: Mapping[str, Any]) -> str:
    """Return the URL of a database of ``DATABASES``.

    Args:
        vendor: Django's name of the kind of database.
        found: its settings.

    Raises:
        UsageError: the kind is not supported, or an option cannot be part of a URL. The message has no value.

    """
    if vendor not in _KINDS:
        raise UsageError(f"jobs cannot be stored in a database of {vendor}: use {', '.join(_KINDS)}")
    kind = _KINDS[vendor]
    query = _query(kind, found.get("OPTIONS") or {})
    name, host, port = (str(found.get(key) or "") for key in ("NAME", "HOST", "PORT"))
    if vendor == "sqlite":
        if not name or ":memory:" in name or name.startswith("file:"):
            raise UsageError("jobs need a SQLite database in a file: NAME is the path of one")
        return f"sqlite:///{quote(str(Path(os.path.abspath(name))))}"  # noqa: PTH100  # keeps links
    if host.startswith("/"):
        query |= (
            {"unix_socket": host} if vendor == "mysql" else {"host": host, **({"port": port} if port else {})}
        )
        host = port = ""
    account = quote(str(found.get("USER") or ""), safe="")
    if password := str(found.get("PASSWORD") or ""):
        account += f":{quote(password, safe='')}"
    if not host and vendor == "mysql":
        host = "localhost"
    place = f"{host}{f':{port}' if port else ''}/{quote(name)}"
    tail = f"?{urlencode(query, quote_via=quote, safe='/')}" if query else ""
    return f"{kind.scheme}://{f'{account}@' if account else ''}{place}{tail}"


def _query(kind: _Kind, given: Mapping[str, Any]) -> dict[str, str]:
    query: dict[str, str] = {}
    for name, value in given.items():
        if name in kind.mapped:
            query[kind.mapped[name]] = str(value)
        elif (
            kind.scheme == "mysql"
            and name == "ssl"
            and isinstance(value, Mapping)
            and set(value) <= set(_SSL)
        ):
            query |= {_SSL[key]: str(path) for key, path in value.items()}
        elif name not in kind.harmless:
            raise UsageError(
                f"the option {name} of DATABASES cannot be part of the URL by which workers and roles connect"
            )
    return query
