"""``garivini jobs show``."""

from collections.abc import Sequence
from typing import Final

import click

from garivini.cli.jobs.forms import argument_text, as_json, blob_fields, blob_text, parse_job, time_text
from garivini.cli.jobs.kept import kept_as_json, kept_details
from garivini.cli.options import databases
from garivini.cli.options import output as output_option
from garivini.cli.output import Failed, Form, number, print_details, print_json, say, visible, visible_bytes
from garivini.client import Client
from garivini.model.job import Job
from garivini.model.records import FailedAttempt, Reported
from garivini.model.state import State
from garivini.store.failures import FIRST

#: Characters of an argument on a terminal.
_EXCERPT: Final = 2000


@click.command()
@click.argument("job")
@databases
@output_option
def show(job: str, dbs: list[str], output: Form) -> None:
    """Show one job, its failures, and the reports of its worker.

    A job that has succeeded is shown with its result as long as it is kept: see garivini functions set
    --retention.

    \b
    Examples:
      garivini jobs show 42
      garivini jobs show 2:42 -o json
    """
    handle = parse_job(job, dbs)
    with Client(dbs) as client:
        found = client.get_job(handle)
        kept = None if found else client.result(handle)
        failures = client.failures(handle)
        omitted = client.shards[handle.dbid].omitted_failures(handle.jobid)
        reports = client.reports(handle)
    if found is not None:
        details, entry = _details(found), as_json(found)
    elif kept is not None:
        details, entry = kept_details(kept, handle.dbid), kept_as_json(kept, handle.dbid)
    else:
        raise Failed(f"there is no job {job}: it has succeeded, or never existed")
    if output != "table":
        records = {
            "failures": [failure._asdict() for failure in failures],
            "failures_omitted": omitted,
            "reports": [{**report._asdict(), **blob_fields("body", report.body)} for report in reports],
        }
        print_json([{**entry, **records}], output)
        return
    for report in reports:
        if report.kind == "status" and report.attempt == entry["attempt"]:
            details["progress"] = visible_bytes(report.body)
    print_details(details)
    _print_records(failures, omitted, [report for report in reports if report.kind != "status"])


def _print_records(failures: Sequence[FailedAttempt], omitted: int, lines: Sequence[Reported]) -> None:
    """Print the failures, the number of those that were not kept, and the lines that were reported."""
    for place, failure in enumerate(failures):
        if omitted and place == FIRST:
            say(f"\n{omitted} failures of later attempts were not kept", style="bold")
        when, where = time_text(failure.failed_at), failure.worker or "?"
        say(f"\nattempt {failure.attempt} {failure.kind} at {when} by {visible(where)}", style="bold")
        say(visible(": ".join(filter(None, (failure.error, failure.message)))))
        if failure.trace:
            say(failure.trace.rstrip(), style="dim")
    if lines:
        say("\nreports", style="bold")
    for line in lines:
        say(f"attempt {line.attempt} {line.kind} at {time_text(line.reported_at)}: {blob_text(line.body)}")


#: The label of ``run_after`` in the output, by state.
_DUE: Final = {
    State.WAITING: "due",
    State.LEASED: "lease ends",
    State.RUNNING: "lease ends",
    State.SUSPECT: "lease ends",
    State.DEAD: "runs again",
}


def _details(job: Job) -> dict[str, str]:
    return {
        "job": job.id,
        "function": job.funcname,
        "state": job.state.name.lower(),
        _DUE.get(job.state, "run_after"): time_text(job.run_after),
        "failures": str(job.failcount),
        "attempt": str(job.attempt),
        "crashes": str(job.crashes),
        "priority": job.priority,
        "flag": job.flag,
        "unique key": job.uniqkey or "-",
        "coalesce key": job.coalesce or "-",
        "partition": job.partition or "-",
        "headers": job.headers_text or "-",
        "inserted": time_text(job.created) if job.created else "-",
        "argument": f"{number(len(job.arg), 'byte')}: {argument_text(job.arg, _EXCERPT)}",
    }
