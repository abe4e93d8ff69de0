"""The outcomes of attempts: success deletes the row; a setback is recorded and changes the row.

Success counts whichever attempt reports it; a setback changes only the row that its attempt holds.

A call with ``locked`` skips the rows that another transaction has locked: see ``locked_rows.skip_locked``.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final, assert_never

from garivini.errors import ConflictError
from garivini.model.job import Handle, NewJob
from garivini.model.limits import NEVER
from garivini.model.outcome import Setback, Settled, Success
from garivini.model.policy import MAX_CRASHES, MAX_FAILURES
from garivini.model.retry import error_names, stored_retry
from garivini.model.state import State
from garivini.model.when import At, Never, Offset, When, backoff
from garivini.store.batches import leave
from garivini.store.cancels import mark
from garivini.store.chunks import chunks
from garivini.store.connections import Connections
from garivini.store.failures import record_failure
from garivini.store.locked_rows import skip_locked
from garivini.store.outbox import insert_here
from garivini.store.records import keep
from garivini.store.statements import Statements
from garivini.store.successors import promote, promote_after_death

#: What ``with_records`` says of a job: it has records, a successor, or a batch.
_RECORDED: Final = 0
_FOLLOWED: Final = 1
_MEMBER: Final = 2
#: Up to this span of ids, one range scan is cheaper than one lookup per id. A range contains deleted rows
#: until the database has purged them, and a wide one may contain many.
_NEAR: Final = 10_000


class Missing(Exception):
    """Some of the jobs to delete do not exist. Rolls the transaction back."""


# ---- success


def finish(
    connections: Connections,
    jobids: list[int],
    kept: Mapping[int, Success],
    locked: set[int] | None,
    follow_ups: Mapping[int, Sequence[NewJob]] = MappingProxyType({}),
) -> set[int]:
    """Delete jobs that succeeded, with their records, in one transaction; return the ids that existed.

    Args:
        connections: to the database.
        jobids: sorted, without duplicates.
        kept: the jobs among them to keep, by id.
        locked: gets the ids of rows that another transaction has locked.
        follow_ups: jobs to insert, by the id of their job, if that job existed. A row can be deleted only
            once, so its job's follow-ups are inserted only once.

    """
    if locked is not None:
        with connections.transaction() as run:
            existing, members = _finish_unlocked(run, jobids, kept, locked)
            _insert_follow_ups(run, follow_ups, existing)
            _leave(run, members)
            return existing
    try:
        with connections.transaction() as run:
            members = [jobid for part in chunks(jobids) for jobid in finish_all(run, part, kept)]
            _insert_follow_ups(run, follow_ups, jobids)
            _leave(run, members)
            return set(jobids)
    except Missing:
        # Only now: reading which jobs exist costs more than deleting them, and nearly always all jobs exist.
        with connections.transaction() as run:
            existing, members = _finish_existing(run, jobids, kept)
            _insert_follow_ups(run, follow_ups, existing)
            _leave(run, members)
            return existing


def _insert_follow_ups(
    run: Statements, follow_ups: Mapping[int, Sequence[NewJob]], existing: Collection[int]
) -> None:
    """Insert the follow-ups of jobs that this transaction has deleted."""
    jobs = [job for jobid in follow_ups if jobid in existing for job in follow_ups[jobid]]
    if jobs:
        insert_here(run, jobs)


def _leave(run: Statements, members: list[int]) -> None:
    """Let batches count the ends of their members. Last in a transaction: others wait for their rows."""
    if members:
        leave(run, members)


def _finish_existing(
    run: Statements, jobids: list[int], kept: Mapping[int, Success]
) -> tuple[set[int], list[int]]:
    """Delete the jobs that exist, which are locked first; return their ids, and the members of batches."""
    existing: set[int] = set()
    members: list[int] = []
    for part in chunks(jobids):
        there = sorted(jobid for (jobid,) in run("present", jobids=part))
        if there:
            members += finish_all(run, there, kept)
            existing.update(there)
    return existing, members


def finish_all(run: Statements, jobids: list[int], kept: Mapping[int, Success]) -> list[int]:
    """Delete jobs that all exist, with their records, and keep some; return the members of batches."""
    keeping = [jobid for jobid in jobids if jobid in kept] if kept else []
    for jobid, attempt, *_ in run("standing", jobids=keeping) if keeping else ():
        keep(run, kept[jobid], attempt)
    if _delete(run, jobids) != len(jobids):
        raise Missing
    return forget_records(run, jobids, keeping)


def _finish_unlocked(
    run: Statements, jobids: list[int], kept: Mapping[int, Success], locked: set[int]
) -> tuple[set[int], list[int]]:
    """Delete the jobs that no other transaction has locked, one by one.

    Returns the ids that existed, and the members of batches.

    A database may search a list of ids by a scan, which waits for locked rows that are not in the list.
    """
    existing: set[int] = set()
    skipped = skip_locked(run, jobids, locked, records=True)
    for jobid in jobids:
        if jobid in skipped:
            continue
        for _, attempt, *_ in run("standing", jobids=[jobid]) if jobid in kept else ():
            keep(run, kept[jobid], attempt)
        if run("complete_one", jobid=jobid):
            existing.add(jobid)
    return existing, [jobid for part in chunks(sorted(existing)) for jobid in forget_records(run, part, kept)]


def _delete(run: Statements, jobids: Sequence[int]) -> int:
    """Delete the rows of these ids, which are sorted; return how many existed."""
    first, last = jobids[0], jobids[-1]
    if last - first == len(jobids) - 1:
        return int(run("complete_range", first=first, last=last))
    return int(run("complete", jobids=jobids))


def present(run: Statements, jobids: Collection[int]) -> set[int]:
    """Return the ids among these of jobs that exist, locked or not."""
    return {jobid for part in chunks(sorted(jobids)) for (jobid,) in run("known", jobids=part)}


def forget_records(run: Statements, jobids: Sequence[int], kept: Collection[int] = ()) -> list[int]:
    """Delete the records of jobs that are deleted, but not of those that are kept.

    The successors of these jobs become jobs. Returns the members of batches, for ``batches.leave``.
    """
    first, last = min(jobids), max(jobids)
    if last - first < _NEAR and not run("any_records", first=first, last=last)[0][0]:
        return []
    found = run("with_records", jobids=jobids)
    promote(run, [jobid for jobid, kind in found if kind == _FOLLOWED])
    recorded = sorted(jobid for jobid, kind in found if kind == _RECORDED and jobid not in kept)
    if recorded:
        run("forget_failures", jobids=recorded)
        run("forget_reports", jobids=recorded)
    return sorted(jobid for jobid, kind in found if kind == _MEMBER)


# ---- setbacks


def settle(
    run: Statements,
    setbacks: Sequence[Setback],
    *,
    max_failures: int = MAX_FAILURES,
    locked: set[int] | None = None,
) -> list[Settled]:
    """Record setbacks and set the next states of their jobs; return the result of each, in order.

    A setback with an attempt applies only while that attempt holds the job.

    Args:
        run: runs the statements.
        setbacks: in any order.
        max_failures: number of failures after which a job is dead, if its function has no limit of its own.
        locked: gets the ids of rows that another transaction has locked; their result is ``locked``.

    """
    jobids = (setback.handle.jobid for setback in setbacks)
    skipped = skip_locked(run, jobids, locked, records=True)
    dead: list[int] = []
    settled = [
        Settled("locked") if setback.handle.jobid in skipped else _settle(run, setback, max_failures, dead)
        for setback in setbacks
    ]
    if dead:
        leave(run, (), dead=dead)
    return settled


def _settle(run: Statements, setback: Setback, max_failures: int, dead: list[int]) -> Settled:
    """Settle one setback. ``dead`` gets its job if that is a member of a batch and dead now."""
    jobid, _, fence = setback.handle
    rows = run("standing", jobids=[jobid])
    if not rows:
        return Settled("gone")
    _, attempt, number, failcount, crashes, limit, retry_text, is_followed, is_member, held = rows[0]
    state = State(number)
    if fence is not None and not (held and attempt == fence):
        return Settled("repeated" if run("recorded", jobid=jobid, attempt=fence) else "stale")
    if not state.known:
        return Settled("stale")
    if setback.kind == "failed" and setback.when is None and retry_text is not None:
        setback = _apply_policy(setback, failcount, retry_text)
    if held or setback.kind != "rescheduled" or setback.when == Never():  # its record has the time of death
        record_failure(run, setback, attempt)
    if setback.kind == "crashed":
        run("crash", jobid=jobid, attempt=attempt)
        if crashes + 1 < MAX_CRASHES:
            return Settled("applied", state, failcount)
    if setback.kind == "failed":
        failcount = min(failcount + 1, 255)
    when = _next_time(setback, failcount, limit or max_failures)
    unchanged = {"jobid": jobid, "attempt": attempt, "state": state}
    if setback.kind == "cancelled" and held:
        mark(run, jobid)
    if isinstance(when, Offset):
        run("put_back", **unchanged, failcount=failcount, delay=when.seconds)
    else:
        time = when.time if isinstance(when, At) else NEVER
        run("put_at", **unchanged, failcount=failcount, run_after=time)
    if when == Never():
        dead += _note_death(run, jobid, is_followed, is_member)
    delay = when.seconds if isinstance(when, Offset) else None
    return Settled("applied", State.DEAD if when == Never() else State.WAITING, failcount, delay)


def _note_death(run: Statements, jobid: int, is_followed: int, is_member: int) -> list[int]:
    """Turn the successor of a dead job into a job; return the job if it is a member of a batch."""
    if is_followed:
        promote_after_death(run, [jobid])
    return [jobid] if is_member else []


def _apply_policy(setback: Setback, failcount: int, retry_text: str) -> Setback:
    """Apply the retry policy of the function to a failure: return it with its delay, or as discarded."""
    policy = stored_retry(retry_text)
    if policy is None:
        return setback
    delay = policy.delay(error_names(setback), min(failcount + 1, 255))
    return replace(setback, kind="discarded") if delay is None else replace(setback, when=Offset(delay))


def _next_time(setback: Setback, failcount: int, max_failures: int) -> When:
    """Return when a job runs again after a setback that has been counted."""
    match setback.kind:
        case "discarded" | "parked" | "cancelled" | "crashed":
            return Never()
        case "failed" if failcount >= max_failures:
            return Never()
        case "failed" | "rescheduled":
            return setback.when or Offset(backoff(failcount))
        case _:
            assert_never(setback.kind)


# ---- other changes


def count_run(run: Statements, handle: Handle) -> int:
    """Count a start of a job that this attempt holds; return its number, from 1 on.

    Raises:
        ConflictError: the attempt does not hold the job any more.

    """
    jobid, _, attempt = handle
    rows = run("count_run", jobid=jobid, attempt=attempt)
    if not rows:
        job = f"{run.dbid}:{jobid}"
        raise ConflictError(f"job {job} is not attempt {attempt}'s any more: this start has no number")
    return int(rows[0][0])


def retry(run: Statements, jobid: int) -> bool:
    """Make a waiting or dead job due now, its failures forgiven; return whether it was waiting or dead."""
    rows = run("standing", jobids=[jobid])
    if not rows or rows[0][-1] or not State(rows[0][2]).known:
        return False
    run("retry", jobids=[jobid])
    return True
