"""Writes outcomes to one database. Each kind of outcome in a batch has transactions of its own."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Final

from msgspec.structs import replace

from garivini import events
from garivini.errors import RefusedError
from garivini.keeper.batch_writer import BatchWriter, Write
from garivini.keeper.database_clock import DatabaseClock
from garivini.keeper.execution import Execution, jobid_of
from garivini.keeper.functions import Functions
from garivini.keeper.leases import Failed
from garivini.keeper.recognition import Recognition
from garivini.keeper.setback_writer import SetbackWriter, emit_reduced
from garivini.model.outcome import KeptResult, Setback, Success, failure
from garivini.model.pacing import BATCH_BYTES
from garivini.model.when import Offset
from garivini.outcome_events import emit_settled
from garivini.store.chunks import CHUNK
from garivini.store.database import Database

#: Seconds until the next attempt at a job whose follow-ups cannot be stored in a database that is drained.
_DRAINING: Final = 10


class OutcomeWriter:
    """Writes batches of outcomes, and as much as possible of a single outcome that was refused.

    Args:
        database: stores them.
        writer: writes to it.
        recognition: decides which rows still belong to their jobs.
        setbacks: writes single setbacks to it.
        functions: knows whether the jobs of a function are kept after success.
        clock: knows when returned jobs are due.
        on_inserted: called after follow-ups were inserted.

    """

    def __init__(
        self,
        database: Database,
        writer: BatchWriter,
        recognition: Recognition,
        setbacks: SetbackWriter,
        functions: Functions,
        clock: DatabaseClock,
        on_inserted: Callable[[], None],
    ) -> None:
        self._on_inserted = on_inserted
        self._database = database
        self._writer = writer
        self._recognition = recognition
        self._setbacks = setbacks
        self._functions = functions
        self._clock = clock

    def write(self, executions: list[Execution]) -> Failed:
        """Write outcomes; return the executions that failed, each with the reason.

        Outcomes whose rows are not recognised are left out, and reported.

        Raises:
            GariviniError: one that concerns all writes; some of the outcomes may have been written.

        """
        if unrecognised := self._recognition.unrecognised([execution.job for execution in executions]):
            executions = [it for it in executions if id(it.job) not in unrecognised]
        failed: Failed = []
        for write, part in self._kinds(executions):
            failed += self._writer.write(part, write, jobid_of)
        if unrecognised:
            self._recognition.report(len(unrecognised))
        return failed

    def write_reduced(self, execution: Execution, error: Exception) -> bool:
        """Write as much of a refused outcome as is possible; return whether that succeeded.

        ``error``: the reason why the outcome was refused.

        Raises:
            GariviniError: one that concerns all writes.

        """
        try:
            if execution.setback is not None:
                self._setbacks.settle(execution.setback)
                return True
            if execution.follows:
                return self._fail_follow_ups(execution, error)
            if not execution.returned and self._success(execution) is not None:
                self._database.complete([execution.job.jobid], locked=(locked := set[int]()))
                if not locked:
                    emit_reduced(execution.job.handle, error)
                return not locked
        except Exception as second:
            if self._writer.concerns_all(second):
                raise
        return False

    def _kinds(self, executions: list[Execution]) -> Iterator[tuple[Write[Execution], list[Execution]]]:
        done, kept, returned, setbacks = [], [], [], []
        following: list[Execution] = []
        completed: list[Execution] = []
        policies = self._functions.policies or {}
        for execution in executions:
            if execution.setback is not None:
                setbacks.append(execution)
            elif execution.returned:
                # A copy without an attempt was not adopted, so there is no row to return.
                if execution.job.attempt is not None:
                    returned.append(execution)
            elif (job := execution.job).follow_ups or job.completed:
                (completed if job.completed else following).append(execution)
            elif (policy := policies.get(job.funcname)) is not None and policy.retention is not None:
                kept.append(execution)
            else:
                done.append(execution)
        yield from (
            (write, part)
            for write, part in (
                (self._keep, kept),
                (self._complete, done),
                (self._return, returned),
                (self._settle, setbacks),
                (self._check_completed, completed),
            )
            if part
        )
        yield from ((self._follow, part) for part in _short_parts(following))

    def _complete(self, executions: list[Execution], locked: set[int] | None) -> None:
        jobids = {execution.job.jobid for execution in executions}
        existed = self._database.complete(jobids, **_leaving_out(locked))
        self._emit_missing(jobids - existed, locked)

    def _keep(self, executions: list[Execution], locked: set[int] | None) -> None:
        kept = {
            execution.job.jobid: success
            for execution in executions
            if (success := self._success(execution)) is not None
        }
        existed = self._database.finish(list(kept.values()), **_leaving_out(locked))
        self._emit_missing(kept.keys() - existed, locked)

    def _follow(self, executions: list[Execution], locked: set[int] | None) -> None:
        """Complete jobs, and insert the follow-ups of those that existed, in one transaction."""
        ends = {it.job.jobid: self._success(it) or Success(it.job.jobid, it.job.attempt) for it in executions}
        follow_ups = {it.job.jobid: it.job.follow_ups for it in executions}
        existed = self._database.finish(list(ends.values()), follow_ups=follow_ups, **_leaving_out(locked))
        self._emit_missing(ends.keys() - existed, locked)
        if any(not new.delay for jobid in existed for new in follow_ups[jobid]):
            self._on_inserted()

    def _check_completed(self, executions: list[Execution], locked: set[int] | None) -> None:
        """Let the attempts fail that have completed their jobs in a transaction which was rolled back."""
        present = self._database.present([it.job.jobid for it in executions])
        left = [it for it in executions if it.job.jobid in present]
        setbacks = [_rolled_back(it) for it in left]
        # If a row is gone only now, its transaction was still open when the function returned.
        results = self._database.settle(setbacks, **_leaving_out(locked)) if setbacks else []
        for execution, setback, settled in zip(left, setbacks, results, strict=True):
            if settled.result not in ("gone", "locked"):
                execution.setback = setback
                emit_settled(setback, settled)

    def _fail_follow_ups(self, execution: Execution, error: Exception) -> bool:
        """Let an attempt fail whose follow-ups the database refuses, so that no follow-up is lost.

        While the database is being drained, the job is rescheduled instead, because the drain will move it to
        another database.
        """
        setback = failure(execution.job.handle, f"a follow-up was refused: {error}", execution.worker)
        setback = dataclasses.replace(setback, error="FollowUp")
        if isinstance(error, RefusedError) and error.draining:
            setback = dataclasses.replace(setback, kind="rescheduled", when=Offset(_DRAINING))
        execution.setback = setback
        self._setbacks.settle(setback)
        return True

    def _emit_missing(self, jobids: set[int], locked: set[int] | None) -> None:
        for jobid in jobids - (locked or set()):
            events.emit("job.completed_before", jobid=jobid, dbid=self._database.dbid)

    def _return(self, executions: list[Execution], locked: set[int] | None) -> None:
        jobs = [replace(it.job, run_after=self._clock.due_of(it.job)) for it in executions]
        self._database.mark_leased([job.handle for job in jobs], **_leaving_out(locked))
        before = set(locked or ())
        self._database.release([job for job in jobs if job.jobid not in before], **_leaving_out(locked))
        if locked is not None:
            locked |= before
        if written := len(jobs) - len(locked or ()):
            events.emit("jobs.returned", dbid=self._database.dbid, jobs=written)

    def _settle(self, executions: list[Execution], locked: set[int] | None) -> None:
        setbacks = [execution.setback for execution in executions if execution.setback is not None]
        results = self._database.settle(setbacks, **_leaving_out(locked))
        for setback, settled in zip(setbacks, results, strict=True):
            if settled.result != "locked":
                emit_settled(setback, settled)

    def _success(self, execution: Execution) -> Success | None:
        """Return the success of a job that is to be kept, with its retention; None if the job is not kept."""
        job = execution.job
        policy = self._functions.policies.get(job.funcname) if self._functions.policies else None
        if policy is None or policy.retention is None:
            return None
        found = execution.result
        result, seconds, warning = found if isinstance(found, KeptResult) else (found, None, "")
        return Success(job.jobid, job.attempt, result, execution.worker, policy.retention, seconds, warning)


def _leaving_out(locked: set[int] | None) -> dict[str, Any]:
    return {} if locked is None else {"locked": locked}


def _rolled_back(execution: Execution) -> Setback:
    message = "its function called job.complete and returned, but the transaction was rolled back"
    handle = execution.job.handle
    return Setback(handle=handle, kind="failed", error="RolledBack", message=message, worker=execution.worker)


def _short_parts(executions: list[Execution]) -> Iterator[list[Execution]]:
    """Yield executions in parts whose follow-ups fit one short transaction."""
    part: list[Execution] = []
    count = size = 0
    for execution in executions:
        follow_ups = execution.job.follow_ups
        more = sum(len(new.arg) for new in follow_ups)
        if part and (count + len(follow_ups) > CHUNK or size + more > BATCH_BYTES):
            yield part
            part, count, size = [], 0, 0
        part.append(execution)
        count += len(follow_ups)
        size += more
    if part:
        yield part
