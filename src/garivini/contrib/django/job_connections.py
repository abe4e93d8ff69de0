"""Django's database connections around each job."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import close_old_connections, connections, reset_queries

from garivini.errors import UsageError


class TransactionLeftOpen(UsageError):
    """A job ended in a transaction that it did not end. The transaction was rolled back."""


@contextmanager
def around_job() -> Iterator[None]:
    """Look after the connections of this thread as Django does around a request.

    Raises:
        TransactionLeftOpen: the job succeeded and left a transaction open, which is rolled back.

    """
    if asyncio._get_running_loop() is not None:  # of an ``async def``: see ``around_async_job``
        yield
        return
    reset_queries()
    close_old_connections()
    left: list[str] = []
    try:
        yield
    finally:
        left = _roll_back()
        close_old_connections()
    _refuse(left)


@asynccontextmanager
async def around_async_job() -> AsyncIterator[None]:
    """Give an ``async def`` a thread of its own for its calls of the ORM, with connections of its own.

    Without it, jobs that run at the same time would share a connection, and so a transaction.

    Raises:
        TransactionLeftOpen: as for ``around_job``.

    """
    left: list[str] = []
    async with ThreadSensitiveContext():
        try:
            yield
        finally:
            left = await sync_to_async(_end_thread)()
    _refuse(left)


def _end_thread() -> list[str]:
    left = _roll_back()
    connections.close_all()
    return left


def _refuse(left: list[str]) -> None:
    if left:
        raise TransactionLeftOpen(
            f"the job left a transaction open in the database {', '.join(left)}, which was rolled back: "
            "end it with atomic() or commit()"
        )


def _roll_back() -> list[str]:
    """Roll back the transactions that are open in this thread; return their databases."""
    left = [found for found in connections.all(initialized_only=True) if _is_open(found)]
    for found in left:
        with suppress(Exception):  # it is closed in any case
            found.connection.rollback()
        found.in_atomic_block = False
        found.savepoint_ids = []
        found.atomic_blocks = []
        found.needs_rollback = False
        found.run_on_commit = []
        found.close()
    return [found.alias for found in left]


def _is_open(found: Any) -> bool:
    if found.connection is None:
        return False
    if found.in_atomic_block or (found.settings_dict["AUTOCOMMIT"] and not found.autocommit):
        return True
    driver = found.connection
    if found.vendor == "sqlite":
        return bool(driver.in_transaction)
    if found.vendor == "postgresql":
        return bool(driver.info.transaction_status)
    return bool(getattr(driver, "server_status", 0) & 1)  # PyMySQL; mysqlclient does not tell
