"""Options of several commands: databases, Gearman servers, logs, and the form of the output."""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any, Final, TypeVar, get_args

import click

from garivini.cli.logs import logs as logs
from garivini.cli.output import Form
from garivini.databases.urls import has_password, shown_name, without_password
from garivini.errors import UsageError
from garivini.settings import DEFAULT_DATABASE as DEFAULT_DATABASE
from garivini.settings import DEFAULT_SERVER as DEFAULT_SERVER
from garivini.settings import Configuration, load

_F = TypeVar("_F", bound=Callable[..., Any])


def load_settings(ctx: click.Context, path: str | None) -> None:
    """Set the defaults of all options from the environment and the settings file.

    Args:
        ctx: the context of the command group.
        path: the name of the file. None: ``garivini.toml`` in the working directory, if it exists.

    Raises:
        UsageError: the file cannot be read, or has an unknown key or a wrong value.

    """
    found = ctx.meta[_CONFIGURATION] = load(path)
    for warning in found.warnings:
        click.echo(f"garivini: {warning}", err=True)
    settings = found.file
    common = {"log_format": settings.log.format, "verbose": settings.log.verbose}
    shared = {name: value for name, value in common.items() if value}
    defaults: dict[str, Any] = dict.fromkeys(("dev", "insert", "status", "health", "doctor"), shared)
    for group, names in _BELOW.items():
        defaults[group] = dict.fromkeys(names, shared)
    roles = (settings.queue_runner, settings.controller, settings.injector)
    defaults["run"] = shared | {name: value for role in roles for name, value in _given(role).items()}
    defaults["worker"] = shared | _given(settings.worker)
    ctx.default_map = defaults


#: The key of the command's ``Configuration`` in its context.
_CONFIGURATION: Final = "garivini.configuration"


def configuration(ctx: click.Context) -> Configuration:
    """Return the settings of a command."""
    found: Configuration = ctx.meta[_CONFIGURATION]
    return found


#: By command group: the commands of the group that get the settings common to all commands.
_BELOW: Final = {
    "jobs": "list show failures retry cancel discard reschedule priority delete".split(),
    "functions": ("list", "set"),
    "db": ("upgrade", "check", "drain"),
}


def _given(table: Any) -> dict[str, Any]:
    values = ((name, getattr(table, name)) for name in table.__struct_fields__)
    return {name: value for name, value in values if value is not None}


def _is_flag(ctx: click.Context, name: str) -> bool:
    """Return whether a parameter was given on the command line."""
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _databases(ctx: click.Context, param: click.Parameter, urls: tuple[str, ...]) -> list[str]:
    """Return the databases. A password on the command line is refused, because other users could read it."""
    if not _is_flag(ctx, param.name or ""):
        return configuration(ctx).databases()
    for url in urls:
        _refuse_password(url, "GARIVINI_DB, GARIVINI_DB_FILE or garivini.toml")
    return list(urls)


def _job_servers(ctx: click.Context, param: click.Parameter, servers: tuple[str, ...]) -> tuple[str, ...]:
    return servers if _is_flag(ctx, param.name or "") else tuple(configuration(ctx).job_servers())


def _refuse_password(url: str, elsewhere: str) -> None:
    if has_password(url):
        raise UsageError(f"other users can read a password on the command line: put the URL in {elsewhere}")


def private_url(variable: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """Return the callback of a parameter with a URL, which refuses a password on the command line.

    ``variable``: the environment variable of the parameter.
    """

    def check(ctx: click.Context, param: click.Parameter, url: str | None) -> str | None:
        if url is not None and _is_flag(ctx, param.name or ""):
            _refuse_password(url, variable)
        return url

    return check


class _SettingsOption(click.Option):
    """An option of a setting, whose environment variable is read by ``settings`` and not by click."""

    def resolve_envvar_value(self, ctx: click.Context) -> None:
        return None


class _PlaceOption(_SettingsOption):
    """An option with a default from the settings. ``--help`` shows the default without passwords."""

    def get_help_extra(self, ctx: click.Context) -> Any:
        found = configuration(ctx)
        if self.name == "dbs":
            values = [without_password(url) for url in found.databases()]
        else:
            values = [shown_name(server) for server in found.job_servers()]
        if "***" in values:
            values = ["***"]  # a password with white space may have been split into several values
        return {**super().get_help_extra(ctx), "default": ", ".join(values)}


def databases(command: _F) -> _F:
    """Add ``--db``."""
    return click.option(
        "--db",
        "dbs",
        cls=_PlaceOption,
        envvar="GARIVINI_DB",
        multiple=True,
        callback=_databases,
        metavar="URL",
        help="Database with the jobs. Several are one queue; the first is database 1. Environment: "
        "GARIVINI_DB, or GARIVINI_DB_FILE with the name of a file; several URLs with white space between "
        "them.",
    )(command)


def job_servers(command: _F) -> _F:
    """Add ``--job-server``."""
    return click.option(
        "--job-server",
        "job_servers",
        cls=_PlaceOption,
        envvar="GARIVINI_JOB_SERVERS",
        multiple=True,
        callback=_job_servers,
        metavar="HOST:PORT",
        help="Gearman server; may be repeated. Environment: GARIVINI_JOB_SERVERS, with white space between "
        "several.",
    )(command)


def tls(command: Callable[..., None]) -> Callable[..., None]:
    """Add the TLS options for Gearman servers. The command gets the context, or None, as ``tls``."""

    @wraps(command)
    def with_context(
        *arguments: Any,
        tls_ca: str | None,
        tls_certificate: str | None,
        tls_key: str | None,
        tls_verify_host: bool,
        **others: Any,
    ) -> None:
        ctx = click.get_current_context()
        flags = {
            "ca": tls_ca,
            "certificate": tls_certificate,
            "key": tls_key,
            "verify_host": tls_verify_host,
        }
        found = ctx.meta[_CONFIGURATION] = replace(
            configuration(ctx),
            tls_flags={name: value for name, value in flags.items() if _is_flag(ctx, f"tls_{name}")},
        )
        command(*arguments, tls=found.tls(), **others)

    for option in reversed(_TLS_OPTIONS):
        option(with_context)
    return with_context


_TLS_OPTIONS: Final = (
    click.option(
        "--tls-ca",
        cls=_SettingsOption,
        envvar="GARIVINI_TLS_CA",
        show_default="none",
        metavar="FILE",
        help="Use TLS to the Gearman servers and trust the authorities in this file (PEM). system: those "
        "that the system trusts; none: no TLS. Environment: GARIVINI_TLS_CA.",
    ),
    click.option(
        "--tls-certificate",
        cls=_SettingsOption,
        envvar="GARIVINI_TLS_CERTIFICATE",
        metavar="FILE",
        help="Certificate for a server that requires one (PEM). Environment: GARIVINI_TLS_CERTIFICATE.",
    ),
    click.option(
        "--tls-key",
        cls=_SettingsOption,
        envvar="GARIVINI_TLS_KEY",
        metavar="FILE",
        help="Its key, without a passphrase, if the key is not in the same file. Environment: "
        "GARIVINI_TLS_KEY.",
    ),
    click.option(
        "--tls-verify-host/--tls-no-verify-host",
        cls=_SettingsOption,
        envvar="GARIVINI_TLS_VERIFY_HOST",
        default=True,
        show_default="on",
        help="Whether the certificate of a server must have its host name as in --job-server. "
        "Environment: GARIVINI_TLS_VERIFY_HOST.",
    ),
)


def output(command: _F) -> _F:
    """Add ``--output``."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(get_args(Form)),
        default="table",
        show_default=True,
        help="A table, one JSON document, or one JSON object per line.",
    )(command)
