"""Jobs, waiting, running, dead or kept, as results of tasks."""

import builtins
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from django.conf import settings
from django.utils.module_loading import import_string

from garivini.contrib.django import payloads
from garivini.contrib.django.task_types import Task, TaskError, TaskResult, TaskResultStatus
from garivini.errors import UsageError
from garivini.model.job import Job
from garivini.model.records import FailedAttempt, KeptJob
from garivini.model.state import State
from garivini.store.database import Database

#: The key that marks a kept result as one of a task. Beside it are the arguments, which a kept job has not.
MARK: Final = "django_task"
_RUNNING: Final = (State.RUNNING, State.SUSPECT)


def time_of(seconds: float | None) -> datetime | None:
    """Return a unix time as Django writes times."""
    if not seconds:
        return None
    found = datetime.fromtimestamp(seconds, UTC)
    return found if settings.USE_TZ else found.astimezone().replace(tzinfo=None)


def task_of(backend: Any, funcname: str, priority: int = 0) -> Any:
    """Return the task of a function.

    Raises:
        UsageError: there is none of this name.

    """
    path, _, queue = funcname.partition("@")
    try:
        found = import_string(path)
    except ImportError:
        found = None
    if not isinstance(found, Task):
        raise UsageError(f"{path} is not a task")
    return found.using(backend=backend.alias, priority=priority, queue_name=queue or "default")


def envelope(result: Any, value: Any) -> dict[str, Any]:
    """Return what is kept of a task that succeeded."""
    about = {
        "args": result.args,
        "kwargs": result.kwargs,
        "priority": result.task.priority,
        "started": result.started_at.timestamp(),
    }
    return {MARK: about, "value": value}


def from_job(backend: Any, job: Job, failures: list[FailedAttempt], status: Any, task: Any = None) -> Any:
    """Return the result of a task whose job has not succeeded.

    Args:
        backend: of the task.
        job: its job.
        failures: of the job.
        status: the result's.
        task: None: that of the job's function.

    Raises:
        UsageError: the job is not one of a task.

    """
    header = job.headers.get(payloads.HEADER)
    about: Mapping[str, Any] = header if isinstance(header, dict) else {}
    if task is None:
        task = task_of(backend, job.funcname, about.get("priority", 0))
    args, kwargs = payloads.decode(task, job.arg, about.get("args", 0))
    counted = [failed for failed in failures if failed.kind != "rescheduled"]
    last = counted[-1].failed_at if counted else None
    since = job.since if job.state in _RUNNING else None
    return TaskResult(
        task=task,
        id=job.id,
        status=status,
        enqueued_at=time_of(job.created),
        started_at=time_of(since or last),
        last_attempted_at=time_of(since or last),
        finished_at=time_of(last) if status == TaskResultStatus.FAILED else None,
        args=args,
        kwargs=kwargs,
        backend=backend.alias,
        errors=[error_of(failed) for failed in counted],
        worker_ids=[failed.worker for failed in counted],
    )


def error_of(failed: FailedAttempt) -> Any:
    """Return a failure of a job as the error of a task."""
    name = failed.error
    if "." not in name:
        known = {"TimeLimit": "builtins.TimeoutError", "Discard": "garivini.worker.Discard"}
        name = known.get(name, f"builtins.{name}" if hasattr(builtins, name) else "garivini.errors.JobDead")
    return TaskError(exception_class_path=name, traceback=failed.trace or failed.message)


def read_result(backend: Any, database: Database, jobid: int) -> Any:
    """Return the result of a task; None: there is no such job.

    Raises:
        UsageError: the job is not one of a task.

    """
    job = database.get(jobid)
    if job is not None:
        status = TaskResultStatus.READY
        if job.state is State.DEAD:
            status = TaskResultStatus.FAILED
        elif job.state in _RUNNING:
            status = TaskResultStatus.RUNNING
        return from_job(backend, job, database.failures(jobid), status)
    kept = database.finished(jobid)
    return None if kept is None else _from_kept(backend, kept, database)


def _from_kept(backend: Any, kept: KeptJob, database: Database) -> Any:
    try:
        value = json.loads(kept.result or b"null")
    except ValueError:
        value = (kept.result or b"").decode("utf-8", "replace")  # of a worker in another language
    about: Mapping[str, Any] = {}
    if isinstance(value, dict) and isinstance(value.get(MARK), dict):
        about, value = value[MARK], value["value"]
    failures = [failed for failed in database.failures(kept.jobid) if failed.kind != "rescheduled"]
    started = time_of(about.get("started", kept.finished_at - (kept.seconds or 0)))
    result = TaskResult(
        task=task_of(backend, kept.funcname, about.get("priority", 0)),
        id=f"{database.dbid}:{kept.jobid}",
        status=TaskResultStatus.SUCCESSFUL,
        enqueued_at=time_of(kept.created),
        started_at=started,
        last_attempted_at=started,
        finished_at=time_of(kept.finished_at),
        args=about.get("args", []),
        kwargs=about.get("kwargs", {}),
        backend=backend.alias,
        errors=[error_of(failed) for failed in failures],
        worker_ids=[*(failed.worker for failed in failures), kept.worker],
    )
    object.__setattr__(result, "_return_value", value)
    return result
