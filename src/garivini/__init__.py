"""Durable jobs for Gearman: a job is a row in a SQL database, and Gearman delivers it to a worker.

This list shows the parts, the lowest layer first. No part imports a part that comes after it in the list. The
docstring of each part lists its modules. ``docs/explanation/source.md`` names the file to open for a symptom.

* ``errors``, ``backoff``, ``clock``, ``events``: used by all others.
* ``model``: a job, its values, and the decisions about it. No I/O, no clock.
* ``databases``, ``settings``: the URLs of databases; the environment and ``garivini.toml``.
* ``gearman``: the protocol, clients, workers and an embedded server.
* ``store``: reads and writes the rows of jobs, in one database or in several.
* ``submission``: how jobs are submitted. ``outcome_events``: emits the events of deliveries and setbacks.
* ``client``: ``Client``, ``AsyncClient`` and direct dispatch.
* ``keeper``: renews leases, checks copies before they start, and commits outcomes.
* ``worker``: ``Worker``, its functions, the copies that it holds, and ``supervisor``, which restarts and
  kills its processes. ``roles``: QueueRunner, Controller, Injector.
* ``app``: ``Garivini``, the typed functions of an application, built on ``Client`` and ``Worker``.
* ``testing``: tests of applications, with a queue in memory; not used by the other parts.
* ``cli``: the command ``garivini``. ``contrib``: parts for Django, which need Django.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from garivini.app import Garivini, JobFunction, Ref
    from garivini.client import Client
    from garivini.client.aio import AsyncClient
    from garivini.client.batches import AsyncBatch, Batch
    from garivini.databases import DatabasesLike
    from garivini.errors import (
        ConflictError,
        DuplicateJobError,
        GariviniError,
        JobCancelled,
        JobDead,
        JobFailed,
        JobLost,
        OutcomeUnknownError,
        ProtocolError,
        RefusedError,
        ResultNotKept,
        SchemaError,
        UnreachableError,
        UsageError,
    )
    from garivini.model.batch import BatchStatus
    from garivini.model.current import JobFilter, current_job
    from garivini.model.handles import HandleLike
    from garivini.model.inserted import Inserted
    from garivini.model.job import Handle, Job
    from garivini.model.job_query import BulkProgress, JobQuery
    from garivini.model.limits import Flag, Priority
    from garivini.model.new_jobs import JobLike
    from garivini.model.records import FailedAttempt, KeptJob, Reported
    from garivini.model.retry import BackoffCurve
    from garivini.model.schedule import StoredSchedule
    from garivini.model.state import State
    from garivini.model.unique import Unique
    from garivini.store.callers import AsyncJoinable, Joinable
    from garivini.worker import Discard, Retry, Worker

__version__ = "0.1.0"

# A name is imported when it is first used. Importing SQLAlchemy takes a quarter of a second, and neither
# `garivini --help` nor a web application that never inserts a job should wait for that import.
_MODULES: Final = {
    "AsyncClient": "client.aio",
    "AsyncBatch": "client.batches",
    "AsyncJoinable": "store.callers",
    "BackoffCurve": "model.retry",
    "Batch": "client.batches",
    "BatchStatus": "model.batch",
    "BulkProgress": "model.job_query",
    "Client": "client",
    "ConflictError": "errors",
    "DatabasesLike": "databases",
    "Discard": "worker",
    "DuplicateJobError": "errors",
    "FailedAttempt": "model.records",
    "Flag": "model.limits",
    "Garivini": "app",
    "GariviniError": "errors",
    "Handle": "model.job",
    "HandleLike": "model.handles",
    "Inserted": "model.inserted",
    "Job": "model.job",
    "JobCancelled": "errors",
    "JobDead": "errors",
    "JobFailed": "errors",
    "JobFilter": "model.current",
    "JobFunction": "app",
    "JobLike": "model.new_jobs",
    "JobLost": "errors",
    "JobQuery": "model.job_query",
    "Joinable": "store.callers",
    "KeptJob": "model.records",
    "OutcomeUnknownError": "errors",
    "Priority": "model.limits",
    "ProtocolError": "errors",
    "Ref": "app",
    "RefusedError": "errors",
    "Reported": "model.records",
    "ResultNotKept": "errors",
    "Retry": "worker",
    "SchemaError": "errors",
    "State": "model.state",
    "StoredSchedule": "model.schedule",
    "Unique": "model.unique",
    "UnreachableError": "errors",
    "UsageError": "errors",
    "Worker": "worker",
    "current_job": "model.current",
}

__all__ = [  # noqa: RUF022  # the order of the documentation
    "Garivini",
    "JobFunction",
    "Ref",
    "Client",
    "AsyncClient",
    "Worker",
    "Retry",
    "Discard",
    "BackoffCurve",
    "Job",
    "State",
    "Handle",
    "Inserted",
    "Unique",
    "Batch",
    "AsyncBatch",
    "BatchStatus",
    "FailedAttempt",
    "Reported",
    "KeptJob",
    "JobQuery",
    "BulkProgress",
    "StoredSchedule",
    "current_job",
    "JobFilter",
    "DatabasesLike",
    "JobLike",
    "HandleLike",
    "Joinable",
    "AsyncJoinable",
    "Flag",
    "Priority",
    "GariviniError",
    "UsageError",
    "ResultNotKept",
    "SchemaError",
    "UnreachableError",
    "RefusedError",
    "DuplicateJobError",
    "ConflictError",
    "OutcomeUnknownError",
    "JobLost",
    "JobDead",
    "JobFailed",
    "JobCancelled",
    "ProtocolError",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'garivini' has no attribute {name!r}")
    value = getattr(import_module(f"garivini.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
