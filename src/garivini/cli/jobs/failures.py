"""``garivini jobs failures``."""

from contextlib import closing
from dataclasses import asdict
from typing import Final

import click

from garivini.cli.jobs.forms import time_text
from garivini.cli.options import databases
from garivini.cli.options import output as output_option
from garivini.cli.output import Column, Form, print_json, print_table
from garivini.model.fingerprint import FailureGroup, FailureGroups
from garivini.store.shards import Shards

_COLUMNS: Final = (
    Column("failures"),
    Column("jobs", rank=2),
    Column("function"),
    Column("error"),
    Column("message", rank=4),
    Column("first", rank=1),
    Column("last", rank=3),
    Column("example"),
)


@click.command()
@databases
@click.option("--function", "funcname", metavar="NAME", help="Only failures of this function.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Maximum groups to show."
)
@output_option
def failures(dbs: list[str], funcname: str | None, limit: int, output: Form) -> None:
    """Show which errors jobs fail with: how often, since when, and an example.

    Failures are grouped by function, class of the error, and message without numbers, ids and quoted text.
    The failure records of all jobs that exist or are kept are read, in pages.

    \b
    Examples:
      garivini jobs failures
      garivini jobs failures --function report -o json
    """
    groups = FailureGroups()
    with closing(Shards(dbs)) as shards:
        for database in shards:
            after: int | None = 0
            while after is not None:
                page, after = database.failure_page(after)
                for failure in page:
                    if funcname in (None, failure.funcname):
                        groups.add(database.dbid, failure)
    found = groups.most_frequent()[:limit]
    if output == "table":
        print_table(_COLUMNS, [[_row(group) for group in found]], none="no failure")
    else:
        print_json(map(asdict, found), output)


def _row(group: FailureGroup) -> list[str]:
    return [
        str(group.failures),
        str(group.jobs),
        group.funcname,
        group.error or "-",
        group.message or "-",
        time_text(group.first),
        time_text(group.last),
        f"{group.dbid}:{group.jobid}",
    ]
