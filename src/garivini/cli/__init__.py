"""The command ``garivini``. Commands are imported when they are called, so that ``--help`` is fast."""

import io
import os
import sys
from importlib import import_module
from typing import Any, Final

import click

from garivini import __version__
from garivini.errors import (
    ConflictError,
    GariviniError,
    OutcomeUnknownError,
    SchemaError,
    UnreachableError,
    UsageError,
)

#: Exit statuses of errors. If sysexits.h has a status for a kind of error, it is that one.
EXIT_STATUSES: Final[dict[type[GariviniError], int]] = {
    UsageError: 2,
    UnreachableError: 69,
    OutcomeUnknownError: 74,
    ConflictError: 75,
    SchemaError: 78,
}

# Name: (module below garivini.cli, attribute, one line for the overview).
_COMMANDS: Final = {
    "bench": ("bench", "bench", "Measure this machine, beside a bare loop of the same steps."),
    "demo": ("demo", "demo", "Show durable jobs while processes are killed; needs no set-up."),
    "run": ("run", "run", "Run the QueueRunner, Controller, Injector or embedded server."),
    "worker": ("worker", "worker", "Run the functions of a module as a worker."),
    "dev": ("dev", "dev", "Run everything for development; restarts the worker on change."),
    "insert": ("insert", "insert", "Insert a job."),
    "jobs": ("jobs", "jobs", "List, show, retry, cancel, reschedule and delete jobs, one or many."),
    "functions": ("functions", "functions", "List functions and change their settings."),
    "batches": ("batches", "batches", "List batches, show how far one is, and cancel one."),
    "schedules": ("schedules", "schedules", "List schedules and change when they insert jobs."),
    "status": ("status", "status", "Show databases, Gearman servers and functions."),
    "health": ("status", "health", "Report by the exit status whether jobs can run."),
    "doctor": ("doctor", "doctor", "Examine an installation and recommend changes."),
    "db": ("db", "db", "Create, upgrade and check the tables."),
    "import": ("imports", "imports", "Import the jobs of gearmand's or TheSchwartz's tables."),
}


class _Lazy(click.Group):
    """A group that imports a command when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"garivini.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, _, summary) in _COMMANDS.items()])


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Each command has a --help with examples. Settings: --db or GARIVINI_DB names the database, "
    "--job-server or GARIVINI_JOB_SERVERS the Gearman servers; both can also be set in garivini.toml.",
)
@click.version_option(__version__, prog_name="garivini")
@click.option(
    "--config",
    envvar="GARIVINI_CONFIG",
    metavar="FILE",
    help="Settings file. [default: garivini.toml, if it exists; environment: GARIVINI_CONFIG]",
)
@click.pass_context
def cli(ctx: click.Context, config: str | None) -> None:
    """Durable jobs for Gearman.

    A job is a row in a SQL database. A QueueRunner submits it to a Gearman server, and a worker in any
    language runs it. When it has succeeded, the row is deleted; when it has failed, it runs again later.
    """
    import logging  # imported here, because --help does not need it

    from garivini.cli.options import load_settings

    # Commands with log options set a level that shows more events. Other commands show errors only.
    logging.getLogger("garivini").setLevel(logging.ERROR)
    load_settings(ctx, config)


def main(arguments: list[str] | None = None) -> None:
    """Run the command. An error becomes one line and an exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # escapes characters that the locale lacks
    given = sys.argv[1:] if arguments is None else arguments
    try:
        # Commands return nothing, so the status is 0 unless a command exits with another.
        status: Any = cli.main(arguments, prog_name="garivini", standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.Abort:
        sys.exit(_report("aborted", 130))
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(error.ctx.get_usage(), err=True)
        sys.exit(_report(_hide(error.format_message(), given), error.exit_code))
    except GariviniError as error:
        statuses = (status for kind, status in EXIT_STATUSES.items() if isinstance(error, kind))
        sys.exit(_report(_hide(str(error), given), next(statuses, 1)))


def _report(message: str, status: int) -> int:
    from garivini.cli.output import note  # imported here, because --help does not need it

    note(message)
    return status


def _hide(message: str, arguments: list[str]) -> str:
    """Return a message in which ``***`` replaces each argument and variable that may have a password."""
    from garivini.databases.urls import has_password  # imported here, because --help does not need it

    variables = [value for name, value in os.environ.items() if name.startswith("GARIVINI_")]
    for argument in (*arguments, *variables):
        for text in (argument, argument.partition("=")[2]):
            if text and has_password(text):
                message = message.replace(text, "***").replace(repr(text)[1:-1], "***")
    return message
