"""``garivini functions pause`` and ``resume``, and how commands show a pause."""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import click

from garivini.cli.jobs.forms import time_text
from garivini.cli.options import databases
from garivini.cli.output import Failed, note, say
from garivini.client import Client
from garivini.errors import UsageError
from garivini.model.policy import FOREVER, RULES_APPLY_AFTER

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


inexact: Final = click.option(
    "--inexact",
    is_flag=True,
    help="Also if QueueRunners of the original, which ignore it, can use the table.",
)


@click.command()
@click.argument("funcname")
@databases
@click.option("--for", "duration", metavar="TIME", help="How long: 90s, 15m, 1h or 2d.")
@click.option(
    "--until",
    metavar="TIME",
    help="End of the pause: 2026-12-01T08:00, in local time or with a zone, or a unix time.",
)
@click.option("--now", is_flag=True, help="Also take back jobs that wait in Gearman servers.")
@click.option("--no-wait", is_flag=True, help="Return before every program has read the pause.")
@inexact
def pause(
    funcname: str,
    dbs: list[str],
    duration: str | None,
    until: str | None,
    now: bool,
    no_wait: bool,
    inexact: bool,
) -> None:
    """Hand out no jobs of the function FUNCNAME. Jobs can still be inserted.

    Jobs that were handed out earlier continue: those that run, and those that wait in a Gearman server. With
    --now, only running jobs continue, and jobs in Gearman servers are set back to waiting in the database.
    The command returns after 8 seconds, when every program has read the pause. Without --for and --until, a
    pause has no end.

    \b
    Examples:
      garivini functions pause call-the-api
      garivini functions pause call-the-api --for 1h
      garivini functions pause call-the-api --now
      garivini functions pause call-the-api --until 2026-12-01T08:00+01:00
    """
    if now and no_wait:
        raise UsageError("give --now or --no-wait, not both")
    if duration is not None and until is not None:
        raise UsageError("give --for or --until, not both")
    end = _duration(duration) if duration is not None else _time(until) if until is not None else None
    with Client(dbs) as client:
        if not no_wait:
            note(f"this takes {RULES_APPLY_AFTER:.0f} seconds, until every program has read the pause")
        count = client.pause(funcname, end, now=now, wait=not no_wait, inexact=inexact)
    say(f"{funcname} is paused" + (f", {count:,} jobs were taken back" if now else ""))


@click.command()
@click.argument("funcname")
@databases
def resume(funcname: str, dbs: list[str]) -> None:
    """End the pause of the function FUNCNAME. Its jobs start within two seconds.

    \b
    Example:
      garivini functions resume call-the-api
    """
    with Client(dbs) as client:
        if not client.resume(funcname):
            raise Failed(f"{funcname} is not paused")
    say(f"{funcname} is resumed")


def pause_text(until: int) -> str:
    """Return a pause that ends at a unix time, as text."""
    return "paused" if until >= FOREVER else f"paused until {time_text(until)}"


def pauses_text(paused: Mapping[str, int]) -> str:
    """Return one line with the paused functions. ``paused`` has the unix time at which each pause ends."""
    ends = {name: "" if until >= FOREVER else f" until {time_text(until)}" for name, until in paused.items()}
    return ", ".join(f"{name}{end}" for name, end in ends.items())


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    if found is None:
        raise UsageError(f"--for is a number with s, m, h or d, such as 15m, not {text!r:.100}")
    return timedelta(**{_UNITS[found[2] or "s"]: int(found[1])})


def _time(text: str) -> datetime | str:
    if text.isdigit():
        return text
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise UsageError(f"--until is a time such as 2026-12-01T08:00, not {text!r:.100}") from None
