"""The backend of Django's tasks: each task is a job, inserted in Django's transaction."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from django.core import checks
from django.utils import timezone

from garivini.contrib.django import payloads
from garivini.contrib.django.application import app
from garivini.contrib.django.results import read_result
from garivini.contrib.django.task_types import (
    RULES,
    BaseTaskBackend,
    GariviniTask,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    signals,
    tasks,
)
from garivini.errors import GariviniError, UsageError
from garivini.model.handles import handle_of
from garivini.model.limits import Priority
from garivini.worker.functions import declared_policy

#: Seconds for which results are kept, unless a task or the option ``RETENTION`` says otherwise.
RETENTION: Final = 14 * 86400
#: Tasks by the alias of their backend and their path, with the queues that their code names.
_known: Final[dict[str, dict[str, Any]]] = defaultdict(dict)


class GariviniBackend(BaseTaskBackend):
    """Stores tasks as jobs. ``manage.py garivini_worker`` runs them.

    The options are ``RULES``, the settings of functions by the path of the task or ``*`` for all, and
    ``RETENTION``, the seconds for which results are kept: 14 days by default.

    Args:
        alias: of the backend in ``TASKS``.
        params: its settings.

    """

    task_class: Any = GariviniTask
    supports_defer: bool = True
    supports_async_task: bool = True
    supports_get_result: bool = True
    supports_priority: bool = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        if unknown := sorted(set(self.options) - {"RULES", "RETENTION"}):
            raise UsageError(
                f"TASKS[{alias!r}] has the options RULES and RETENTION, not {', '.join(unknown)}"
            )

    def validate_task(self, task: Any) -> None:
        """Check a task, and remember it for the checks and workers."""
        super().validate_task(task)
        _known[self.alias].setdefault(task.module_path, task)

    def known(self) -> Mapping[str, Any]:
        """Return the tasks of this backend that were imported, by their paths."""
        return _known[self.alias]

    def enqueue(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Insert a job, in the open transaction of Django's connection if there is one.

        Raises:
            TypeError: the function cannot be called with these arguments, or one is not a JSON value.
            GariviniError: as for ``Client.insert_job``.

        """
        self.validate_task(task)
        result = TaskResult(
            task=task,
            id="",
            status=TaskResultStatus.READY,
            enqueued_at=timezone.now(),
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=list(args),
            kwargs=dict(kwargs),
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        inserted = app.client.insert_job(
            funcname_of(task),
            payloads.encode(task, result.args, result.kwargs),
            run_after=_delay(task.run_after),
            priority=band(task.priority),
            headers={payloads.HEADER: {"args": len(args), "priority": task.priority}},
        )
        object.__setattr__(result, "id", inserted.id)
        signals.task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> Any:
        """Return the result of a task as its job is now.

        Raises:
            TaskResultDoesNotExist: there is no such job, it is not a task, or it is no longer kept.

        """
        try:
            handle = handle_of(result_id)
            found = read_result(self, app.django_client.reading(), handle.jobid) if handle.dbid == 1 else None
        except UsageError:
            found = None
        if found is None:
            raise TaskResultDoesNotExist(result_id)
        return found

    def rules_of(self, task: Any) -> dict[str, Any]:
        """Return the settings of a task's function: ``RULES`` of its path, its own, and ``RULES`` of ``*``.

        Raises:
            UsageError: there is no such setting, or a value is out of range.

        """
        given = self.options.get("RULES", {})
        own = {name: value for name in RULES if (value := getattr(task, name, None)) is not None}
        rules = {"retention": self.options.get("RETENTION", RETENTION)}
        rules |= {**given.get("*", {}), **own, **given.get(task.module_path, {})}
        if (attempts := rules.pop("max_attempts", None)) is not None:
            rules["max_failures"] = attempts
        declared_policy(**rules)
        return rules

    def check(self, **kwargs: Any) -> Iterable[checks.CheckMessage]:
        """Return the faults of the tasks that were imported."""
        yield from super().check(**kwargs)
        for path, task in self.known().items():
            try:
                self.rules_of(task)
            except (GariviniError, TypeError) as error:
                yield checks.Error(f"the rules of the task {path}: {error}", id="garivini.E002")
            if not payloads.is_by_name(payloads.signature_of(task)):
                yield checks.Warning(
                    f"the task {path} has *args or positional-only parameters, so that programs in other "
                    "languages cannot call it by the names of its parameters",
                    id="garivini.W001",
                )


def funcname_of(task: Any) -> str:
    """Return the function of a task's jobs: its path, with ``@queue`` unless that is the default queue."""
    if task.queue_name == tasks.DEFAULT_TASK_QUEUE_NAME:
        return str(task.module_path)
    return f"{task.module_path}@{task.queue_name}"


def band(priority: int) -> Priority:
    """Return the priority of a job: Django's numbers below 0 are low, and those above 0 are high."""
    return "normal" if priority == 0 else "high" if priority > 0 else "low"


def _delay(when: datetime | None) -> float | None:
    if when is None:
        return None
    now = datetime.now(UTC) if timezone.is_aware(when) else datetime.now()
    return max(0.0, (when - now).total_seconds())
