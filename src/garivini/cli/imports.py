"""``garivini import``: jobs of gearmand's and TheSchwartz's tables."""

from collections.abc import Callable
from contextlib import closing
from typing import Any, Final, TypeVar

import click

from garivini.cli.options import databases, private_url
from garivini.cli.output import Failed, note, number, say
from garivini.errors import GariviniError, UsageError
from garivini.model.limits import FLAGS, Flag
from garivini.store.foreign_queues import ForeignQueue
from garivini.store.foreign_tables import Gearmand, TheSchwartz
from garivini.store.imports import import_jobs
from garivini.store.shards import Shards

_F = TypeVar("_F", bound=Callable[..., Any])
#: Maximum rows that stay in the source and are named one by one.
_NAMED: Final = 100


@click.group("import")
def imports() -> None:
    """Import the jobs of another queue."""


def _url(ctx: click.Context, param: click.Parameter, url: str | None) -> str:
    url = private_url("GARIVINI_IMPORT_DB")(ctx, param, url)
    if url is None and not ctx.resilient_parsing:
        raise UsageError("give the URL of the other queue's database, also as GARIVINI_IMPORT_DB")
    return url or ""


def _options(command: _F) -> _F:
    for option in (
        click.option("--dry-run", is_flag=True, help="Count the jobs, and change nothing."),
        click.option(
            "--flag",
            type=click.Choice(FLAGS),
            default="shim",
            show_default=True,
            help="What reports the outcome of these jobs: the worker itself (shim), or a Controller.",
        ),
        databases,
        click.argument("url", required=False, envvar="GARIVINI_IMPORT_DB", callback=_url),
    ):
        command = option(command)
    return command


@imports.command()
@_options
@click.option(
    "--table",
    metavar="NAME",
    help="The table of the queue. [default: queue on PostgreSQL, otherwise gearman_queue]",
)
def gearmand(url: str, dbs: list[str], flag: Flag, dry_run: bool, table: str | None) -> None:
    """Import the jobs that a gearmand has stored in the database URL.

    Stop that gearmand first: otherwise it runs the same jobs. Each job is stored in our database, and then
    deleted from URL. If the command was interrupted, run it again with the same --db. Rows that cannot be
    imported stay in URL and are named, and the exit status is 1. Put a URL with a password into the variable
    GARIVINI_IMPORT_DB.

    \b
    Examples:
      garivini import gearmand sqlite:////var/lib/gearman/queue.db --dry-run
      GARIVINI_IMPORT_DB=mysql://gearman:secret@127.0.0.1/gearman garivini import gearmand
    """
    _run(Gearmand(url, table, flag=flag), dbs, dry_run)


@imports.command()
@_options
@click.option(
    "--prefix", default="", metavar="TEXT", help="Prefix of the names of the tables. [default: none]"
)
def theschwartz(url: str, dbs: list[str], flag: Flag, dry_run: bool, prefix: str) -> None:
    """Import the jobs of TheSchwartz from the database URL.

    Stop the clients and workers of TheSchwartz first. Each job is stored in our database, with its failures,
    and then deleted from URL. If the command was interrupted, run it again with the same --db. Rows that
    cannot be imported stay in URL and are named, and the exit status is 1. Put a URL with a password into the
    variable GARIVINI_IMPORT_DB.

    \b
    Examples:
      garivini import theschwartz sqlite:///schwartz.db --dry-run
      GARIVINI_IMPORT_DB=mysql://schwartz:secret@127.0.0.1/schwartz garivini import theschwartz
    """
    _run(TheSchwartz(url, prefix, flag=flag), dbs, dry_run)


def _run(queue: ForeignQueue, dbs: list[str], dry_run: bool) -> None:
    imported = left = 0
    with closing(queue), closing(Shards(dbs)) as shards:
        try:
            for page in import_jobs(queue, shards, dry_run=dry_run):
                for row in page:
                    if row.job is not None:
                        imported += 1
                        continue
                    left += 1
                    if left <= _NAMED:
                        note(f"not imported: {row.name}: {row.reason}")
        except (GariviniError, KeyboardInterrupt):
            if imported:
                note(f"{number(imported, 'job')} imported before this: run the command again for the others")
            raise
    say(f"{number(imported, 'job')} {'can be imported' if dry_run else 'imported'}, {left:,} left")
    if left:
        raise Failed(f"{number(left, 'job')} cannot be imported: see above for the reasons")
