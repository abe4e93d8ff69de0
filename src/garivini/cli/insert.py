"""``garivini insert``."""

import ssl
import sys

import click

from garivini.cli.options import databases, job_servers, tls
from garivini.cli.output import note, say
from garivini.client import Client
from garivini.model.limits import FLAGS, PRIORITIES, Flag, Priority


@click.command()
@click.argument("funcname")
@click.argument("arg", default="")
@databases
@job_servers
@tls
@click.option("--run-after", type=float, metavar="SECONDS", help="Seconds from now. [default: now]")
@click.option("--unique", metavar="KEY", help="At most one job of the function has this key.")
@click.option(
    "--priority",
    type=click.Choice(PRIORITIES),
    default="normal",
    show_default=True,
    help="Order among due jobs.",
)
@click.option("--partition", metavar="NAME", help="The customer, account or host for which the job runs.")
@click.option(
    "--flag",
    type=click.Choice(FLAGS),
    default="shim",
    show_default=True,
    help="What reports the outcome: the worker itself (shim), or a Controller.",
)
def insert(
    funcname: str,
    arg: str,
    dbs: list[str],
    job_servers: tuple[str, ...],
    tls: ssl.SSLContext | None,
    run_after: float | None,
    unique: str | None,
    priority: Priority,
    partition: str | None,
    flag: Flag,
) -> None:
    """Insert a job for the function FUNCNAME with the argument ARG, and print its id.

    When the id is printed, the job is committed. With - as ARG, the argument is read from standard input.

    \b
    Examples:
      garivini insert hello world
      garivini insert report '{"month": 11}' --unique report-11 --run-after 3600
      garivini insert thumbnail - < picture.jpg
    """
    with Client(dbs, job_servers, tls=tls) as client:
        inserted = client.insert_job(
            funcname,
            sys.stdin.buffer.read() if arg == "-" else arg,
            run_after=run_after,
            unique=unique,
            priority=priority,
            partition=partition,
            flag=flag,
        )
    job = f"{inserted.id}"
    if inserted.dead:
        say(f"{job} (has this key already, and is dead)")
        note(
            f"nothing was inserted, and nothing will run: garivini jobs retry {job} runs the dead job again, "
            f"garivini jobs delete {job} frees its key"
        )
    else:
        say(job + ("" if inserted.new else " (has this key already)"))
