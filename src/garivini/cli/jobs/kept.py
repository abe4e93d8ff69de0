"""Kept jobs in the commands ``garivini jobs``: those that have succeeded and are kept for a time."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

from garivini.cli.jobs.forms import blob_fields, blob_text, time_text
from garivini.cli.output import Column, Form, print_json, print_table
from garivini.model.records import KeptJob
from garivini.store.shards import Shards

#: The state that commands show for a kept job, which has no row in ``job``.
FINISHED: Final = "finished"
#: Jobs per page.
_PAGE: Final = 1000
_COLUMNS: Final = (
    Column("job"),
    Column("function"),
    Column("finished"),
    Column("ran", rank=4),
    Column("failures", rank=1),
    Column("attempt", rank=2),
    Column("worker", rank=3),
)


def list_kept(dbs: list[str], funcname: str | None, limit: int, output: Form) -> None:
    """Print kept jobs in the order of their ids, without their results."""
    with closing(Shards(dbs)) as shards:
        pages = _pages(shards, funcname, limit)
        if output == "table":
            rows = ([_row(dbid, kept) for kept in page] for dbid, page in pages)
            print_table(_COLUMNS, rows, none="no job")
        else:
            print_json((_entry(dbid, kept) for dbid, page in pages for kept in page), output)


def _pages(shards: Shards, funcname: str | None, limit: int) -> Iterator[tuple[int, list[KeptJob]]]:
    """Yield at most ``limit`` kept jobs, in pages with the id of their database. Skip other functions."""
    for database in shards:
        after = 0
        while limit and (page := database.kept_jobs(after=after, limit=_PAGE)):
            after = page[-1].jobid
            found = [kept for kept in page if funcname in (None, kept.funcname)][:limit]
            limit -= len(found)
            yield database.dbid, found


def _row(dbid: int, kept: KeptJob) -> list[str]:
    return [
        f"{dbid}:{kept.jobid}",
        kept.funcname,
        time_text(kept.finished_at),
        _seconds_text(kept.seconds),
        str(kept.failcount),
        str(kept.attempt),
        kept.worker or "-",
    ]


def _entry(dbid: int, kept: KeptJob) -> dict[str, Any]:
    entry = {"dbid": dbid, "state": FINISHED, **kept._asdict()}
    del entry["result"]
    return entry


def _seconds_text(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.3f} s"


def kept_details(kept: KeptJob, dbid: int) -> dict[str, str]:
    """Return the values that ``jobs show`` prints for a kept job, by their labels."""
    return {
        "job": f"{dbid}:{kept.jobid}",
        "function": kept.funcname,
        "state": FINISHED,
        "finished": time_text(kept.finished_at),
        "ran": _seconds_text(kept.seconds),
        "kept until": time_text(kept.expires),
        "failures": str(kept.failcount),
        "attempt": str(kept.attempt),
        "unique key": kept.uniqkey or "-",
        "inserted": time_text(kept.created) if kept.created else "-",
        "worker": kept.worker or "-",
        "result": "too large to be kept" if kept.result is None else blob_text(kept.result),
    }


def kept_as_json(kept: KeptJob, dbid: int) -> dict[str, Any]:
    """Return a kept job as a JSON object."""
    return {**kept._asdict(), "dbid": dbid, "state": FINISHED, **blob_fields("result", kept.result)}
