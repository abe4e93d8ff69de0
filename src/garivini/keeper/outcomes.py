"""Commits the outcomes of jobs to one database in groups, and defers those that cannot be written.

A group is committed in one transaction. Locked or refused outcomes are deferred and retried separately, so
that they do not delay the others. An error text that a database refuses is stored in ASCII, or left out.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from msgspec.structs import replace as replaced

from garivini import events
from garivini.errors import ConflictError
from garivini.keeper.execution import Execution, jobid_of
from garivini.keeper.inbox import Inbox
from garivini.keeper.writer import Writer, is_unfit
from garivini.model.job import Handle, Job
from garivini.model.outcome import Setback, Success
from garivini.model.policy import FunctionPolicy
from garivini.outcome_events import emit_settled
from garivini.store.database import Database

#: Maximum outcomes in one commit.
GROUP: Final = 1000
#: Tries after which an outcome that does not fit the database is given up.
_TRIES: Final = 10


class Outcomes:
    """Runs that have ended, until their outcomes are committed.

    Args:
        database: where they go.
        writer: writes to it.
        due_of: returns when a job that goes back is due, as a unix time.

    """

    def __init__(self, database: Database, writer: Writer, due_of: Callable[[Job], int]) -> None:
        self._database = database
        self._writer = writer
        self._due_of = due_of
        #: Runs that have ended, and deferred ones.
        self.inbox: Inbox[Execution] = Inbox()
        #: Settings of functions that decide whether a finished job is kept.
        self.policies: Mapping[str, FunctionPolicy] | None = None
        #: Whether some were refused and deferred.
        self.refused: bool = False

    def commit(self, runs: list[Execution]) -> list[Execution]:
        """Write outcomes; return the runs that are over.

        The rest is deferred.

        Raises:
            GariviniError: one that concerns all; the runs are in the inbox again.

        """
        failed: list[tuple[Execution, Exception]] = []
        try:
            for write, part in self._kinds(runs):
                failed += self._writer.write(part, write, jobid_of)
            rest = {id(run): error for run, error in failed}
            given_up = self._put_aside([run for run in runs if id(run) in rest], rest) if failed else set()
        except Exception:
            self.inbox.put_back(runs)
            raise
        ended = [run for run in runs if id(run) not in rest or id(run) in given_up] if failed else runs
        self.inbox.forget(ended)
        self.refused = self.refused and self.inbox.aside > 0
        return ended

    def settle(self, setback: Setback) -> bool:
        """Record one setback, with as much of its text as fits; return whether it is over.

        Raises:
            GariviniError: it could not be recorded now.

        """
        left: set[int] = set()
        last: Exception = ConflictError("another transaction has locked its row")
        for variant in (setback, *_variants(setback)):
            try:
                (settled,) = self._database.settle([variant], locked=left)
            except Exception as error:
                if self._writer.concerns_all(error) or isinstance(error, ConflictError):
                    raise
                last = error
                continue
            if left:
                break
            if variant is not setback:
                _emit_reduced(setback.handle, last)
            emit_settled(variant, settled)
            return True
        raise last

    # ---- the kinds of outcomes

    def _kinds(
        self, runs: list[Execution]
    ) -> Iterator[tuple[Callable[[list[Execution], set[int] | None], None], list[Execution]]]:
        done, kept, returned, setbacks = [], [], [], []
        policies = self.policies or {}
        for run in runs:
            if run.setback is not None:
                setbacks.append(run)
            elif run.returned:
                # Nobody holds a copy of the original's QueueRunner that was not adopted.
                if run.job.attempt is not None:
                    returned.append(run)
            elif (policy := policies.get(run.job.funcname)) is not None and policy.retention is not None:
                kept.append(run)
            else:
                done.append(run)
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

    def _complete(self, runs: list[Execution], left: set[int] | None) -> None:
        jobids = {run.job.jobid for run in runs}
        gone = self._database.complete(jobids, **_leaving(left))
        self._note_missing(jobids - gone, left)

    def _keep(self, runs: list[Execution], left: set[int] | None) -> None:
        kept = {run.job.jobid: finish for run in runs if (finish := self._finish(run)) is not None}
        gone = self._database.finish(list(kept.values()), **_leaving(left))
        self._note_missing(kept.keys() - gone, left)

    def _note_missing(self, jobids: set[int], left: set[int] | None) -> None:
        for jobid in jobids - (left or set()):
            events.emit("job.completed_before", jobid=jobid, dbid=self._database.dbid)

    def _return(self, runs: list[Execution], left: set[int] | None) -> None:
        jobs = [replaced(run.job, run_after=self._due_of(run.job)) for run in runs]
        self._database.mark_leased([job.handle for job in jobs], **_leaving(left))
        locked = set(left or ())
        self._database.release([job for job in jobs if job.jobid not in locked], **_leaving(left))
        if left is not None:
            left |= locked
        if written := len(jobs) - len(left or ()):
            events.emit("jobs.returned", dbid=self._database.dbid, jobs=written)

    def _settle(self, runs: list[Execution], left: set[int] | None) -> None:
        setbacks = [run.setback for run in runs if run.setback is not None]
        for setback, settled in zip(setbacks, self._database.settle(setbacks, **_leaving(left)), strict=True):
            if settled.result != "locked":
                emit_settled(setback, settled)

    def _finish(self, run: Execution) -> Success | None:
        """Return how a job that succeeded is kept, or None."""
        policy = self.policies.get(run.job.funcname) if self.policies else None
        if policy is None or policy.retention is None:
            return None
        return Success(run.job.jobid, run.job.attempt, run.result, run.worker, policy.retention)

    # ---- what could not be written

    def _put_aside(self, runs: Sequence[Execution], errors: Mapping[int, Exception]) -> set[int]:
        """Defer runs; return the identities of those that are over anyway."""
        over = set()
        first_time: list[Exception] = []
        for run in runs:
            error = errors[id(run)]
            if not isinstance(error, ConflictError) and self._reduce(run, error):
                over.add(id(run))
                continue
            tries = self.inbox.tries(run)
            if tries >= _TRIES and is_unfit(error):
                emit_dropped(run.job.handle, error)
                over.add(id(run))
                continue
            self.inbox.put_aside(run, error, time.monotonic())
            if not isinstance(error, ConflictError):
                self.refused = True
            if not tries:
                first_time.append(error)
        if first_time:
            events.emit(
                "outcomes.put_aside",
                dbid=self._database.dbid,
                outcomes=len(first_time),
                error=str(first_time[0]),
            )
        return over

    def _reduce(self, run: Execution, error: Exception) -> bool:
        """Write as much of an outcome as fits; return whether that succeeded."""
        try:
            if run.setback is not None:
                return self.settle(run.setback)
            if not run.returned and self._finish(run) is not None:
                self._database.complete([run.job.jobid], locked=(left := set[int]()))
                if not left:
                    _emit_reduced(run.job.handle, error)
                return not left
        except Exception as again:
            if self._writer.concerns_all(again):
                raise
        return False


def emit_dropped(handle: Handle, error: Exception) -> None:
    """Report that an outcome is given up."""
    jobid, dbid, attempt = handle
    events.emit("outcome.dropped", dbid=dbid, jobid=jobid, attempt=attempt, error=str(error))


def _emit_reduced(handle: Handle, error: Exception) -> None:
    jobid, dbid, attempt = handle
    events.emit("outcome.reduced", dbid=dbid, jobid=jobid, attempt=attempt, error=str(error))


def _leaving(left: set[int] | None) -> dict[str, Any]:
    return {} if left is None else {"locked": left}


def _variants(setback: Setback) -> Iterator[Setback]:
    """Yield a setback with less and less text."""
    yield replace(
        setback,
        error=_ascii(setback.error),
        message=_ascii(setback.message),
        trace=_ascii(setback.trace),
        worker=_ascii(setback.worker),
    )
    bare = replace(setback, error="", message="", trace="", worker="")
    yield bare
    if setback.when is not None:
        yield replace(bare, when=None)


def _ascii(text: object) -> str:
    return str(text).encode("ascii", "backslashreplace").decode()
