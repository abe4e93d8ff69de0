"""The URL of a MariaDB or MySQL database: its driver, timeouts and TLS. No I/O."""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import URL

from garivini.databases.urls import shown_value
from garivini.errors import UsageError
from garivini.store.dialects.dialect import TIMEOUT, parse_timeout

#: Parameters for TLS in the URLs of other drivers.
_TLS_NAMES: Final = frozenset(
    "ssl ssl_mode tls sslmode usessl use_ssl requiressl require_ssl tls_mode".split()
)
_TIMEOUTS: Final = ("connect_timeout", "read_timeout", "write_timeout")


#: The package to install for each driver.
PACKAGES: Final[Mapping[str, str]] = {"pymysql": "'garivini[mysql]'", "mysqldb": "mysqlclient"}


def engine_url(url: URL) -> tuple[URL, dict[str, Any]]:
    """Return the URL with the driver to use, and other arguments of its ``connect``: see ``Dialect.engine``.

    Raises:
        UsageError: the URL cannot be used.

    """
    driver = url.drivername.partition("+")[2] or "pymysql"
    if driver not in PACKAGES:
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
    # Fixed, because with another character set some texts could not be stored.
    query.pop("collation", None)
    query |= {"charset": "utf8mb4", "use_unicode": "1"}
    if wrong := _TLS_NAMES & {name.lower().replace("-", "_") for name in query if name != "ssl_mode"}:
        raise UsageError(
            f"{min(wrong)} in the URL: write ssl_mode=REQUIRED, or VERIFY_IDENTITY and ssl_ca=FILE"
        )
    if driver == "pymysql":
        arguments |= _tls(query)
    return url.set(drivername=f"mysql+{driver}", query=query), arguments


def asks_for_tls(url: URL) -> bool:
    """Whether a URL permits only encrypted connections."""
    if {"ssl_ca", "ssl_cert", "ssl_key"} & url.query.keys():
        return True
    return url.query.get("ssl_mode", "PREFERRED") not in ("PREFERRED", "DISABLED")


def _tls(query: dict[str, Any]) -> dict[str, Any]:
    """Remove the parameters for TLS from a URL's query; return those of PyMySQL's ``connect``."""
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
