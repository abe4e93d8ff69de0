"""``garivini status`` and ``garivini health``."""

import ssl
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from garivini.cli.options import databases, job_servers, output, plain, print_json, tls
from garivini.cli.tls import PATIENCE, explain
from garivini.errors import GariviniError
from garivini.gearman.blocking import Client
from garivini.gearman.servers import parse_addresses
from garivini.job import NEVER, WAKE, State
from garivini.store.database import Database
from garivini.store.shards import Shards


@dataclass(slots=True)
class _Seen:
    """One database or Gearman server: what it says, or what is wrong with it."""

    name: str
    error: str = ""
    jobs: dict[str, int] = field(default_factory=dict)
    #: Seconds since the oldest due job that nobody has taken became due; 0 where there is none.
    oldest: int = 0
    functions: dict[str, dict[str, int]] = field(default_factory=dict)


@click.command()
@databases
@job_servers
@tls
@output
def status(dbs: list[str], job_servers: tuple[str, ...], tls: ssl.SSLContext | None, output: str) -> None:
    """Show databases, Gearman servers and functions at a glance.

    Exit status: 0, or 1 where one of them cannot be reached.

    \b
    Examples:
      garivini status
      garivini status -o json
    """
    stores, servers = _look(dbs, job_servers, tls)
    if output != "table":
        entries: list[dict[str, Any]] = [
            {"database": one.name, "error": one.error, "jobs": one.jobs, "oldest_due_seconds": one.oldest}
            for one in stores
        ]
        entries += [{"server": one.name, "error": one.error, "functions": one.functions} for one in servers]
        print_json(entries, output)
    else:
        _print(stores, servers)
    sys.exit(1 if any(one.error for one in (*stores, *servers)) else 0)


@click.command()
@databases
@job_servers
@tls
@click.option(
    "--max-age",
    type=click.IntRange(1),
    default=300,
    show_default=True,
    help="Seconds for which a due job may wait before that is a fault.",
)
def health(dbs: list[str], job_servers: tuple[str, ...], tls: ssl.SSLContext | None, max_age: int) -> None:
    """Say by the exit status whether all is well, for monitors and orchestrators.

    \b
    Exit status:
      0  databases and Gearman servers answer, and due jobs are taken
      1  they answer, but a job has been due for longer than --max-age, or none can do its function
      2  one of them does not answer

    \b
    Example:
      garivini health --max-age 60
    """
    stores, servers = _look(dbs, job_servers, tls)
    for one in (*stores, *servers):
        if one.error:
            click.echo(one.error, err=True)
        if one.oldest > max_age:
            click.echo(f"{one.name}: a job has been due for {one.oldest} s and nobody has taken it", err=True)
    deserted = _deserted(servers)
    for name in deserted:
        click.echo(f"jobs wait for {plain(name)} and no worker can do it", err=True)
    if any(one.error for one in (*stores, *servers)):
        sys.exit(2)
    sys.exit(1 if deserted or any(one.oldest > max_age for one in stores) else 0)


def _deserted(servers: list[_Seen]) -> list[str]:
    """Return the functions for which jobs wait on some server while no server has a worker."""
    queued, workers = Counter[str](), Counter[str]()
    for server in servers:
        for name, counts in server.functions.items():
            queued[name] += counts["queued"]
            workers[name] += counts["workers"]
    return [name for name in sorted(queued) if queued[name] and not workers[name] and name != WAKE]


def _look(
    dbs: list[str], job_servers: tuple[str, ...], tls: ssl.SSLContext | None
) -> tuple[list[_Seen], list[_Seen]]:
    return [_store(database) for database in Shards(dbs)], [
        _server(one, tls) for one in parse_addresses(job_servers)
    ]


def _store(database: Database) -> _Seen:
    seen = _Seen(database.where)
    try:
        now = database.clock()
        for count in database.counts():
            name = count.state.name.lower()
            seen.jobs[name] = seen.jobs.get(name, 0) + count.jobs
            if count.state is State.WAITING and count.first != NEVER:
                seen.oldest = max(seen.oldest, int(now) - count.first)
    except GariviniError as error:
        seen.error = str(error)
    return seen


def _server(address: str, tls: ssl.SSLContext | None) -> _Seen:
    seen = _Seen(address)
    try:
        with Client(address, timeout=PATIENCE, tls=tls) as client:
            for name, counts in sorted(client.functions().items()):
                seen.functions[name.decode(errors="replace")] = {
                    "queued": counts.queued,
                    "running": counts.running,
                    "workers": counts.workers,
                }
    except GariviniError as error:
        seen.error = explain(error, tls)
    return seen


def _print(stores: list[_Seen], servers: list[_Seen]) -> None:
    console = Console(highlight=False)
    states = [state.name.lower() for state in State]
    table = Table("database", *states, "oldest due")
    for one in stores:
        if one.error:
            table.add_row(f"[red]{plain(one.error)}[/]")
        else:
            oldest = f"{one.oldest} s ago" if one.oldest else "-"
            table.add_row(plain(one.name), *(str(one.jobs.get(state, 0)) for state in states), oldest)
    console.print(table)
    table = Table("Gearman server", "function", "queued", "running", "workers")
    for one in servers:
        if one.error:
            table.add_row(f"[red]{plain(one.error)}[/]")
        for name, counts in one.functions.items():
            table.add_row(
                one.name, plain(name), *(str(counts[key]) for key in ("queued", "running", "workers"))
            )
        if not one.error and not one.functions:
            table.add_row(one.name, "-")
    console.print(table)
