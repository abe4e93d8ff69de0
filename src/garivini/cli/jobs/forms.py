"""The forms of a job for the commands ``garivini jobs``: its id, JSON, and values as text."""

import re
from datetime import datetime
from typing import Any

import msgspec

from garivini.cli.output import number, on_terminal, visible, visible_bytes
from garivini.databases import parse_databases
from garivini.errors import UsageError
from garivini.model.handles import parse_id
from garivini.model.job import Handle, Job
from garivini.model.limits import NEVER


def parse_job(text: str, dbs: list[str]) -> Handle:
    """Return the handle of an id such as ``1:42``, or ``42`` if there is only one database.

    Raises:
        UsageError: the text is not an id, or it names no database although there are several.

    """
    if re.fullmatch("[0-9]{1,19}", text):
        dbids = [entry.dbid for entry in parse_databases(dbs)]
        if len(dbids) > 1:
            example = f"{dbids[0]}:{text}"
            raise UsageError(
                f"job {text} has no database, and there are several: write for example {example}"
            )
        text = f"{dbids[0]}:{text}"
    return parse_id(text)


def as_json(job: Job) -> dict[str, Any]:
    """Return a job as a JSON object."""
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
        "partition": job.partition,
        "headers": job.headers,
        "created": job.created,
        **blob_fields("arg", job.arg),
    }


def blob_fields(name: str, blob: bytes | None) -> dict[str, str | None]:
    """Return bytes as the fields of a JSON object: UTF-8 as text, other bytes in base64."""
    if blob is None:
        return {name: None}
    try:
        return {name: blob.decode(), f"{name}_encoding": "utf-8"}
    except UnicodeDecodeError:
        return {name: msgspec.json.decode(msgspec.json.encode(blob)), f"{name}_encoding": "base64"}


def blob_text(blob: bytes) -> str:
    """Return bytes as one line of text, or their number if they are not UTF-8."""
    try:
        return visible(blob.decode())
    except UnicodeDecodeError:
        return number(len(blob), "byte")


def time_text(time: int) -> str:
    """Return a unix time as local time."""
    if time == NEVER:
        return "never"
    try:
        return datetime.fromtimestamp(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # out of the range of the calendar
        return str(time)


def argument_text(arg: bytes, size: int) -> str:
    """Return an argument as one line; on a terminal, only its first ``size`` characters."""
    if not on_terminal():
        return visible_bytes(arg)
    text = visible_bytes(arg[: 4 * size + 4])  # enough bytes for the characters that are shown
    return text if len(text) <= size else f"{text[:size]}…"
