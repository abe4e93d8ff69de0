"""Runs a job in a test, as a worker would: decoded, inside of the hooks, with the calls of ``Job``."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar, cast

from msgspec.structs import force_setattr

from garivini.app import JobFunction
from garivini.app.running import handler
from garivini.keeper.job_calls import JobCalls
from garivini.model.current import set_current_job
from garivini.model.job import Job
from garivini.model.outcome import KeptResult, Report, Success
from garivini.model.policy import MAX_FAILURES, FunctionPolicy
from garivini.store.database import Database
from garivini.worker.functions import Registered, check_result, setback_of
from garivini.worker.kept_results import keeping

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: How a run ended.
Outcome: TypeAlias = Literal["succeeded", "failed", "rescheduled", "discarded"]


def run_job(function: JobFunction[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Run a typed function once as a job, and return its result. Nothing is stored.

    The arguments are encoded and decoded, and the hooks run.

    Raises:
        UsageError: an argument does not fit.
        BaseException: the error of the function.

    """
    made = function.definition
    run = handler(made, *made.app.arounds)
    job = Job(1, 1, made.name, function.encode(*args, **kwargs), attempt=1)
    return cast(_R, call(run, job))


def call(function: Callable[[Job], Any], job: Job) -> Any:
    """Call a ``def``, or run an ``async def`` in an event loop of its own; return the result."""
    set_current_job(job)
    try:
        result = function(job)
        return _run_async(result) if inspect.iscoroutine(result) else result
    finally:
        set_current_job(None)


def _run_async(coroutine: Coroutine[Any, Any, _R]) -> _R:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    # This thread has a running loop, in which no other can run.
    done: Future[_R] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            done.set_result(context.run(asyncio.run, coroutine))
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="garivini-test").start()
    return done.result()


class Runs:
    """Runs claimed jobs of one database, and settles them.

    Args:
        database: has the jobs.
        entries: the functions by name.
        on_follow_ups: called with a job after its success, if it has follow-ups.

    """

    def __init__(
        self, database: Database, entries: dict[str, Registered], on_follow_ups: Callable[[Job], None]
    ) -> None:
        self._database = database
        self._entries = entries
        self._on_follow_ups = on_follow_ups
        policies = {name: entry.policy for name, entry in entries.items()}
        database.register_functions(policies)
        self._calls = _Calls(database, policies)

    def run(self, job: Job, *, raises: bool = False) -> Outcome:
        """Run a claimed job, and settle it. ``raises``: whether to raise an error of its function again."""
        entry = self._entries[job.funcname]
        kept = keeping(entry, _now) if entry.policy.retention else entry
        force_setattr(job, "calls", self._calls)
        try:
            result = call(kept.function, job)
            if not isinstance(result, KeptResult):
                check_result(result)
        except Exception as error:
            force_setattr(job, "calls", None)
            setback = setback_of(entry, job, error, "test")
            self._database.settle([setback], max_failures=entry.policy.max_failures or MAX_FAILURES)
            if raises:
                raise
            return cast(Outcome, setback.kind)
        force_setattr(job, "calls", None)
        success = Success(job.jobid, job.attempt, worker="test")
        if isinstance(result, KeptResult):
            retention = entry.policy.retention or 0
            success = success._replace(result=result.result, retention=retention, seconds=result.seconds)
        follow_ups = {job.jobid: job.follow_ups} if job.follow_ups else {}
        self._database.finish([success], follow_ups=follow_ups)
        if follow_ups:
            self._on_follow_ups(job)
        return "succeeded"


def _now() -> float:
    return 0.0


class _Reports:
    """Writes reports at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, report: Report) -> None:
        self._database.report([report])

    set_progress = add


class _Policies:
    def __init__(self, policies: dict[str, FunctionPolicy]) -> None:
        self.policies = policies


class _Calls(JobCalls):
    """The calls of functions about their jobs, without a keeper's thread."""

    def __init__(self, database: Database, policies: dict[str, FunctionPolicy]) -> None:
        super().__init__(
            database,
            (),
            cast(Any, _Policies(policies)),
            cast(Any, _Reports(database)),
        )
