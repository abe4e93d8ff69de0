"""The records of jobs that did not fail: reports of running jobs, and jobs that are kept after success."""

from collections.abc import Sequence
from typing import Final, TypeAlias

from garivini.model.limits import MAX_ARG
from garivini.model.outcome import Report, Success
from garivini.model.records import KeptJob, Reported
from garivini.store.chunks import CHUNK, by_attempt
from garivini.store.failures import storable
from garivini.store.locked_rows import skip_locked
from garivini.store.statements import Statements

#: Maximum lines of one attempt that are kept: the first ones are.
MAX_LINES: Final = 1000
#: The last line of an attempt that has more of them.
LATER_LINES: Final = b"garivini: later lines of this attempt are not kept"
#: Maximum bytes of a line that are kept.
MAX_LINE: Final = 64 * 1024
#: Maximum bytes of a result that is kept; a larger one is omitted.
MAX_RESULT: Final = MAX_ARG


#: Alias of ``KeptJob``.
Finished: TypeAlias = KeptJob


def report(run: Statements, reports: Sequence[Report], *, locked: set[int] | None = None) -> None:
    """Store reports of running jobs.

    A status replaces the attempt's last one. Of the lines of an attempt, the first ``MAX_LINES`` are kept,
    each cut to ``MAX_LINE`` bytes. Reports of attempts that do not hold their job are omitted.
    """
    skipped = skip_locked(run, (report.handle.jobid for report in reports), locked, records=True)
    if skipped:
        reports = [report for report in reports if report.handle.jobid not in skipped]
    held: set[tuple[int, int | None]] = set()
    for number, jobids in by_attempt({report.handle for report in reports}):
        # Locks the rows, so that no job ends in between and two reports do not get the same number.
        held.update((jobid, number) for (jobid,) in run("held", jobids=jobids, attempt=number))
    statuses = {}
    for report in reports:
        (jobid, _, attempt), kind, body, _ = report
        if (jobid, attempt) not in held:
            continue
        if kind == "status":
            statuses[jobid, attempt] = body
        else:
            run(
                "add_line",
                jobid=jobid,
                attempt=attempt,
                kind=kind,
                body=body[:MAX_LINE],
                limit=MAX_LINES,
            )
    for (jobid, attempt), body in statuses.items():
        run("set_status", jobid=jobid, attempt=attempt, body=body[:MAX_LINE])


def reports(run: Statements, jobid: int) -> list[Reported]:
    """Return the reports of a job, oldest attempt first; of each attempt the last status, then the lines."""
    return [Reported(*row) for row in run("reports", jobid=jobid)]


def retention(run: Statements, jobid: int) -> int:
    """Return the seconds for which a job is kept after success; 0: it is not kept, or does not exist."""
    rows = run("retention", jobid=jobid)
    return (rows[0][0] or 0) if rows else 0


def keep(run: Statements, success: Success, attempt: int) -> None:
    """Keep a job that succeeded, before its row is deleted.

    A result that is too large for the database is omitted, and a warning is stored.
    """
    attempt = attempt if success.attempt is None else success.attempt
    size, maximum = len(success.result or b""), min(MAX_RESULT, run.dialect.statement_bytes)
    run(
        "keep",
        jobid=success.jobid,
        attempt=attempt,
        worker=storable(success.worker)[:255],
        result=success.result if size <= maximum else None,
        retention=success.retention,
        ran=success.seconds,
    )
    warning = success.warning if success.result is None else ""
    if size > maximum:
        warning = f"the result of {size} bytes was left out: {run.where} takes at most {maximum}"
        if maximum < MAX_RESULT:
            warning += f", by its {run.dialect.statement_setting}"
    if warning:
        # The limit is one higher than that of lines, so that the warning is never omitted.
        run(
            "add_line",
            jobid=success.jobid,
            attempt=attempt,
            kind="warning",
            body=storable(warning).encode()[:MAX_LINE],
            limit=MAX_LINES + 1,
        )


def kept_jobs(run: Statements, after: int = 0, limit: int = CHUNK) -> list[KeptJob]:
    """Return kept jobs with greater ids in the order of their ids, without their results."""
    return [KeptJob(*row) for row in run("kept_jobs", after=after, limit=min(limit, CHUNK))]


def kept_job(run: Statements, jobid: int) -> KeptJob | None:
    """Return a kept job, or None."""
    rows = run("finished", jobid=jobid)
    return KeptJob(*rows[0]) if rows else None
