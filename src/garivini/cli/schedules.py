"""``garivini schedules``: jobs that are inserted at set times."""

import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any

import click

from garivini.cli.jobs.forms import blob_fields, blob_text
from garivini.cli.options import databases, output
from garivini.cli.output import Column, Form, print_details, print_json, print_table, say, visible
from garivini.errors import UsageError
from garivini.model.limits import FLAGS, PRIORITIES
from garivini.model.schedule import MISSED, OVERLAPS, Schedule, StoredSchedule, check_name
from garivini.model.ticks import find_zone, local_time
from garivini.store.database import Database
from garivini.store.schedule_homes import find_schedule, place_schedule
from garivini.store.shards import Shards


@click.group()
def schedules() -> None:
    """List schedules and change when they insert jobs.

    A QueueRunner inserts the jobs: garivini run.
    """


@schedules.command("list")
@databases
@output
def list_(dbs: list[str], output: Form) -> None:
    """List schedules with their functions, the times of their jobs, and their next and last ticks.

    \b
    Examples:
      garivini schedules list
      garivini schedules list -o json
    """
    with closing(Shards(dbs)) as shards:
        found = [entry for database in shards for entry in database.schedules()]
    if output != "table":
        print_json(map(_as_json, found), output)
        return
    rows = [
        [
            entry.name,
            entry.funcname,
            _times(entry),
            _status(entry),
            _shown(entry, entry.next_tick) if _status(entry) == "active" else "-",
            _shown(entry, entry.last_tick),
        ]
        for entry in found
    ]
    columns = (
        Column("schedule"),
        Column("function"),
        Column("times"),
        Column("status"),
        Column("next"),
        Column("last", rank=1),
    )
    print_table(columns, [rows], none="no schedule")


@schedules.command()
@click.argument("name")
@databases
@output
def show(name: str, dbs: list[str], output: Form) -> None:
    """Show the schedule NAME, and what it has done.

    \b
    Examples:
      garivini schedules show nightly-report
    """
    with _found(name, dbs) as database:
        entry = _read(database, name)
    if output != "table":
        print_json([_as_json(entry)], output)
        return
    values = {
        "schedule": entry.name,
        "function": entry.funcname,
        "argument": blob_text(entry.arg),
        "times": _times(entry),
        "in words": _words(entry),
        "status": _status(entry),
        "next tick": _shown(entry, entry.next_tick),
        "queued tick": _shown(entry, entry.queued),
        "last tick": _shown(entry, entry.last_tick),
        "last job": "-" if entry.last_jobid is None else f"{entry.dbid}:{entry.last_jobid}",
        "jobs": f"{entry.jobs:,}",
        "ticks without a job": f"{entry.skipped:,}",
        "missed ticks": entry.missed + (f", {entry.missed_window} s" if entry.missed == "all" else ""),
        "overlap": entry.overlap,
        "priority": entry.priority,
        "flag": entry.flag,
        "database": str(entry.dbid),
        "set by an operator": ", ".join(sorted(entry.override)) or "-",
    }
    print_details(values)


@schedules.command("set")
@click.argument("name")
@click.argument("funcname", required=False)
@databases
@click.option("--cron", metavar="EXPRESSION", help="Minute, hour, day of month, month, day of week.")
@click.option("--every", type=int, metavar="SECONDS", help="Interval, instead of --cron.")
@click.option("--zone", help="Time zone of --cron, such as Europe/Berlin. [default: UTC]")
@click.option("--arg", help="Argument of the jobs; - reads it from standard input. [default: empty]")
@click.option("--priority", type=click.Choice(PRIORITIES), help="Priority of the jobs. [default: normal]")
@click.option(
    "--flag",
    type=click.Choice(FLAGS),
    help="What reports the outcome: the worker itself (shim), or a Controller. [default: shim]",
)
@click.option(
    "--missed",
    type=click.Choice(MISSED),
    help="Ticks that were missed while no QueueRunner ran: insert no job, one for the last of them, or one "
    "each. [default: last]",
)
@click.option(
    "--missed-window",
    type=int,
    metavar="SECONDS",
    help="How old a missed tick may be with --missed all. [default: 3600]",
)
@click.option(
    "--overlap",
    type=click.Choice(OVERLAPS),
    help="A tick while the previous job has not ended: insert its job, skip it, or queue one tick until "
    "then. [default: skip]",
)
def set_(name: str, funcname: str | None, dbs: list[str], arg: str | None, **values: Any) -> None:
    """Create the schedule NAME for the function FUNCNAME, or change it. Values not given stay as they are.

    The given values have precedence over those that code declares, until they are reset.

    \b
    Examples:
      garivini schedules set nightly-report report --cron '0 3 * * *' --zone Europe/Berlin
      garivini schedules set heartbeat ping --every 60 --overlap allow
      garivini schedules set nightly-report --cron '30 3 * * mon-fri'
    """
    check_name(name)
    given = {key: value for key, value in {"funcname": funcname, **values}.items() if value is not None}
    if "cron" in given and "every" in given:
        raise UsageError("give either --cron or --every")
    if arg is not None:
        given["arg"] = sys.stdin.buffer.read() if arg == "-" else arg.encode()
    if not given:
        raise UsageError("give at least one value to set: see garivini schedules set --help")
    with closing(Shards(dbs)) as shards:
        database = place_schedule(shards, name)
        database.set_schedule(name, given)
        entry = _read(database, name)
    say(f"{visible(name)} is set in {visible(database.where)}, next tick: {_shown(entry, entry.next_tick)}")


@schedules.command()
@click.argument("name")
@databases
def reset(name: str, dbs: list[str]) -> None:
    """Remove an operator's values of the schedule NAME, so that those that code declares apply again."""
    with _found(name, dbs) as database:
        database.reset_schedule(name)
    say(f"{visible(name)} is reset")


@schedules.command()
@click.argument("name")
@databases
def pause(name: str, dbs: list[str]) -> None:
    """Stop the schedule NAME from inserting jobs until it is resumed. Jobs that it has inserted still run.

    \b
    Examples:
      garivini schedules pause nightly-report
    """
    with _found(name, dbs) as database:
        database.pause_schedule(name)
    say(f"{visible(name)} is paused")


@schedules.command()
@click.argument("name")
@databases
def resume(name: str, dbs: list[str]) -> None:
    """Undo a pause of the schedule NAME. No jobs are inserted for the ticks during the pause.

    \b
    Examples:
      garivini schedules resume nightly-report
    """
    with _found(name, dbs) as database:
        database.resume_schedule(name)
        entry = _read(database, name)
    say(f"{visible(name)} is resumed, next tick: {_shown(entry, entry.next_tick)}")


@schedules.command()
@click.argument("name")
@databases
def run(name: str, dbs: list[str]) -> None:
    """Insert a job of the schedule NAME now, even if it is paused, and print its id. Its ticks do not change.

    \b
    Examples:
      garivini schedules run nightly-report
    """
    with _found(name, dbs) as database:
        say(f"{database.dbid}:{database.run_schedule(name)}")


@schedules.command()
@click.argument("name")
@databases
def remove(name: str, dbs: list[str]) -> None:
    """Delete the schedule NAME. Jobs that it has inserted stay.

    If code declares it, pause it instead: a worker would create it again.

    \b
    Examples:
      garivini schedules remove nightly-report
    """
    with _found(name, dbs) as database:
        database.remove_schedule(name)
    say(f"{visible(name)} is removed")


@schedules.command("next")
@click.argument("name", required=False)
@databases
@click.option("--cron", metavar="EXPRESSION", help="Instead of NAME: an expression to try.")
@click.option("--zone", default="UTC", show_default=True, help="Time zone of --cron.")
@click.option("--count", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many times.")
@output
def next_(name: str | None, dbs: list[str], cron: str | None, zone: str, count: int, output: Form) -> None:
    """Show the next times at which the schedule NAME inserts a job, or a cron expression would.

    \b
    Examples:
      garivini schedules next nightly-report
      garivini schedules next --cron '0 3 * * mon-fri' --zone Europe/Berlin --count 3
    """
    if (name is None) == (cron is None):
        raise UsageError("give the name of a schedule, or --cron")
    if name is not None:
        with _found(name, dbs) as database:
            entry = _read(database, name)
            now = int(database.clock())
        schedule = entry.definition
        after = now if entry.next_tick is None or entry.paused else entry.next_tick - 1
    else:
        schedule, after = Schedule(funcname="-", cron=cron, zone=zone), int(time.time())
    times = [
        (tick, local_time(tick, find_zone(schedule.zone))) for tick in islice(schedule.ticks(after), count)
    ]
    if output != "table":
        print_json(({"tick": tick, "time": at.isoformat()} for tick, at in times), output)
        return
    for _, at in times:
        say(f"{at:%a %Y-%m-%d %H:%M:%S %z}")


@contextmanager
def _found(name: str, dbs: list[str]) -> Iterator[Database]:
    """Open the database that has a schedule."""
    with closing(Shards(dbs)) as shards:
        yield find_schedule(shards, name)


def _read(database: Database, name: str) -> StoredSchedule:
    found = {entry.name: entry for entry in database.schedules()}
    if name not in found:
        raise UsageError(f"there is no schedule {name!r:.250} any more")
    return found[name]


def _as_json(entry: StoredSchedule) -> dict[str, Any]:
    values = {key: value for key, value in entry.values.items() if key != "arg"}
    return {
        "schedule": entry.name,
        "dbid": entry.dbid,
        "status": _status(entry),
        **values,
        **blob_fields("arg", entry.arg),
        "paused": entry.paused,
        "retired": entry.retired,
        "declared": entry.declared is not None,
        "override": sorted(entry.override),
        "next_tick": entry.next_tick,
        "queued": entry.queued,
        "last_tick": entry.last_tick,
        "last_jobid": entry.last_jobid,
        "jobs": entry.jobs,
        "skipped": entry.skipped,
    }


def _status(entry: StoredSchedule) -> str:
    """Return ``active`` if a schedule ticks, otherwise the reason why it does not."""
    if entry.paused:
        return "paused"
    if entry.retired:
        return "retired"
    try:
        _ = entry.definition
    except UsageError as error:
        return f"wrong: {error}"
    return "active"


def _times(entry: StoredSchedule) -> str:
    return f"every {entry.every} s" if entry.cron is None else f"{entry.cron} {entry.zone}"


def _words(entry: StoredSchedule) -> str:
    try:
        return entry.definition.words
    except UsageError:
        return "-"


def _shown(entry: StoredSchedule, tick: int | None) -> str:
    """Return a time as the clock of a schedule's zone shows it."""
    if tick is None:
        return "-"
    try:
        return f"{local_time(tick, find_zone(entry.zone)):%Y-%m-%d %H:%M:%S %z}"
    except (UsageError, ValueError, OverflowError, OSError):  # the row has an invalid zone or time
        return str(tick)
