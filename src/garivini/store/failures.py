"""The failure records of a job: the first and the newest ones are kept."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

from garivini.model.fingerprint import READ, Occurrence
from garivini.model.outcome import Setback
from garivini.model.records import FailedAttempt
from garivini.store.chunks import CHUNK
from garivini.store.statements import Statements

_Row = TypeVar("_Row", bound=Sequence[Any])

#: How many of the first records and of the newest records are kept. The others usually repeat them.
FIRST: Final = 10
NEWEST: Final = 40
#: Kind of the record whose message is the number of records omitted after its attempt.
OMITTED: Final = "omitted"
#: Maximum characters of a failure's message, and of its trace.
_MAX_TEXT: Final = 65_535


def failures(run: Statements, jobid: int) -> list[FailedAttempt]:
    """Return the failure records of a job, oldest first.

    If there were many, only the first and newest are kept; ``omitted_failures`` returns the number of others.
    """
    return [record for record in failure_rows(run, jobid) if record.kind != OMITTED]


def failure_rows(run: Statements, jobid: int) -> list[FailedAttempt]:
    """Return the failure records of a job, and among them the row that counts the omitted records."""
    return [FailedAttempt(*row) for row in run("failures", jobid=jobid)]


def failure_page(run: Statements, after: int = 0) -> tuple[list[Occurrence], int | None]:
    """Return failures in the order of their jobs' ids, and the id after which the next page begins.

    None: this was the last page. A page reads at most ``CHUNK`` records. Records of jobs that are deleted
    meanwhile are left out.
    """
    rows = run("failure_texts", after=after, size=READ, limit=CHUNK)
    whole, next_page = whole_jobs(rows)
    jobids = sorted({row[0] for row in whole})
    names = dict(run("funcnames", jobids=jobids)) if jobids else {}
    if kept := [jobid for jobid in jobids if jobid not in names]:
        names.update(run("kept_funcnames", jobids=kept))
    return [Occurrence(row[0], names[row[0]], *row[1:]) for row in whole if row[0] in names], next_page


def whole_jobs(rows: Sequence[_Row]) -> tuple[Sequence[_Row], int | None]:
    """Return a page of records without those of its last job, which may go on in the next page.

    Args:
        rows: at most ``CHUNK`` records in the order of their jobs' ids, which are their first columns.

    Returns:
        The records, and the id after which the next page begins; None: there is no next page.

    """
    if len(rows) < CHUNK:
        return rows, None
    last = rows[-1][0]
    # If all records are of one job, another program has written them, because we keep fewer per job.
    whole = [row for row in rows if row[0] != last] or rows
    return whole, whole[-1][0]


def omitted_failures(run: Statements, jobid: int) -> int:
    """Return the number of omitted failure records of a job, between the first ones and the newest."""
    rows = run("record_keys", jobid=jobid)
    return sum(int(message) for _, kind, message in rows if kind == OMITTED)


def record_failure(run: Statements, setback: Setback, attempt: int) -> None:
    """Record a setback of an attempt, with its texts cut to the maximum lengths."""
    maximum = _text_limit(run)
    run(
        "record_failure",
        jobid=setback.handle.jobid,
        attempt=attempt,
        kind=setback.kind,
        error=storable(setback.error)[:255],
        message=storable(setback.message)[:maximum],
        trace=storable(setback.trace)[-maximum:],
        worker=storable(setback.worker)[:255],
    )
    _prune(run, setback.handle.jobid, attempt)


def record_ends(
    run: Statements, attempts: Mapping[int, int], kind: Literal["cancelled", "discarded"], message: str
) -> None:
    """Record that an operator has ended jobs that nobody holds.

    Args:
        run: runs the statements.
        attempts: the attempt of each job, by the job's id.
        kind: of the records.
        message: of the records.

    """
    run("record_ends", jobids=list(attempts), kind=kind, message=storable(message)[: _text_limit(run)])
    for jobid, attempt in attempts.items():
        _prune(run, jobid, attempt)


def _text_limit(run: Statements) -> int:
    """Return the maximum characters of a text. A statement that is too large ends the connection."""
    return max(1000, min(_MAX_TEXT, run.dialect.statement_bytes // 16))


def _prune(run: Statements, jobid: int, attempt: int) -> None:
    """Delete the records between the first and the newest ones of a job that has just got one more.

    An attempt has one record, or two if its process died, so a job of few attempts costs nothing.
    """
    if attempt <= (FIRST + NEWEST) // 2:
        return
    rows = run("record_keys", jobid=jobid)
    kept = [number for number, kind, _ in rows if kind != OMITTED]
    if len(kept) <= FIRST + NEWEST:
        return
    first = kept[FIRST - 1]
    omitted = run("omit_failures", jobid=jobid, after=first, before=kept[-NEWEST])
    if omitted:
        omitted += sum(int(message) for _, kind, message in rows if kind == OMITTED)
        run(
            "record_failure",
            jobid=jobid,
            attempt=first,
            kind=OMITTED,
            error="",
            message=str(omitted),
            trace="",
            worker="",
        )


def storable(text: str) -> str:
    """Return a text in a form that every database stores: without NUL and halves of surrogate pairs."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
