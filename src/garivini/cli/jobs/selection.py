"""The jobs that a command changes: those that are named by ids, or all that match filters."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click

from garivini.cli.jobs.filters import Filters, filters
from garivini.cli.jobs.forms import parse_job
from garivini.cli.jobs.progress import Progress
from garivini.cli.output import Failed, number, say
from garivini.client import Client
from garivini.errors import UsageError
from garivini.model.job import Handle
from garivini.model.job_query import BulkProgress


@dataclass(frozen=True, slots=True)
class Selection:
    """The jobs of a command, from its arguments and options."""

    jobs: tuple[str, ...]
    filters: Filters
    dry_run: bool
    yes: bool

    def handles(self, dbs: list[str]) -> list[Handle]:
        """Return the jobs that are named by ids.

        Raises:
            UsageError: a name is not an id, or there are both ids and filters, or neither.

        """
        if bool(self.jobs) == bool(self.filters):
            raise UsageError("name jobs by their ids, or give filters such as --function: one of the two")
        if self.jobs and self.dry_run:
            raise UsageError("--dry-run counts the jobs that filters find: leave it out, or give filters")
        return [parse_job(job, dbs) for job in self.jobs]

    def change(
        self,
        client: Client,
        dbs: list[str],
        *,
        one: Callable[[Handle], bool],
        every: Callable[..., BulkProgress],
        done: str,
        otherwise: str,
        one_done: str = "",
    ) -> None:
        """Change the jobs and print the result.

        Args:
            client: the client whose databases have the jobs.
            dbs: the URLs of these databases.
            one: changes a job that is named; returns whether it had an effect.
            every: changes all jobs that match a query.
            done: the word for the change of a job, such as "cancelled".
            otherwise: the reason that is printed if ``one`` had no effect.
            one_done: the word for the change of a job that is named; by default ``done``.

        Raises:
            Failed: ``one`` had no effect on some of the jobs, or the question was answered with no.
            UsageError: the options contradict each other.

        """
        handles = self.handles(dbs)
        if self.filters:
            self.change_all(client, every, done)
            return
        unchanged = []
        for job, handle in zip(self.jobs, handles, strict=True):
            if one(handle):
                say(f"{handle.id} {one_done or done}")
            else:
                unchanged.append(job)
        if unchanged:
            raise Failed(f"not changed ({otherwise}): {', '.join(unchanged)}")

    def change_all(self, client: Client, every: Callable[..., BulkProgress], done: str) -> None:
        """Change all jobs that match the filters, after a question, and print the numbers.

        Raises:
            Failed: the question was answered with no.
            UsageError: no terminal is there for the question, or a filter cannot be used.

        """
        if not (self.dry_run or self.yes or sys.stdin.isatty()):
            raise UsageError("all jobs that match would be changed: give --yes, or --dry-run to count them")
        query = self.filters.query(client.shards)
        if not self.yes:
            with Progress() as progress:
                total = every(query, dry_run=True, progress=progress)
            if self.dry_run:
                say(f"dry run, nothing was changed. {_text(total, f'would be {done}')}")
                return
            question = f"{number(total.changed, 'job')} will be {done}. Continue?"
            if total.changed > 1 and not click.confirm(question):
                raise Failed("nothing was changed")
        with Progress() as progress:
            total = every(query, progress=progress)
        say(_text(total, done))


def _text(total: BulkProgress, done: str) -> str:
    skipped = f"; {total.skipped:,} skipped (held, locked or in another state)" if total.skipped else ""
    return f"{number(total.changed, 'job')} {done}{skipped}; {total.examined:,} examined"


def selection(command: Callable[..., None]) -> Callable[..., None]:
    """Add the arguments and options that select jobs. The command gets a ``Selection`` as ``which``."""

    @filters
    @wraps(command)
    def with_selection(
        *arguments: Any, jobs: tuple[str, ...], filters: Filters, dry_run: bool, yes: bool, **named: Any
    ) -> None:
        command(*arguments, which=Selection(jobs, filters, dry_run, yes), **named)

    with_selection = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")(with_selection)
    with_selection = click.option(
        "--dry-run", is_flag=True, help="Count the jobs that the filters find, and change none."
    )(with_selection)
    return click.argument("jobs", nargs=-1, metavar="[JOB...]")(with_selection)
