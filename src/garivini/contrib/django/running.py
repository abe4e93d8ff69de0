"""Runs tasks in a worker: the function, between the signals of Django's tasks."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from inspect import iscoroutinefunction
from typing import Any

from asgiref.sync import sync_to_async
from django.utils import timezone
from django.utils.module_loading import autodiscover_modules

from garivini.contrib.django.application import app
from garivini.contrib.django.backend import GariviniBackend, funcname_of
from garivini.contrib.django.job_connections import around_async_job, around_job
from garivini.contrib.django.results import envelope, error_of, from_job
from garivini.contrib.django.task_types import TaskContext, TaskResultStatus, signals, tasks
from garivini.errors import UsageError
from garivini.model.job import Job
from garivini.model.records import FailedAttempt
from garivini.model.retry import error_names, stored_retry
from garivini.worker import Worker
from garivini.worker.functions import Discard, Registered, Retry, setback_of

#: Failures after which a job is dead, unless its function has another number.
_MAX_FAILURES = 25


def worker_of(queues: Iterable[str] = ()) -> Worker:
    """Return a worker for the tasks of the modules ``tasks``, and for the typed functions of ``app``.

    Args:
        queues: of which it runs tasks; by default, all queues of the backends, without functions of others.

    Raises:
        UsageError: no backend has such a queue, or there is no function.

    """
    autodiscover_modules("tasks", "jobs")
    chosen = set(queues)
    worker = app.worker() if not chosen or tasks.DEFAULT_TASK_QUEUE_NAME in chosen else Worker(app.client)
    for backend in tasks.task_backends.all():
        if not isinstance(backend, GariviniBackend):
            continue
        for task in backend.known().values():
            named = chosen & backend.queues if backend.queues else chosen
            if not chosen:
                named = backend.queues or {task.queue_name}
            for queue in sorted(named):
                register(worker, backend, task.using(queue_name=queue))
    if not worker.functions:
        raise UsageError("there is no task for these queues: name queues of TASKS, and use its backend")
    return worker


def register(worker: Worker, backend: GariviniBackend, task: Any) -> None:
    """Register a task of one queue."""
    funcname = funcname_of(task)
    entry: list[Registered] = []
    running = Running(backend, task, entry)
    call: Callable[[Job], Any] = running.call_async if iscoroutinefunction(task.func) else running.call
    worker.function(funcname, **backend.rules_of(task))(call)
    entry.append(replace(worker.functions[funcname], names_module=True))
    worker.functions[funcname] = entry[0]


class Running:
    """Runs the jobs of one task.

    Args:
        backend: of the task.
        task: the task, with its queue.
        entry: its entry in the worker, once it is registered.

    """

    def __init__(self, backend: GariviniBackend, task: Any, entry: list[Registered]) -> None:
        self._backend = backend
        self._task = task
        self._entry = entry
        self._name = type(backend).__name__

    def call(self, job: Job) -> Any:
        """Run a job of a ``def``."""
        with around_job(), self._signals(job) as result:
            value = self._task.func(*self._arguments(result), **result.kwargs)
        return envelope(result, value)

    async def call_async(self, job: Job) -> Any:
        """Run a job of an ``async def``."""
        async with around_async_job(), self._async_signals(job) as result:
            value = await self._task.func(*self._arguments(result), **result.kwargs)
        return envelope(result, value)

    def _arguments(self, result: Any) -> list[Any]:
        context = [TaskContext(task_result=result)] if self._task.takes_context else []
        return [*context, *result.args]

    @contextmanager
    def _signals(self, job: Job) -> Iterator[Any]:
        result = self._started(job)
        signals.task_started.send(type(self._backend), task_result=result)
        try:
            yield result
        except BaseException as error:
            if self._failed(job, result, error):
                signals.task_finished.send(type(self._backend), task_result=result)
            raise
        self._succeeded(result)
        signals.task_finished.send(type(self._backend), task_result=result)

    @asynccontextmanager
    async def _async_signals(self, job: Job) -> AsyncIterator[Any]:
        result = await sync_to_async(self._started)(job)
        await signals.task_started.asend(type(self._backend), task_result=result)
        try:
            yield result
        except BaseException as error:
            if self._failed(job, result, error):
                await signals.task_finished.asend(type(self._backend), task_result=result)
            raise
        self._succeeded(result)
        await signals.task_finished.asend(type(self._backend), task_result=result)

    def _started(self, job: Job) -> Any:
        failures: list[FailedAttempt] = []
        if job.attempt is None or job.attempt > 1:
            failures = app.django_client.reading().failures(job.jobid)
        header = job.headers.get("django")
        priority = header.get("priority", 0) if isinstance(header, dict) else 0
        task = self._task.using(priority=priority)
        try:
            result = from_job(self._backend, job, failures, TaskResultStatus.RUNNING, task)
        except UsageError as error:
            raise Discard(str(error)) from None
        now = timezone.now()
        object.__setattr__(result, "started_at", result.started_at or now)
        object.__setattr__(result, "last_attempted_at", now)
        result.worker_ids.append(self._name)
        return result

    def _succeeded(self, result: Any) -> None:
        object.__setattr__(result, "finished_at", timezone.now())
        object.__setattr__(result, "status", TaskResultStatus.SUCCESSFUL)

    def _failed(self, job: Job, result: Any, error: BaseException) -> bool:
        """Note a failure; return whether the task does not run again by the settings of its code."""
        if isinstance(error, Retry):
            return False
        entry = self._entry[0]
        setback = setback_of(entry, job, error, self._name)
        policy = None if entry.policy.retry is None else stored_retry(entry.policy.retry)
        dead = (
            isinstance(error, Discard)
            or job.failcount + 1 >= (entry.policy.max_failures or _MAX_FAILURES)
            or (policy is not None and policy.delay(error_names(setback), job.failcount + 1) is None)
        )
        if dead:
            now = timezone.now()
            failed = FailedAttempt(
                *(job.attempt or 0, 0, "failed", setback.error, setback.message, setback.trace, self._name)
            )
            object.__setattr__(result, "finished_at", now)
            object.__setattr__(result, "status", TaskResultStatus.FAILED)
            result.errors.append(error_of(failed))
        return dead
