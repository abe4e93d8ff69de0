"""What several commands take: databases, Gearman servers, logging."""

import logging
from collections.abc import Callable
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import click

from garivini.errors import UsageError
from garivini.gearman.servers import DEFAULT_PORT

DEFAULT_DATABASE: Final = "sqlite:///garivini.db"
DEFAULT_SERVER: Final = f"127.0.0.1:{DEFAULT_PORT}"

_F = TypeVar("_F", bound=Callable[..., Any])


def _without_secrets(ctx: click.Context, param: click.Parameter, urls: tuple[str, ...]) -> list[str]:
    """Refuse a password on the command line: every user of the machine can read it there."""
    given = ctx.get_parameter_source(param.name or "") is click.core.ParameterSource.COMMANDLINE
    for url in urls:
        if given and "://" in url and urlsplit(url).password:
            raise UsageError(
                "a password on the command line can be read by others: put the URL in GARIVINI_DB"
            )
    return list(urls)


def databases(command: _F) -> _F:
    """Add ``--db``."""
    return click.option(
        "--db",
        "dbs",
        multiple=True,
        envvar="GARIVINI_DB",
        default=[DEFAULT_DATABASE],
        show_default=True,
        callback=_without_secrets,
        metavar="URL",
        help="Database with the jobs. Several make one queue; the first is database 1. "
        "Environment: GARIVINI_DB, with white space between several.",
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


def logs(command: _F) -> _F:
    """Add ``--verbose``; log to standard error."""

    def start(ctx: click.Context, param: click.Parameter, verbose: bool) -> None:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(process)d %(message)s", level=logging.WARNING)
        logging.getLogger("garivini").setLevel(logging.DEBUG if verbose else logging.INFO)

    return click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=start,
        help="Log every event.",
    )(command)
