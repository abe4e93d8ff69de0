"""URLs from data sources of Perl's DBI, which scripts of the original use. No I/O."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Final
from urllib.parse import quote, urlencode

from garivini.errors import UsageError

_SCHEMES: Final = {"mysql": "mysql", "mariadb": "mysql", "pg": "postgresql", "sqlite": "sqlite"}
#: The syntax of DBI: ``dbi:driver(attributes):rest``.
_DSN: Final = re.compile(r"dbi:\s*(\w+)\s*(?:\(([^)]*)\))?:(.*)", re.IGNORECASE | re.DOTALL)

#: Attributes of every driver, and the parts of a URL with the same meaning.
_PARTS: Final = {
    "database": "database",
    "dbname": "database",
    "db": "database",
    "host": "host",
    "hostname": "host",
    "port": "port",
    "user": "user",
    "username": "user",
    "password": "password",
}
#: Attributes of DBI that affect only how Perl code receives errors and rows.
_OF_DBI: Final = frozenset(
    "raiseerror printerror printwarn raisewarn warn handleerror showerrorstatement autocommit longreadlen "
    "longtruncok chopblanks fetchhashkeyname taint taintin taintout tracelevel profile readonly rootclass "
    "compatmode inactivedestroy autoinactivedestroy callbacks dbtypesubclass".split()
)
#: By scheme: attributes of the driver, and the parameter of a URL with the same meaning.
_MAPPED: Final[Mapping[str, Mapping[str, str]]] = {
    "mysql": {
        "socket": "unix_socket",
        "connect_timeout": "connect_timeout",
        "read_timeout": "read_timeout",
        "write_timeout": "write_timeout",
        "init_command": "init_command",
        "read_default_file": "read_default_file",
        "read_default_group": "read_default_group",
        "ssl": "ssl_mode",
        "ssl_verify_server_cert": "ssl_mode",
        "ssl_ca_file": "ssl_ca",
        "ssl_client_cert": "ssl_cert",
        "ssl_client_key": "ssl_key",
    },
    "postgresql": {
        name: name
        for name in (
            "hostaddr service options application_name connect_timeout passfile sslmode sslrootcert sslcert "
            "sslkey sslpassword sslcrl sslcrldir sslsni sslnegotiation sslcertmode ssl_min_protocol_version "
            "ssl_max_protocol_version channel_binding require_auth requirepeer gssencmode krbsrvname gsslib "
            "keepalives keepalives_idle keepalives_interval keepalives_count tcp_user_timeout "
            "target_session_attrs load_balance_hosts"
        ).split()
    },
    "sqlite": {},
}
#: By scheme: attributes that affect only the Perl driver. Text is always UTF-8 here.
_HARMLESS: Final[Mapping[str, frozenset[str]]] = {
    "mysql": frozenset(
        "enable_utf8 enable_utf8mb4 auto_reconnect use_result compression client_found_rows "
        "multi_statements local_infile server_prepare server_prepare_disable_fallback bind_type_guessing "
        "bind_comment_placeholders no_autocommit_cmd conn_attrs skip_secure_auth get_server_pubkey "
        "ssl_optional embedded_options embedded_groups".split()
    ),
    "postgresql": frozenset(
        "enable_utf8 server_prepare switch_prepared prepare_now bool_tf expand_array errorlevel "
        "placeholder_dollaronly placeholder_nocolons placeholder_escaped utf8_strings default_port".split()
    ),
    "sqlite": frozenset(
        "unicode string_mode use_immediate_transaction see_if_its_a_number allow_multiple_statements "
        "unprepared_statements extended_result_codes defensive prefer_numeric_type".split()
    ),
}
#: By the scheme of the URL: the prefix of the attributes of the Perl driver.
_PREFIX: Final = {"mysql": r"(?:mysql|mariadb)_", "postgresql": "pg_", "sqlite": "sqlite_"}
_OFF: Final = ("", "0")


def is_dsn(text: str) -> bool:
    """Return whether a text is a data source."""
    return text[:4].lower() == "dbi:"


def parse_dsn(dsn: str, user: str | None = None, password: str | None = None) -> str:
    """Return the URL of a data source such as ``DBI:mysql:job:host=127.0.0.1;port=3306``.

    Names may be in upper or lower case. Attributes with a counterpart in URLs are kept; those that affect
    only Perl are omitted. A URL is returned as it is; if it has no user, user and password are added.

    Raises:
        UsageError: it is neither a data source nor a URL, or has an unknown driver or attribute.

    """
    if "://" in dsn and not is_dsn(dsn):
        scheme, _, rest = dsn.partition("://")
        return f"{scheme}://{_account(user, password)}{rest}" if user and "@" not in rest else dsn
    found = _DSN.fullmatch(dsn)
    if found is None or found[1].lower() not in _SCHEMES:
        raise UsageError(
            f"not a data source: write a URL, or DBI:driver:… with a driver of {', '.join(_SCHEMES)}"
        )
    scheme = _SCHEMES[found[1].lower()]
    parts = {"user": user, "password": password}
    query: dict[str, str] = {}
    for number, (name, value) in enumerate(_attributes(scheme, found[2], found[3]), 1):
        _take(scheme, number, name, value, parts, query)
    return _url(scheme, parts, query)


def _attributes(scheme: str, of_dbi: str | None, rest: str) -> Iterator[tuple[str, str]]:
    """Yield the attributes in parentheses, then those of the driver.

    A first part without ``=`` is the database, with the name ``database``. Any other part without ``=`` has
    an empty name.
    """
    for pair in re.split(r"\s*,\s*", (of_dbi or "").strip()):
        if pair:
            name, _, value = re.sub(r"\s*=>\s*", "=", pair, count=1).partition("=")
            yield name.strip(), value.strip().strip("'\"")
    # DBD::mysql alone also separates parts by colons. A colon in the brackets of an IPv6 address separates
    # nothing.
    separated = r"(?:\[[^]]*\]|[^:;])+" if scheme == "mysql" else "[^;]+"
    if scheme == "sqlite" and rest.lower().startswith("uri="):
        separated = ".+"  # libpq: a semicolon may separate parameters
    for position, part in enumerate(re.findall(separated, rest)):
        name, equals, value = part.partition("=")
        if equals:
            yield name.strip(), value
        else:
            yield ("database" if position == 0 else ""), part


def _take(
    scheme: str, number: int, name: str, value: str, parts: dict[str, str | None], query: dict[str, str]
) -> None:
    name = name.lower()
    own = re.sub(f"^{_PREFIX[scheme]}", "", name)
    if part := _PARTS.get(name):
        before = parts.get(part)
        if part == "database" and before not in (None, value):
            raise UsageError("the data source names two databases")
        parts[part] = value
    elif scheme == "sqlite" and name == "uri":
        parts["uri"] = value
    elif own in _MAPPED[scheme] and (own != name or scheme == "postgresql"):
        _map(own, _MAPPED[scheme][own], value, query)
    elif name not in _OF_DBI and not (own != name and own in _HARMLESS[scheme]):
        raise UsageError(_unknown(scheme, number, name, own))


def _map(own: str, parameter: str, value: str, query: dict[str, str]) -> None:
    """Add an attribute to the query of a URL."""
    if parameter == "ssl_mode":
        if value in _OFF:
            return
        value = "REQUIRED" if own == "ssl" else "VERIFY_IDENTITY"
        if query.get(parameter) == "VERIFY_IDENTITY":
            return
    elif parameter.endswith("timeout") and value in _OFF:
        return  # 0 means no timeout, but here there always is one
    query[parameter] = value


def _unknown(scheme: str, number: int, name: str, own: str) -> str:
    """Return the error about an attribute. The name is not shown if it may be part of a password."""
    if not name:
        return (
            f"the data source names two databases, or part {number} needs its name, as in host=…; an IPv6 "
            "address goes in brackets"
        )
    shown = f"{name!r}" if own != name and re.fullmatch(r"\w+", own) else f"{number}"
    known = [*_PARTS, *_MAPPED[scheme]]
    near = get_close_matches(own, known, 1, 0.75)
    return f"part {shown} of the data source is unknown: " + (
        f"did you mean {near[0]}?" if near else "remove it, or write a URL"
    )


def _url(scheme: str, parts: Mapping[str, str | None], query: dict[str, str]) -> str:
    database, host, port = parts.get("database") or "", parts.get("host") or "", parts.get("port") or ""
    if scheme == "sqlite":
        if uri := parts.get("uri"):
            path, _, rest = uri.partition("?")
            return f"sqlite:///{quote(path, safe='/:')}?{rest}{'&' if rest else ''}uri=true"
        if not database:
            raise UsageError("the data source names no database")
        return f"sqlite:///{quote(database)}"
    if not database and "service" not in query:
        raise UsageError("the data source names no database")
    if "service" not in query:
        host = host or "localhost"
    if host != "localhost":
        query.pop("unix_socket", None)  # as in the original, for localhost only
    if host.startswith("/") or "," in host + port:
        # The host is a directory of sockets, or several servers: pass it as a parameter of libpq.
        query = {"host": host, **({"port": port} if port else {}), **query}
        host = port = ""
    place = f"{host}{f':{port}' if port else ''}/{quote(database)}"
    account = _account(parts["user"], parts["password"])
    return f"{scheme}://{account}{place}" + (
        f"?{urlencode(query, quote_via=quote, safe='/')}" if query else ""
    )


def _account(user: str | None, password: str | None) -> str:
    if not user:
        return ""
    return quote(user, safe="") + (f":{quote(password, safe='')}" if password else "") + "@"
