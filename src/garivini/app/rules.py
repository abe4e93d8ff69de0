"""The options of typed functions and of single jobs, as the type checker knows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypedDict

from garivini.model.limits import Priority
from garivini.model.retry import Backoff, ErrorClass
from garivini.model.unique import OnDuplicate, Unique, UniqueScope

if TYPE_CHECKING:
    from garivini.store.callers import AsyncJoinable
    from garivini.worker.functions import DelayAfter


class FunctionRules(TypedDict, total=False):
    """The settings of a function, as for ``Worker.function``, where each is described."""

    timeout: float | None
    cancel_grace: int | None
    lease: int | None
    max_running: int | None
    rate: str | None
    burst: int | None
    partition_max_running: int | None
    partition_rate: str | None
    partition_burst: int | None
    fair: bool | None
    coalesce_max: int | None
    coalesce_wait: int | None
    backoff: Backoff | DelayAfter | None
    backoff_for: Mapping[ErrorClass, Backoff] | None
    retry_on: Iterable[ErrorClass] | None
    discard_on: Iterable[ErrorClass]
    retention: int | None
    dead_retention: int | None
    unique_scope: UniqueScope | None
    unique_window: int | None
    on_duplicate: OnDuplicate | None
    max_delay: int | None
    expires: int | None


class JobOptions(TypedDict, total=False):
    """The options of an insert, as for ``Client.insert_job``, where each is described."""

    run_after: float | timedelta | None
    priority: Priority | None
    #: Replaces the key that the function's ``unique`` makes.
    unique: str | Unique | None
    #: Replaces the partition that the function's ``partition`` makes.
    partition: str | None
    coalesce: str | None
    expires: float | timedelta | None
    dispatch: bool
    connection: AsyncJoinable | None
    #: Values beside the arguments, for hooks and tools.
    headers: Mapping[str, Any] | None
