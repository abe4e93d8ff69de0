"""``garivini insert`` and ``garivini jobs``."""

import re
import ssl
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any, Final

import click
import msgspec

from garivini.cli.options import databases, job_servers, tls
from garivini.cli.options import output as output_option
from garivini.cli.output import (
    Column,
    Failed,
    note,
    number,
    on_terminal,
    print_details,
    print_json,
    print_table,
    say,
    visible,
    visible_bytes,
)
from garivini.client import Client
from garivini.databases import parse_databases
from garivini.errors import UsageError
from garivini.model.handles import parse_id
from garivini.model.job import Handle, Job, parse_state
from garivini.model.limits import FLAGS, NEVER, PRIORITIES, Flag, Priority
from garivini.model.records import FailedAttempt, KeptJob, Reported
from garivini.model.state import State
from garivini.store.failures import FIRST
from garivini.store.shards import Shards

#: Jobs per page: few at first, so that they appear immediately.
_FIRST_PAGE: Final = 64
_PAGE: Final = 1000
#: Intended maximum bytes of arguments per page, so that a long list needs no more memory than a short one.
_PAGE_BYTES: Final = 8 * 1024 * 1024
#: Characters of an argument in a row, and among the details of a job, on a terminal.
_EXCERPT: Final = 40
_LONG_EXCERPT: Final = 2000
_COLUMNS: Final = (
    Column("job"),
    Column("function"),
    Column("state"),
    Column("due / lease ends", rank=4),
    Column("failures", rank=3),
    Column("attempt", rank=2),
    Column("argument", rank=1),
)


@click.command()
@click.argument("funcname")
@click.argument("arg", default="")
@databases
@job_servers
@tls
@click.option("--run-after", type=float, metavar="SECONDS", help="Seconds from now. [default: now]")
@click.option("--unique", metavar="KEY", help="At most one live job of the function has this key.")
@click.option(
    "--priority", type=click.Choice(PRIORITIES), default="normal", show_default=True, help="Among due jobs."
)
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
    tls: ssl.SSLContext | None,
    run_after: float | None,
    unique: str | None,
    priority: Priority,
    flag: Flag,
) -> None:
    """Insert a job for the function FUNCNAME with the argument ARG, and print its id.

    It is committed when the id appears. ARG - reads the argument from standard input.

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


@click.group()
def jobs() -> None:
    """List, show, retry, cancel, reschedule and delete jobs.

    A job is named by its database and id, as in 1:42; 42 alone is in database 1.
    """


@jobs.command("list")
@databases
@click.option("--function", "funcname", metavar="NAME", help="Of this function only.")
@click.option(
    "--state", type=click.Choice([state.name.lower() for state in State]), help="In this state only."
)
@click.option("--failed", is_flag=True, help="Only those that have failed or are dead.")
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Jobs to list, at most."
)
@output_option
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
    chosen = None if state is None else parse_state(state)
    with closing(Shards(dbs)) as shards:
        pages = _pages(shards, limit, funcname=funcname, state=chosen, failed=failed)
        if output == "table":
            rows = ([_row(job) for job in page] for page in pages)
            print_table(_COLUMNS, rows, none="no job")
        else:
            print_json((_as_json(job) for page in pages for job in page), output)


def _pages(shards: Shards, limit: int, **chosen: Any) -> Iterator[list[Job]]:
    """Yield jobs of each database by id, ``limit`` in all, as they are read."""
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
        _time(job.run_after),
        str(job.failcount),
        str(job.attempt),
        _argument(job.arg, _EXCERPT),
    ]


@jobs.command()
@click.argument("job")
@databases
@output_option
def show(job: str, dbs: list[str], output: str) -> None:
    """Show one job, the record of its attempts that did not complete, and what it said while it ran.

    A finished job is shown with its result while it is kept: see garivini functions set --retention.

    \b
    Examples:
      garivini jobs show 42
      garivini jobs show 2:42 -o json
    """
    handle = parse_job(job, dbs)
    with Client(dbs) as client:
        found = client.get_job(handle)
        finished = None if found else client.result(handle)
        failures = client.failures(handle)
        omitted = client.shards[handle.dbid].omitted_failures(handle.jobid)
        reports = client.reports(handle)
    if found is not None:
        details, entry = _details(found), _as_json(found)
    elif finished is not None:
        details, entry = _finished_details(finished, handle.dbid), _finished_as_json(finished, handle.dbid)
    else:
        raise Failed(f"there is no job {job}: it has completed, or never was")
    if output != "table":
        record = [failure._asdict() for failure in failures]
        said = [{**reported._asdict(), **_blob("body", reported.body)} for reported in reports]
        print_json([{**entry, "failures": record, "failures_omitted": omitted, "reports": said}], output)
        return
    for reported in reports:
        if reported.kind == "status" and reported.attempt == entry["attempt"]:
            details["progress"] = visible_bytes(reported.body)
    print_details(details)
    _print_record(failures, omitted, [reported for reported in reports if reported.kind != "status"])


def _print_record(failures: Sequence[FailedAttempt], omitted: int, lines: Sequence[Reported]) -> None:
    """Print the attempts that did not complete, how many of them were not kept, and the job's reports."""
    for place, failure in enumerate(failures):
        if omitted and place == FIRST:
            say(f"\n{omitted} records of later attempts were not kept", style="bold")
        when, where = _time(failure.failed_at), failure.worker or "?"
        say(f"\nattempt {failure.attempt} {failure.kind} at {when} by {visible(where)}", style="bold")
        say(visible(": ".join(filter(None, (failure.error, failure.message)))))
        if failure.trace:
            say(failure.trace.rstrip(), style="dim")
    if lines:
        say("\nwhat it said", style="bold")
    for line in lines:
        say(f"attempt {line.attempt} {line.kind} at {_time(line.reported_at)}: {_shown(line.body)}")


@jobs.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@databases
@job_servers
@tls
def retry(
    jobs: tuple[str, ...], dbs: list[str], job_servers: tuple[str, ...], tls: ssl.SSLContext | None
) -> None:
    """Run waiting or dead jobs now, their failures forgiven.

    \b
    Example:
      garivini jobs retry 42 2:43
    """
    with Client(dbs, job_servers, tls=tls) as client:
        _each(dbs, jobs, client.retry_job, "will run now", "not waiting or dead")


@jobs.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@databases
@click.option("--reason", default="", help="Kept in the job's record.")
def cancel(jobs: tuple[str, ...], dbs: list[str], reason: str) -> None:
    """Park jobs dead, whatever their state; garivini jobs retry brings them back.

    A worker that runs one is told when it next renews its lease. One that completes all the same is done.

    \b
    Example:
      garivini jobs cancel 42 --reason "customer left"
    """
    with Client(dbs) as client:
        _each(
            dbs,
            jobs,
            lambda handle: client.cancel_job(handle, reason),
            "cancelled",
            "there is none, or it is dead already",
        )


@jobs.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@click.option("--at", "when", required=True, metavar="WHEN", help="never, +SECONDS from now, or a unix time.")
@databases
@job_servers
@tls
def reschedule(
    jobs: tuple[str, ...],
    when: str,
    dbs: list[str],
    job_servers: tuple[str, ...],
    tls: ssl.SSLContext | None,
) -> None:
    """Let jobs run at another time.

    \b
    Examples:
      garivini jobs reschedule 42 --at +3600
      garivini jobs reschedule 42 2:43 --at never
    """
    with Client(dbs, job_servers, tls=tls) as client:
        try:
            _each(
                dbs, jobs, lambda handle: client.reschedule_job(handle, when), "rescheduled", "there is none"
            )
        finally:
            client.wake()


@jobs.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@databases
def delete(jobs: tuple[str, ...], yes: bool, dbs: list[str]) -> None:
    """Delete jobs and their records, whatever their state. This cannot be undone.

    \b
    Example:
      garivini jobs delete 42 43 --yes
    """
    handles = [parse_job(job, dbs) for job in jobs]
    if not yes and not click.confirm(f"Delete {number(len(handles), 'job')} for good?"):
        raise Failed("nothing was deleted")
    with Client(dbs) as client:
        left = [job for job, handle in zip(jobs, handles, strict=True) if not client.delete_jobs([handle])]
    say(f"{len(jobs) - len(left)} deleted")
    if left:
        raise Failed(f"left alone (there is none): {', '.join(left)}")


def _each(
    dbs: list[str], jobs: Iterable[str], call: Callable[[Handle], bool], done: str, otherwise: str
) -> None:
    """Call something for each job and print the result.

    Raises:
        Failed: it was refused for some; the others were done.

    """
    left = []
    for job, handle in [(job, parse_job(job, dbs)) for job in jobs]:
        if call(handle):
            say(f"{handle.id} {done}")
        else:
            left.append(job)
    if left:
        raise Failed(f"left alone ({otherwise}): {', '.join(left)}")


def parse_job(text: str, dbs: list[str]) -> Handle:
    """Return the handle in an id such as ``1:42``; if there is one database, ``42`` is a job in it.

    Raises:
        UsageError: it is neither.

    """
    if re.fullmatch("[0-9]{1,19}", text):
        dbids = [entry.dbid for entry in parse_databases(dbs)]
        if len(dbids) > 1:
            example = f"{dbids[0]}:{text}"
            raise UsageError(f"job {text} of which database? Write for instance {example}: there are several")
        text = f"{dbids[0]}:{text}"
    return parse_id(text)


_DUE = {State.WAITING: "due", State.DEAD: "runs again"}
_DUE |= dict.fromkeys((State.LEASED, State.RUNNING, State.SUSPECT), "lease ends")


def _details(job: Job) -> dict[str, str]:
    return {
        "job": job.id,
        "function": job.funcname,
        "state": job.state.name.lower(),
        _DUE[job.state]: _time(job.run_after),
        "failures": str(job.failcount),
        "attempt": str(job.attempt),
        "crashes": str(job.crashes),
        "priority": job.priority,
        "flag": job.flag,
        "unique key": job.uniqkey or "-",
        "coalesce key": job.coalesce or "-",
        "inserted": _time(job.created) if job.created else "-",
        "argument": f"{number(len(job.arg), 'byte')}: {_argument(job.arg, _LONG_EXCERPT)}",
    }


def _finished_details(finished: KeptJob, dbid: int) -> dict[str, str]:
    return {
        "job": f"{dbid}:{finished.jobid}",
        "function": finished.funcname,
        "state": "finished",
        "finished": _time(finished.finished_at),
        "kept until": _time(finished.expires),
        "failures": str(finished.failcount),
        "attempt": str(finished.attempt),
        "unique key": finished.uniqkey or "-",
        "inserted": _time(finished.created) if finished.created else "-",
        "worker": finished.worker or "-",
        "result": "too large to be kept" if finished.result is None else _shown(finished.result),
    }


def _finished_as_json(finished: KeptJob, dbid: int) -> dict[str, Any]:
    return {**finished._asdict(), "dbid": dbid, "state": "finished", **_blob("result", finished.result)}


def _blob(name: str, blob: bytes | None) -> dict[str, str | None]:
    """Return bytes in the same form as on the wire: as text where they are text."""
    if blob is None:
        return {name: None}
    try:
        return {name: blob.decode(), f"{name}_encoding": "utf-8"}
    except UnicodeDecodeError:
        return {name: msgspec.json.decode(msgspec.json.encode(blob)), f"{name}_encoding": "base64"}


def _shown(blob: bytes) -> str:
    """Return bytes as text on one line, or their number if they are not text."""
    try:
        return visible(blob.decode())
    except UnicodeDecodeError:
        return number(len(blob), "byte")


def _as_json(job: Job) -> dict[str, Any]:
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
        **_blob("arg", job.arg),
    }


def _time(time: int) -> str:
    if time == NEVER:
        return "never"
    try:
        return datetime.fromtimestamp(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # beyond the calendar
        return str(time)


def _argument(arg: bytes, size: int) -> str:
    """Return an argument on one line: whole, but on a terminal its first ``size`` characters."""
    if not on_terminal():
        return visible_bytes(arg)
    text = visible_bytes(arg[: 4 * size + 4])  # at least as many characters as are shown
    return text if len(text) <= size else f"{text[:size]}…"
