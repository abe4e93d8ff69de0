"""``garivini jobs list``."""

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Final

import click

from garivini.cli.jobs.filters import Filters, filters
from garivini.cli.jobs.forms import argument_text, as_json, time_text
from garivini.cli.jobs.kept import FINISHED, list_kept
from garivini.cli.jobs.progress import Progress
from garivini.cli.options import databases
from garivini.cli.options import output as output_option
from garivini.cli.output import Column, Form, print_json, print_table
from garivini.errors import UsageError
from garivini.model.job import Job
from garivini.model.job_query import JobQuery
from garivini.store.matching import search
from garivini.store.shards import Shards

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
@partial(filters, further_states=(FINISHED,))
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Maximum jobs to list."
)
@output_option
def list_(dbs: list[str], filters: Filters, limit: int, output: Form) -> None:
    """List jobs in the order of their ids.

    \b
    Examples:
      garivini jobs list
      garivini jobs list --state dead --function report
      garivini jobs list --state finished
      garivini jobs list --failed -o jsonl
      garivini jobs list --error TimeoutError --arg-text '"customer": 5,'
    """
    if filters.given.get("state") == FINISHED:
        if filters.given.keys() - {"state", "funcname"}:
            raise UsageError("--state finished allows only --function and --limit")
        list_kept(dbs, filters.given.get("funcname"), limit, output)
        return
    with closing(Shards(dbs)) as shards, Progress() as progress:
        pages = _pages(shards, filters.query(shards), limit, progress)
        if output == "table":
            rows = ([_row(job) for job in page] for page in pages)
            print_table(_COLUMNS, rows, none="no job")
        else:
            print_json((as_json(job) for page in pages for job in page), output)


def _pages(shards: Shards, query: JobQuery, limit: int, progress: Progress) -> Iterator[list[Job]]:
    """Yield the jobs that match as they are found. Show the progress while no job is found."""
    for jobs, done in search(shards, query, limit=limit):
        progress(done)
        if jobs:
            progress.clear()
            yield jobs
    progress.clear()


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
