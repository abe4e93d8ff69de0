"""Durable jobs for Gearman: a job is a row in a SQL database, Gearman carries it to a worker."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from garivini.client import Client
    from garivini.client.aio import AsyncClient
    from garivini.errors import (
        ConflictError,
        GariviniError,
        OutcomeUnknownError,
        ProtocolError,
        RefusedError,
        SchemaError,
        UnreachableError,
        UsageError,
    )
    from garivini.model.current import JobFilter, current_job
    from garivini.model.job import Handle, Inserted, Job, State
    from garivini.worker import Discard, Retry, Worker

__version__ = "0.1.0"

# Names are looked up when they are first used: importing SQLAlchemy takes a quarter of a second, which
# `garivini --help` and a web application that only might insert a job need not pay.
_HOMES: Final = {
    "AsyncClient": "client.aio",
    "Client": "client",
    "ConflictError": "errors",
    "Discard": "worker",
    "GariviniError": "errors",
    "Handle": "model.job",
    "Inserted": "model.job",
    "Job": "model.job",
    "JobFilter": "model.current",
    "OutcomeUnknownError": "errors",
    "ProtocolError": "errors",
    "RefusedError": "errors",
    "Retry": "worker",
    "SchemaError": "errors",
    "State": "model.job",
    "UnreachableError": "errors",
    "UsageError": "errors",
    "Worker": "worker",
    "current_job": "model.current",
}

__all__ = [  # noqa: RUF022  # the order of the documentation
    "Client",
    "AsyncClient",
    "Worker",
    "Retry",
    "Discard",
    "Job",
    "current_job",
    "JobFilter",
    "Handle",
    "Inserted",
    "State",
    "GariviniError",
    "UsageError",
    "SchemaError",
    "UnreachableError",
    "RefusedError",
    "ConflictError",
    "OutcomeUnknownError",
    "ProtocolError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'garivini' has no attribute {name!r}")
    value = getattr(import_module(f"garivini.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
