"""Writes outcomes to one database: each kind of them in one transaction per batch."""

from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from garivini import events
from garivini.keeper.batch_writer import BatchWriter, Write
from garivini.keeper.database_clock import DatabaseClock
from garivini.keeper.execution import Execution, jobid_of
from garivini.keeper.functions import Functions
from garivini.keeper.leases import Failed
from garivini.keeper.recognition import Recognition
from garivini.keeper.setback_writer import SetbackWriter, emit_reduced
from garivini.model.outcome import KeptResult, Success
from garivini.outcome_events import emit_settled
from garivini.store.database import Database


class OutcomeWriter:
    """Writes batches of outcomes, and as much as possible of a single outcome that was refused.

    Args:
        database: where they go.
        writer: writes to it.
        recognition: decides which rows still belong to their jobs.
        setbacks: writes single setbacks to it.
        functions: whether the jobs of a function are kept after success.
        clock: when returned jobs are due.

    """

    def __init__(
        self,
        database: Database,
        writer: BatchWriter,
        recognition: Recognition,
        setbacks: SetbackWriter,
        functions: Functions,
        clock: DatabaseClock,
    ) -> None:
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
        if unrecognised := self._recognition.unrecognised(execution.job for execution in executions):
            executions = [it for it in executions if id(it.job) not in unrecognised]
        failed: Failed = []
        for write, part in self._kinds(executions):
            failed += self._writer.write(part, write, jobid_of)
        if unrecognised:
            self._recognition.report(len(unrecognised))
        return failed

    def write_reduced(self, execution: Execution, error: Exception) -> bool:
        """Write as much of a refused outcome as is possible; return whether that succeeded.

        ``error``: for which it was refused.

        Raises:
            GariviniError: one that concerns all writes.

        """
        try:
            if execution.setback is not None:
                self._setbacks.settle(execution.setback)
                return True
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
        policies = self._functions.policies or {}
        for execution in executions:
            if execution.setback is not None:
                setbacks.append(execution)
            elif execution.returned:
                # Without an attempt: a copy that was not adopted, and so holds no row to return.
                if execution.job.attempt is not None:
                    returned.append(execution)
            elif (
                policy := policies.get(execution.job.funcname)
            ) is not None and policy.retention is not None:
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
            )
            if part
        )

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
