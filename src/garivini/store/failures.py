"""Limits the record of a job's attempts that did not complete to the first and the newest entries."""

from typing import Final

from garivini.store.connections import Run

#: Records that are kept: they show the first and the latest failures, which those between usually repeat.
FIRST: Final = 10
NEWEST: Final = 40
#: Kind of the row whose message is the number of records omitted after its attempt.
OMITTED: Final = "omitted"


def prune(run: Run, jobid: int, attempt: int) -> None:
    """Delete the records between the first and the newest ones of a job, in the caller's transaction.

    An attempt has one record, or two if its process died, so a job of few attempts costs nothing.

    Args:
        run: runs the statements.
        jobid: the job whose record has just got longer.
        attempt: its attempt.

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
