"""The names of Django's tasks, and the class of tasks with rules.

Django has tasks from 6.0 on; for older versions there is the package django-tasks.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any, Final

import django

_PACKAGE: Final = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"
tasks: Any = import_module(_PACKAGE)
_base: Any = import_module(f"{_PACKAGE}.base")
_exceptions: Any = import_module(f"{_PACKAGE}.exceptions")
signals: Any = import_module(f"{_PACKAGE}.signals")

Task: Any = _base.Task
TaskContext: Any = _base.TaskContext
TaskError: Any = _base.TaskError
TaskResult: Any = _base.TaskResult
TaskResultStatus: Any = _base.TaskResultStatus
BaseTaskBackend: Any = import_module(f"{_PACKAGE}.backends.base").BaseTaskBackend
_Dummy: Any = import_module(f"{_PACKAGE}.backends.dummy").DummyBackend
_Immediate: Any = import_module(f"{_PACKAGE}.backends.immediate").ImmediateBackend
TaskResultDoesNotExist: Any = _exceptions.TaskResultDoesNotExist


@dataclass(frozen=True, slots=True, kw_only=True)
class GariviniTask(Task):
    """A task with rules: settings of its function, as for ``Worker.function``."""

    max_attempts: int | None = None
    backoff: Any = None
    backoff_for: Mapping[Any, Any] | None = None
    retry_on: Iterable[Any] | None = None
    discard_on: Iterable[Any] | None = None
    timeout: float | None = None
    lease: int | None = None
    max_running: int | None = None
    rate: str | None = None
    burst: int | None = None
    retention: int | None = None
    dead_retention: int | None = None


#: The names of the rules.
RULES: Final = tuple(
    field.name for field in fields(GariviniTask) if field.name not in {base.name for base in fields(Task)}
)


class ImmediateBackend(_Immediate):
    """Django's backend that runs tasks at once, for tasks with rules."""

    task_class: Any = GariviniTask


class DummyBackend(_Dummy):
    """Django's backend that stores tasks for tests, for tasks with rules."""

    task_class: Any = GariviniTask
