"""``garivini insert`` and ``garivini jobs``."""

import sys
from datetime import datetime
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.table import Table

from garivini.cli.options import databases, job_servers
from garivini.client import Client
from garivini.errors import UsageError
from garivini.job import FLAGS, NEVER, PRIORITIES, Handle, Job, State

_OUTPUT: Final = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "jsonl"]),
    default="table",
    show_default=True,
    help="For people, or one JSON document, or one JSON object a line.",
)


@click.command()
@click.argument("funcname")
@click.argument("arg", default="")
@databases
@job_servers
@click.option("--run-after", type=float, metavar="SECONDS", help="Seconds from now. [default: now]")
@click.option("--unique", metavar="KEY", help="At most one live job of the function has this key.")
@click.option("--priority", type=click.Choice(PRIORITIES), default="normal", show_default=True)
@click.option(
    "--flag",
    type=click.Choice(FLAGS),
    default="shim",
    show_default=True,
    help="Who completes it: the worker through a client (shim), or a Controller.",
)
def insert(
    funcname: str,
    arg: str,
    dbs: list[str],
    job_servers: tuple[str, ...],
    run_after: float | None,
    unique: str | None,
    priority: str,
    flag: str,
) -> None:
    """Insert a job for the function FUNCNAME with the argument ARG, and print its id.

    It is committed when the id appears. ARG - reads the argument from standard input.

    \b
    Examples:
      garivini insert hello world
      garivini insert report '{"month": 11}' --unique report-11 --run-after 3600
      garivini insert thumbnail - < picture.jpg
    """
    with Client(dbs, job_servers) as client:
        inserted = client.insert_job(
            funcname,
            sys.stdin.buffer.read() if arg == "-" else arg,
            run_after=run_after,
            unique=unique,
            priority=priority,
            flag=flag,
        )
    click.echo(f"{inserted.dbid}:{inserted.jobid}" + ("" if inserted.new else " (is live already)"))


@click.group()
def jobs() -> None:
    """List, show and retry jobs.

    A job is named by its database and id, as in 1:42; 42 alone is in database 1.
    """


@jobs.command("list")
@databases
@click.option("--function", "funcname", metavar="NAME", help="Of this function only.")
@click.option("--state", type=click.Choice([state.name.lower() for state in State]))
@click.option("--failed", is_flag=True, help="Only those that have failed or are dead.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@_OUTPUT
def list_(
    dbs: list[str], funcname: str | None, state: str | None, failed: bool, limit: int, output: str
) -> None:
    """List jobs by id.

    \b
    Examples:
      garivini jobs list
      garivini jobs list --state dead --function report
      garivini jobs list --failed -o jsonl
    """
    if failed and state:
        raise UsageError("--failed and --state exclude each other")
    with Client(dbs) as client:
        if failed:
            found = client.failed_jobs(funcname, limit=limit)
        else:
            found = client.list_jobs(funcname, state, limit=limit)
        if output != "table":
            _print_json([_as_json(job) for job in found[:limit]], output)
            return
        table = Table("job", "function", "state", "due / lease ends", "failures", "attempt", "argument")
        for job in found[:limit]:
            table.add_row(
                f"{job.dbid}:{job.jobid}",
                _plain(job.funcname),
                job.state.name.lower(),
                _time(job.run_after),
                str(job.failcount),
                str(job.attempt),
                _excerpt(job.arg, 40),
            )
        Console().print(table if found else "no job")


@jobs.command()
@click.argument("job")
@databases
@_OUTPUT
def show(job: str, dbs: list[str], output: str) -> None:
    """Show one job and the record of its attempts that did not complete.

    \b
    Examples:
      garivini jobs show 42
      garivini jobs show 2:42 -o json
    """
    handle = parse_job(job)
    with Client(dbs) as client:
        found = client.get_job(handle)
        failures = client.failures(handle)
    if found is None:
        raise click.ClickException(f"there is no job {job}: it has completed, or never was")
    if output != "table":
        record = [failure._asdict() for failure in failures]
        _print_json([{**_as_json(found), "failures": record}], output)
        return
    console = Console(highlight=False)
    table = Table.grid(padding=(0, 2))
    for name, value in _details(found).items():
        table.add_row(name, _plain(value))
    console.print(table)
    for failure in failures:
        what = ": ".join(filter(None, (failure.error, failure.message)))
        when, where = _time(failure.failed_at), failure.worker or "?"
        console.print(
            f"\nattempt {failure.attempt} {failure.kind} at {when} by {where}", style="bold", markup=False
        )
        console.print(_plain(what), markup=False)
        if failure.trace:
            console.print(_plain(failure.trace.rstrip()), markup=False, style="dim")


@jobs.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@databases
@job_servers
def retry(jobs: tuple[str, ...], dbs: list[str], job_servers: tuple[str, ...]) -> None:
    """Run waiting or dead jobs now, their failures forgiven.

    \b
    Example:
      garivini jobs retry 42 2:43
    """
    handles = [parse_job(job) for job in jobs]
    with Client(dbs, job_servers) as client:
        left = [job for job, handle in zip(jobs, handles, strict=True) if not client.retry_job(handle)]
    if left:
        raise click.ClickException(f"not waiting or dead, so left alone: {', '.join(left)}")


def parse_job(text: str) -> Handle:
    """Return the handle in ``DBID:JOBID`` or ``JOBID``.

    Raises:
        UsageError: it is neither.

    """
    dbid, _, jobid = text.rpartition(":")
    try:
        return Handle(int(jobid), int(dbid or 1))
    except ValueError:
        raise UsageError(f"{text!r} is no job: write 42, or 2:42 in database 2") from None


def _details(job: Job) -> dict[str, str]:
    return {
        "job": f"{job.dbid}:{job.jobid}",
        "function": job.funcname,
        "state": job.state.name.lower(),
        "due" if job.state is State.WAITING else "lease ends": _time(job.run_after),
        "failures": str(job.failcount),
        "attempt": str(job.attempt),
        "crashes": str(job.crashes),
        "priority": job.priority,
        "flag": job.flag,
        "unique key": job.uniqkey or "-",
        "coalesce key": job.coalesce or "-",
        "inserted": _time(job.created) if job.created else "-",
        "argument": f"{len(job.arg)} bytes: {_excerpt(job.arg, 2000)}",
    }


def _as_json(job: Job) -> dict[str, Any]:
    # The argument in the same form as on the wire: as text where it is text.
    try:
        arg, encoding = job.arg.decode(), "utf-8"
    except UnicodeDecodeError:
        arg, encoding = msgspec.json.decode(msgspec.json.encode(job.arg)), "base64"
    return {
        "jobid": job.jobid,
        "dbid": job.dbid,
        "funcname": job.funcname,
        "state": job.state.name.lower(),
        "run_after": job.run_after,
        "failcount": job.failcount,
        "attempt": job.attempt,
        "crashes": job.crashes,
        "priority": job.priority,
        "flag": job.flag,
        "uniqkey": job.uniqkey,
        "coalesce": job.coalesce,
        "created": job.created,
        "arg": arg,
        "arg_encoding": encoding,
    }


def _print_json(objects: list[dict[str, Any]], output: str) -> None:
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(objects), indent=2))
    else:
        for entry in objects:
            click.echo(msgspec.json.encode(entry))


def _time(time: int) -> str:
    if time == NEVER:
        return "never"
    return datetime.fromtimestamp(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _excerpt(arg: bytes, size: int) -> str:
    text = arg[: size + 4].decode("utf-8", "replace")
    return _plain(text if len(text) <= size else f"{text[:size]}…")


def _plain(text: str) -> str:
    """Return text that cannot move a terminal's cursor: control characters are shown as escapes."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)
