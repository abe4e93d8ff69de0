"""For Django: a backend of ``django.tasks``, an application over Django's own connections, and migrations.

* ``application`` has ``app``, whose inserts are part of Django's transaction. ``databases`` finds the
  database.
* ``backend`` has the backend of tasks. ``task_types`` has the class of tasks, and the names of the framework.
* ``payloads`` are the arguments of tasks as they are stored. ``results`` reads jobs as results of tasks.
* ``running`` runs tasks in a worker; ``job_connections`` looks after Django's connections around each job.
* ``migrations`` has a migration for each revision of the schema; ``revisions`` runs them.
* ``apps`` and ``checks``: Django's registration, and the system checks.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from garivini.contrib.django.application import app

__all__ = ["app"]


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from garivini.contrib.django.application import app  # slow to import, and not needed by ``migrate``

    return app
