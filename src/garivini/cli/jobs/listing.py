"""``garivini jobs list``."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

import click

from garivini.cli.jobs.forms import argument_text, as_json, time_text
from garivini.cli.jobs.kept import FINISHED, list_kept
from garivini.cli.options import databases
from garivini.cli.options import output as output_option
from garivini.cli.output import Column, Form, print_json, print_table
from garivini.errors import UsageError
from garivini.model.job import Job, parse_state
from garivini.model.state import State
from garivini.store.shards import Shards

#: Jobs per page: few at first, so that they appear immediately.
_FIRST_PAGE: Final = 64
_PAGE: Final = 1000
#: Intended maximum bytes of arguments per page, so that a long list needs no more memory than a short one.
_PAGE_BYTES: Final = 8 * 1024 * 1024
#: Characters of an argument in a row on a terminal.
_EXCERPT: Final = 40
_COLUMNS: Final = (
    Column("job"),
    Column("function"),
    Column("state"),
    Column("due / lease ends", rank=4),
    Column("failures", rank=3),
    Column("attempt", rank=2),
    Column("argument", rank=1),
)


@click.command("list")
@databases
@click.option("--function", "funcname", metavar="NAME", help="Only jobs of this function.")
@click.option(
    "--state",
    type=click.Choice([*(state.name.lower() for state in State), FINISHED]),
    help="Only jobs in this state. finished: those that have succeeded and are kept.",
)
@click.option("--failed", is_flag=True, help="Only jobs that have failed or are dead.")
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Maximum jobs to list."
)
@output_option
def list_(
    dbs: list[str], funcname: str | None, state: str | None, failed: bool, limit: int, output: Form
) -> None:
    """List jobs in the order of their ids.

    \b
    Examples:
      garivini jobs list
      garivini jobs list --state dead --function report
      garivini jobs list --state finished
      garivini jobs list --failed -o jsonl
    """
    if failed and state:
        raise UsageError("--failed and --state exclude each other")
    if state == FINISHED:
        list_kept(dbs, funcname, limit, output)
        return
    chosen = None if state is None else parse_state(state)
    with closing(Shards(dbs)) as shards:
        pages = _pages(shards, limit, funcname=funcname, state=chosen, failed=failed)
        if output == "table":
            rows = ([_row(job) for job in page] for page in pages)
            print_table(_COLUMNS, rows, none="no job")
        else:
            print_json((as_json(job) for page in pages for job in page), output)


def _pages(shards: Shards, limit: int, **chosen: Any) -> Iterator[list[Job]]:
    """Yield jobs of each database in the order of ids, ``limit`` in total, as they are read."""
    for database in shards:
        after, size = 0, _FIRST_PAGE
        while limit:
            page = database.jobs(after=after, limit=min(size, limit), **chosen)
            if not page:
                break
            yield page
            after, limit = page[-1].jobid, limit - len(page)
            mean = sum(len(job.arg) for job in page) // len(page)
            size = min(_PAGE, _PAGE_BYTES // (mean + 1) + 1)


def _row(job: Job) -> list[str]:
    return [
        job.id,
        job.funcname,
        job.state.name.lower(),
        time_text(job.run_after),
        str(job.failcount),
        str(job.attempt),
        argument_text(job.arg, _EXCERPT),
    ]
