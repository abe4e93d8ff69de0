"""What several commands take: databases, Gearman servers, logs, the form of the output."""

import json
import logging
import os
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from garivini.errors import UsageError

DEFAULT_DATABASE: Final = "sqlite:///garivini.db"
DEFAULT_SERVER: Final = "127.0.0.1:4730"
SETTINGS_FILE: Final = "garivini.toml"

_F = TypeVar("_F", bound=Callable[..., Any])


def load_settings(ctx: click.Context, path: str | None) -> None:
    """Take defaults from a settings file: flags come before the environment, that before the file.

    Args:
        ctx: of the command group.
        path: of the file; None: ``garivini.toml`` in the working folder, if it is there.

    Raises:
        UsageError: the file cannot be read, or says something that is not known.

    """
    file = Path(path or SETTINGS_FILE)
    if path is None and not file.exists():
        return
    from garivini.config import has_password, parse_settings, without_password  # not needed for --help

    try:
        settings = parse_settings(file.read_bytes(), str(file))
    except OSError as error:
        raise UsageError(f"{without_password(str(file))} cannot be read: {error.strerror}") from None
    if any(map(has_password, settings.databases)) and file.stat().st_mode & 0o077:
        click.echo(f"garivini: {file} has a password and can be read by others: chmod 600 {file}", err=True)
    common = {
        "dbs": settings.databases,
        "job_servers": settings.job_servers,
        "log_format": settings.log.format,
        "verbose": settings.log.verbose,
    }
    shared = {name: value for name, value in common.items() if value}
    shared |= {f"tls_{name}": value for name, value in _said(settings.tls).items()}
    defaults: dict[str, Any] = dict.fromkeys(("dev", "insert", "status", "health", "doctor"), shared)
    for group, names in _BELOW.items():
        defaults[group] = dict.fromkeys(names, shared)
    roles = (settings.queue_runner, settings.controller, settings.injector)
    defaults["run"] = shared | {name: value for role in roles for name, value in _said(role).items()}
    defaults["worker"] = shared | _said(settings.worker)
    ctx.default_map = defaults


#: Commands of a group that take databases or servers.
_BELOW: Final = {
    "jobs": ("list", "show", "retry", "cancel", "reschedule", "delete"),
    "functions": ("list", "set"),
    "db": ("upgrade", "check", "drain"),
}


def _said(table: Any) -> dict[str, Any]:
    values = ((name, getattr(table, name)) for name in table.__struct_fields__)
    return {name: value for name, value in values if value is not None}


def _databases(ctx: click.Context, param: click.Parameter, urls: tuple[str, ...]) -> list[str]:
    """Refuse a password on the command line, where others can read it; read GARIVINI_DB_FILE."""
    source = ctx.get_parameter_source(param.name or "")
    from garivini.config import without_password  # not needed for --help

    if source is click.core.ParameterSource.COMMANDLINE:
        for url in urls:
            _refuse_password(url, "GARIVINI_DB, GARIVINI_DB_FILE or garivini.toml")
    elif source is not click.core.ParameterSource.ENVIRONMENT and (
        name := os.environ.get("GARIVINI_DB_FILE")
    ):
        try:
            return Path(name).read_text(encoding="utf-8").split()
        except OSError as error:
            raise UsageError(
                f"GARIVINI_DB_FILE: {without_password(name)} cannot be read: {error.strerror}"
            ) from None
    return list(urls)


def _refuse_password(url: str, elsewhere: str) -> None:
    from garivini.config import has_password  # not needed for --help

    if has_password(url):
        raise UsageError(f"a password on the command line can be read by others: put the URL in {elsewhere}")


def bench_database(ctx: click.Context, param: click.Parameter, url: str | None) -> str | None:
    """Refuse a password on the command line."""
    if (
        url is not None
        and ctx.get_parameter_source(param.name or "") is click.core.ParameterSource.COMMANDLINE
    ):
        _refuse_password(url, "GARIVINI_BENCH_DB")
    return url


class _DatabaseOption(click.Option):
    """``--db``. Its default may come from a settings file: ``--help`` shows that without passwords."""

    def get_help_extra(self, ctx: click.Context) -> Any:
        from garivini.config import without_password

        extra = super().get_help_extra(ctx)
        default: Any = self.get_default(ctx, call=False)
        extra["default"] = ", ".join(without_password(url) for url in default)
        return extra


def databases(command: _F) -> _F:
    """Add ``--db``."""
    return click.option(
        "--db",
        "dbs",
        cls=_DatabaseOption,
        multiple=True,
        envvar="GARIVINI_DB",
        default=[DEFAULT_DATABASE],
        show_default=True,
        callback=_databases,
        metavar="URL",
        help="Database with the jobs. Several make one queue; the first is database 1. "
        "Environment: GARIVINI_DB, or GARIVINI_DB_FILE with the name of a file, with white space between "
        "several.",
    )(command)


def job_servers(command: _F) -> _F:
    """Add ``--job-server``."""
    return click.option(
        "--job-server",
        "job_servers",
        multiple=True,
        envvar="GARIVINI_JOB_SERVERS",
        default=[DEFAULT_SERVER],
        show_default=True,
        metavar="HOST:PORT",
        help="Gearman server; may be given several times. Environment: GARIVINI_JOB_SERVERS, with white "
        "space between several.",
    )(command)


def tls(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of TLS to Gearman servers; the command gets the context as ``tls``, None for no TLS."""

    @wraps(command)
    def with_context(
        *arguments: Any,
        tls_ca: str | None,
        tls_certificate: str | None,
        tls_key: str | None,
        tls_verify_host: bool,
        **others: Any,
    ) -> None:
        from garivini.cli.tls import make_context  # OpenSSL is not needed for --help

        context = make_context(tls_ca, tls_certificate, tls_key, verify_host=tls_verify_host)
        command(*arguments, tls=context, **others)

    for option in reversed(_TLS_OPTIONS):
        option(with_context)
    return with_context


_TLS_OPTIONS: Final = (
    click.option(
        "--tls-ca",
        envvar="GARIVINI_TLS_CA",
        show_default="none",
        metavar="FILE",
        help="Talk TLS to the Gearman servers and trust the authorities in this file (PEM). system: those "
        "that the system trusts; none: no TLS. Environment: GARIVINI_TLS_CA.",
    ),
    click.option(
        "--tls-certificate",
        envvar="GARIVINI_TLS_CERTIFICATE",
        metavar="FILE",
        help="Certificate to show to a server that wants one (PEM). Environment: GARIVINI_TLS_CERTIFICATE.",
    ),
    click.option(
        "--tls-key",
        envvar="GARIVINI_TLS_KEY",
        metavar="FILE",
        help="Its key, without a passphrase, if it is not in the same file. Environment: GARIVINI_TLS_KEY.",
    ),
    click.option(
        "--tls-verify-host/--tls-no-verify-host",
        envvar="GARIVINI_TLS_VERIFY_HOST",
        default=True,
        show_default="on",
        help="Whether a server's certificate must name the host as --job-server does. "
        "Environment: GARIVINI_TLS_VERIFY_HOST.",
    ),
)


def logs(command: _F) -> _F:
    """Add ``--verbose`` and ``--log-format``; log to standard error."""

    def start(ctx: click.Context, param: click.Parameter, form: str) -> None:
        handler = logging.StreamHandler()
        if form == "json":
            handler.setFormatter(_JsonFormatter())
        else:
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(process)d %(message)s"))
        logging.basicConfig(handlers=[handler], level=logging.WARNING)
        verbose = ctx.meta.get("garivini.verbose")
        logging.getLogger("garivini").setLevel(logging.DEBUG if verbose else logging.INFO)

    command = click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        envvar="GARIVINI_LOG_FORMAT",
        expose_value=False,
        callback=start,
        help="One line for people, or one JSON object, for each event.",
    )(command)
    return click.option(
        "-v",
        "--verbose",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_keep,
        help="Log all events.",
    )(command)


def _keep(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    ctx.meta["garivini.verbose"] = value
    return value


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, process, event and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", None)
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "process": record.process,
            "event": getattr(record, "event", record.name),
            **(fields if fields is not None else {"message": record.getMessage()}),
        }
        return json.dumps(entry, default=str)


def output(command: _F) -> _F:
    """Add ``--output``."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json", "jsonl"]),
        default="table",
        show_default=True,
        help="For people, or one JSON document, or one JSON object a line.",
    )(command)
