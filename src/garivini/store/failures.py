"""The failure records of a job: the first and the newest ones are kept."""

from collections.abc import Mapping
from typing import Final, Literal

from garivini.model.outcome import Setback
from garivini.model.records import FailedAttempt
from garivini.store.statements import Statements

#: Records that are kept: they show the first and the latest failures, which those between usually repeat.
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
    """Return the failure records of a job with the row that counts the omitted ones."""
    return [FailedAttempt(*row) for row in run("failures", jobid=jobid)]


def omitted_failures(run: Statements, jobid: int) -> int:
    """Return the number of omitted failure records of a job, between the first ones and the newest."""
    rows = run("record_keys", jobid=jobid)
    return sum(int(message) for _, kind, message in rows if kind == OMITTED)


def record_failure(run: Statements, setback: Setback, attempt: int) -> None:
    """Record a setback of an attempt, with its texts cut to what is kept."""
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
        attempts: of each job by id.
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
