"""Checks the URLs of databases, and makes SQLAlchemy engines and dialects from them. No I/O."""

from contextlib import suppress
from typing import Any, Final

from sqlalchemy import URL, Engine, create_engine, exc, make_url

from garivini.databases.urls import check_url, is_secret, shown_value, without_password
from garivini.errors import UsageError
from garivini.store.dialects import DIALECTS
from garivini.store.dialects.dialect import Dialect, unknown_parameter

#: Other names of databases in URLs, with the names that are used here.
_ALSO: Final = {"mariadb": "mysql", "postgres": "postgresql"}
_PORTS: Final = {"mysql": 3306, "postgresql": 5432}


def parse_url(dbid: int, target: Any) -> URL:
    """Return the URL that a user gave for a database.

    Raises:
        UsageError: it is not a URL, or is ambiguous.

    """
    if not isinstance(target, str):
        raise UsageError(f"a database is a URL or an SQLAlchemy Engine, not {type(target).__name__}")
    check_url(dbid, target)
    with suppress(exc.SQLAlchemyError, ValueError):
        return make_url(target)
    # Raised after the ``with``, so that SQLAlchemy's error, which may quote the URL, is not the context of
    # this one.
    raise UsageError(f"{without_password(target)!r} is not a database URL such as sqlite:///jobs.db")


def refuse_misread(url: URL) -> None:
    """Refuse a URL in which part of the password is parsed as the host or the database.

    Drivers show host and database in their messages.
    """
    parts = [url.host or "", "" if url.get_backend_name() == "sqlite" else url.database or ""]
    if any("@" in part or "://" in part for part in parts) or "://" in (url.database or ""):
        raise UsageError(
            f"the URL of a {url.get_backend_name()} database has more than one @, or more than one ://: in a "
            "user or password write @ as %40, : as %3A and / as %2F"
        )


def dialect_of(name: str) -> Dialect:
    """Return the dialect of this name in a URL.

    Raises:
        UsageError: that database is not supported.

    """
    name = _ALSO.get(name, name)
    if name not in DIALECTS:
        raise UsageError(f"{name} is not supported; use {', '.join(DIALECTS)}")
    return DIALECTS[name]()


def make_engine(dialect: Dialect, url: URL) -> Engine:
    """Return an engine of our own for a URL.

    Raises:
        UsageError: the URL has an unknown driver or parameter, or the driver is not installed.

    """
    url, arguments = dialect.engine(url)
    url, secrets = _without_secrets(url)
    why = ""
    try:
        engine = create_engine(url, connect_args=arguments | secrets, pool_reset_on_return=None)
        known = dialect.parameters(engine.dialect.loaded_dbapi)
        if known is not None:
            why = unknown_parameter([*url.query, *secrets], known, engine.dialect.driver)
        if not why:
            dialect.hook(engine)
            return engine
    except ImportError as error:
        package = dialect.packages.get(url.get_driver_name(), "'garivini[mysql,postgresql]'")
        why = f"its driver is not installed (pip install {package}): {error}"
    except exc.NoSuchModuleError:
        why = f"the driver {shown_value(url.drivername)} is not known"
    except (exc.SQLAlchemyError, TypeError, ValueError):
        why = "a part of it, or one of its parameters, is none that the driver takes"
    raise UsageError(f"{shown(url)!r} cannot be used: {why}")


def shown(url: URL) -> str:
    """Return a URL for messages; for an invalid one, only the kind of database."""
    place = URL.create(url.drivername, url.username, None, url.host, url.port, url.database, url.query)
    text = without_password(place.render_as_string())
    return url.get_backend_name() if "***" in text else text


def same_place(one: URL, other: URL) -> bool:
    """Whether two URLs lead to the same database, whatever the user and driver."""
    return _place(one) == _place(other)


def _place(url: URL) -> tuple[str, str | None, int | None, str | None]:
    name = url.get_backend_name()
    name = _ALSO.get(name, name)
    return name, url.host, url.port or _PORTS.get(name), url.database


def _without_secrets(url: URL) -> tuple[URL, dict[str, Any]]:
    """Move passwords from a URL to the driver's arguments: SQLAlchemy prints those in a URL's query."""
    secrets = {name: value for name, value in url.query.items() if is_secret(name)}
    if "passwd" in secrets:
        secrets["password"] = secrets.pop("passwd")  # PyMySQL's old name of the parameter
    if url.password is not None:
        secrets["password"] = url.password
    query = {name: value for name, value in url.query.items() if not is_secret(name)}
    return URL.create(url.drivername, url.username, None, url.host, url.port, url.database, query), secrets
