"""``garivini status`` and ``garivini health``."""

import ssl
import sys
from typing import Any

import click

from garivini.cli.options import databases, job_servers, output, tls
from garivini.cli.output import Column, Form, number, print_json, print_table, say, visible
from garivini.cli.pauses import pauses_text
from garivini.cli.survey import MAX_AGE, ROLES, Server, Store, problems, survey
from garivini.model.state import State


@click.command()
@databases
@job_servers
@tls
@click.option("--all", "internal", is_flag=True, help="Show Garivini's own functions too.")
@output
def status(
    dbs: list[str], job_servers: tuple[str, ...], tls: ssl.SSLContext | None, internal: bool, output: Form
) -> None:
    """Show databases, Gearman servers and functions.

    Waiting jobs are counted as due, delayed (not due yet) or backed off (not due yet, after a failure).
    The column "oldest due" leaves out jobs of paused functions.

    \b
    Exit status:
      0  all databases and Gearman servers answer
      1  one of them cannot be reached or used

    \b
    Examples:
      garivini status
      garivini status -o json
    """
    stores, servers = survey(dbs, job_servers, tls, counted=True)
    if not internal:
        for server in servers:
            server.functions = {
                name: counts for name, counts in server.functions.items() if name not in ROLES
            }
    if output == "table":
        _print_stores(stores)
        say()
        _print_servers(servers)
    else:
        print_json(_as_json(stores, servers), output)
    sys.exit(1 if any(store.error for store in stores) or any(server.error for server in servers) else 0)


@click.command()
@databases
@job_servers
@tls
@click.option(
    "--max-age",
    type=click.IntRange(1),
    default=MAX_AGE,
    show_default=True,
    help="Maximum seconds for which a due job may wait.",
)
def health(dbs: list[str], job_servers: tuple[str, ...], tls: ssl.SSLContext | None, max_age: int) -> None:
    """Report by the exit status whether jobs can run, for monitors and orchestrators.

    Due jobs of a function without a worker are a fault immediately. Without a QueueRunner, due jobs are a
    fault after a minute. A due tick of a schedule is always a fault after a minute.

    \b
    Exit status:
      0  databases and Gearman servers answer, and due jobs start
      1  they answer, but a job has been due for longer than --max-age, its function has no worker, or a
         schedule is late
      2  one of them does not answer or cannot be used

    \b
    Example:
      garivini health --max-age 60
    """
    stores, servers = survey(dbs, job_servers, tls)
    found = list(problems(stores, servers, max_age=max_age))
    for problem in found:
        # The text of an error names its database or server.
        says = problem.says if problem.unusable else f"{problem.subject}: {problem.says}"
        click.echo(visible(says), err=True)
    if any(problem.unusable for problem in found):
        sys.exit(2)
    sys.exit(1 if found else 0)


def _as_json(stores: list[Store], servers: list[Server]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = [
        {
            "database": one.name,
            "error": one.error,
            "jobs": one.jobs,
            "waiting": one.waiting._asdict(),
            "oldest_due_seconds": one.oldest,
            "paused": one.paused,
            "late_schedules": one.late,
        }
        for one in stores
    ]
    entries += [{"server": one.name, "error": one.error, "functions": one.functions} for one in servers]
    return entries


def _print_stores(stores: list[Store]) -> None:
    states = [state.name.lower() for state in State if state is not State.WAITING]
    unknown = sorted({name for one in stores for name in one.jobs if not name.isalpha()}, key=int)
    columns = [Column("database"), *map(Column, ("due", "delayed", "backed off"))]
    columns += [Column(state, rank=1 if state == "suspect" else 2) for state in states]
    columns += [Column(f"state {name}") for name in unknown]
    columns.append(Column("oldest due", rank=3))
    rows = [
        [
            one.name,
            *map(str, one.waiting),
            *(str(one.jobs[state]) for state in (*states, *unknown)),
            f"{one.oldest} s ago" if one.oldest else "-",
        ]
        for one in stores
        if not one.error
    ]
    if rows:
        print_table(columns, [rows], none="")
    for one in stores:
        if one.paused:
            say(f"paused in {one.name}: {pauses_text(one.paused)}", style="yellow")
        if one.late:
            names = ", ".join(f"{name} for {number(age, 'second')}" for name, age in one.late.items())
            say(f"schedules whose tick is due in {one.name}: {names}", style="yellow")
        if one.error:
            say(one.error, style="red")


def _print_servers(servers: list[Server]) -> None:
    columns = (
        Column("Gearman server", rank=1),
        Column("function"),
        *map(Column, ("queued", "running", "workers")),
    )
    rows = []
    for one in servers:
        rows += [[one.name, name, *map(str, counts.values())] for name, counts in one.functions.items()]
        if not one.error and not one.functions:
            rows.append([one.name, "-", "-", "-", "-"])
    if rows:
        print_table(columns, [rows], none="")
    for one in servers:
        if one.error:
            say(one.error, style="red")
