"""Clients of a queue in memory. They note what they insert."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import event

from garivini.client import Client
from garivini.client.aio import AsyncClient
from garivini.model.inserted import Inserted
from garivini.model.job import NewJob
from garivini.store.callers import after_commit
from garivini.testing.memory import MemoryDatabase


class TestClient(Client):
    """Inserts into a database in memory, whatever ``connection=`` is given.

    A rollback of a SQLAlchemy Session deletes what was inserted with it.

    Args:
        memory: the database.

    """

    __test__ = False  # not a class of tests

    def __init__(self, memory: MemoryDatabase) -> None:
        super().__init__(memory.engine)
        #: The jobs that were inserted, in order, also those that have ended.
        self.inserted: list[tuple[NewJob, Inserted]] = []
        #: Called with the new jobs of an insert after its commit; None: they wait.
        self.on_commit: Callable[[Sequence[Inserted]], None] | None = None

    def _insert_checked(
        self, jobs: Sequence[NewJob], connection: Any = None, *, wake: Callable[[], None] | None = None
    ) -> list[Inserted]:
        answers = super()._insert_checked(jobs)
        noted = [
            (job, at) for job, at in zip(jobs, answers, strict=True) if at.new or at.replaced or at.queued
        ]
        self.inserted += noted
        new = [at for at in answers if at.new]
        if connection is not None:
            self._follow(connection, noted)
        if self.on_commit is not None and new:
            run = self.on_commit
            if connection is None or not after_commit(connection, lambda: run(new)):
                run(new)
        return answers

    def _follow(self, connection: Any, noted: Sequence[tuple[NewJob, Inserted]]) -> None:
        """Delete jobs if the transaction of a Session is rolled back."""
        orm = sys.modules.get("sqlalchemy.orm")
        if orm is None or not isinstance(connection, orm.Session):
            return
        inner = connection.get_nested_transaction() or connection.get_transaction()

        def rolled_back(session: Any, previous: Any) -> None:
            if previous is inner or (inner is not None and previous is inner.parent):
                self.inserted = [each for each in self.inserted if each not in noted]
                self.delete_jobs([at for _, at in noted if at.new])

        event.listen(connection, "after_soft_rollback", rolled_back)


class AsyncTestClient(AsyncClient):
    """The calls of a ``TestClient``, to be awaited."""

    __test__ = False

    def __init__(self, client: TestClient) -> None:
        self._start(client)

    def _close(self) -> None:
        self._threads.shutdown()  # the client itself belongs to the test

    def stop(self) -> None:
        """Let the threads end, without waiting for their calls."""
        self._threads.shutdown(wait=False)
