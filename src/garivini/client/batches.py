"""Batches of jobs, for ``Client`` and ``AsyncClient``."""

import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from garivini.errors import UsageError
from garivini.model.batch import BatchStatus, check_batch_name, encode_callback, parse_batch
from garivini.model.inserted import Inserted
from garivini.model.job import Handle, NewJob
from garivini.model.limits import Flag, Priority
from garivini.model.new_jobs import JobLike, checked_job, checked_jobs
from garivini.model.unique import Unique
from garivini.store.callers import AsyncJoinable, Joinable, after_commit
from garivini.store.database import Database
from garivini.store.shards import Shards

_R = TypeVar("_R")


class Batch:
    """A group of jobs whose end as a whole inserts another job.

    A batch is created by ``Client.batch``. As a context manager, it creates itself and seals itself at the
    end of the ``with``; if that raises, the batch stays open.
    """

    def __init__(self, client: "BatchCalls", dbid: int, batchid: str, connection: Any = None) -> None:
        self._client = client
        self._database: Database = client._shards[dbid]
        self._batchid = batchid
        self._connection = connection
        self._creating = threading.Lock()
        #: The name and the jobs of a batch that is not stored yet.
        self._callbacks: tuple[str, str | None, str | None] | None = None
        #: The id as text, which ``Client.get_batch`` takes and the jobs have as ``headers["batch"]``.
        self.id: str = f"{dbid}:{batchid}"

    def __repr__(self) -> str:
        return f"<Batch {self.id}>"

    def insert_job(
        self,
        funcname: str,
        arg: bytes | str = b"",
        run_after: float | timedelta | None = None,
        unique: str | Unique | None = None,
        coalesce: str | None = None,
        flag: Flag | None = None,
        *,
        priority: Priority | None = None,
        expires: float | timedelta | None = None,
        partition: str | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> Inserted:
        """Insert a job as a member, in one transaction. Arguments are those of ``Client.insert_job``.

        If a job with the unique key exists, nothing is inserted, and that job does not become a member.

        Raises:
            RefusedError: the batch has ended, or does not exist.
            UsageError, GariviniError: as for ``Client.insert_job``.

        """
        job = checked_job(
            *(funcname, arg, run_after, unique, coalesce, flag),
            uniqkey=None,
            priority=priority,
            dispatch=False,
            expires=expires,
            partition=partition,
            headers=headers,
        )
        return self._add([job])[0]

    def insert_jobs(
        self,
        jobs: Iterable[JobLike],
        run_after: float | timedelta | None = None,
        flag: Flag | None = None,
    ) -> list[Inserted]:
        """Insert jobs as members, in one transaction. Arguments are those of ``Client.insert_jobs``.

        Raises:
            RefusedError: the batch has ended, or does not exist.
            UsageError, GariviniError: as for ``Client.insert_jobs``.

        """
        return self._add(checked_jobs(jobs, run_after, flag, dispatch=False))

    def seal(self) -> BatchStatus:
        """Let the batch end with its last member, or now if none is pending; return the batch.

        Members may be added until it has ended. Sealing it again has no effect.

        Raises:
            UsageError: there is no such batch.

        """
        self._create()
        status = self._database.seal_batch(self._batchid, connection=self._connection)
        if status is None:
            raise UsageError(f"there is no batch {self.id}")
        if status.completed_at:
            self._wake()
        return status

    def status(self) -> BatchStatus | None:
        """Return the batch as it is now, or None if there is none."""
        return self._database.batch(self._batchid)

    def __enter__(self) -> "Batch":
        self._create()
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            self.seal()

    def _create(self) -> None:
        """Store the batch, unless that has been done. Another thread waits meanwhile."""
        with self._creating:
            if self._callbacks is not None:
                self._database.create_batch(self._batchid, *self._callbacks, connection=self._connection)
                self._callbacks = None

    def _add(self, jobs: Sequence[NewJob]) -> list[Inserted]:
        self._create()
        self._client._shards.check_homes(self._database, jobs, f"batch {self.id}")
        members = [_with_batch(job, self.id) for job in jobs]
        if not members:
            return []
        answers = self._database.add_members(self._batchid, members, connection=self._connection)
        if any(at.new and not job.delay for job, at in zip(jobs, answers, strict=True)):
            self._wake()
        return answers

    def _wake(self) -> None:
        if self._connection is None:
            self._client.wake()
        else:
            after_commit(self._connection, self._client.wake)


class AsyncBatch:
    """The calls of ``Batch``, to be awaited. As an asynchronous context manager, it seals itself."""

    def __init__(self, client: "AsyncBatchCalls", batch: Batch) -> None:
        self._client = client
        self._batch = batch
        #: The id as text.
        self.id: str = batch.id

    async def insert_job(self, funcname: str, arg: bytes | str = b"", *rest: Any, **named: Any) -> Inserted:
        """Insert a job as a member: see ``Batch.insert_job``."""
        return await self._call(self._batch.insert_job, funcname, arg, *rest, **named)

    async def insert_jobs(
        self,
        jobs: Iterable[JobLike],
        run_after: float | timedelta | None = None,
        flag: Flag | None = None,
    ) -> list[Inserted]:
        """Insert jobs as members: see ``Batch.insert_jobs``."""
        return await self._call(self._batch.insert_jobs, list(jobs), run_after, flag)

    async def seal(self) -> BatchStatus:
        """Let the batch end with its last member: see ``Batch.seal``."""
        return await self._call(self._batch.seal)

    async def status(self) -> BatchStatus | None:
        """Return the batch as it is now, or None if there is none."""
        return await self._call(self._batch.status)

    async def __aenter__(self) -> "AsyncBatch":
        await self._call(self._batch._create)
        return self

    async def __aexit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            await self.seal()

    async def _call(self, call: Callable[..., _R], *values: Any, **named: Any) -> _R:
        """Run a blocking call in a thread, or through ``run_sync`` of an asynchronous connection."""
        connection = self._batch._connection
        run_sync: Any = getattr(connection, "run_sync", None)
        if run_sync is None:
            if connection is not None:
                return call(*values, **named)
            answer: _R = await self._client._call(call, *values, **named)
            return answer

        def joined(sync_connection: Any) -> _R:
            self._batch._connection = sync_connection
            try:
                return call(*values, **named)
            finally:
                self._batch._connection = connection

        found: _R = await run_sync(joined)
        return found


class BatchCalls:
    """The calls of ``Client`` about batches."""

    _shards: Shards
    wake: Callable[[], Any]

    def batch(
        self,
        name: str = "",
        *,
        on_complete: JobLike | None = None,
        on_success: JobLike | None = None,
        connection: Joinable | None = None,
    ) -> Batch:
        """Return a new batch: ``with client.batch(on_complete=...) as batch: batch.insert_job(...)``.

        A batch ends when it is sealed and all of its members have ended: their jobs have succeeded, were
        deleted, or are dead. It is stored when the ``with`` begins, or with its first member. All of its
        members are in one database, and so is the batch.

        Args:
            name: for people, up to 200 characters.
            on_complete: a job to insert when the batch ends, in the transaction that ends it.
            on_success: a job to insert when the batch ends, if no member is dead.
            connection: stores the batch and its members in the transaction of this connection.

        Raises:
            UsageError: a job or the name cannot be stored.

        """
        database = self._shards.database_for(connection)
        stored = [self._callback(job, database) for job in (on_complete, on_success)]
        batchid = f"{int(time.time()):08x}{secrets.token_hex(4)}"
        batch = Batch(self, database.dbid, batchid, connection)
        batch._callbacks = (check_batch_name(name), stored[0], stored[1])
        return batch

    def _callback(self, job: JobLike | None, database: Database) -> str | None:
        if job is None:
            return None
        (new,) = checked_jobs([job], None, None, dispatch=False)
        home = self._shards.home_of_job(new)
        return encode_callback(new if home in (None, database) else replace(new, home=home.dbid))

    def open_batch(self, batch: str, *, connection: Joinable | None = None) -> Batch:
        """Return a stored batch, to add members or to seal it. Members have its id in ``headers["batch"]``.

        Args:
            batch: the id.
            connection: as for ``batch``.

        Raises:
            UsageError: it is not the id of a batch.

        """
        return Batch(self, *parse_batch(batch), connection)

    def get_batch(self, batch: str) -> BatchStatus | None:
        """Return a batch as it is now; None if it does not exist, or ended more than a week ago.

        Raises:
            UsageError: it is not the id of a batch.

        """
        dbid, batchid = parse_batch(batch)
        return self._shards[dbid].batch(batchid)

    def list_batches(self, *, limit: int = 100) -> list[BatchStatus]:
        """Return batches in the order in which they were created, from one database after the other."""
        found: list[BatchStatus] = []
        for database in self._shards:
            while len(found) < limit:
                after = "" if not found or parse_batch(found[-1].id)[0] != database.dbid else found[-1].id
                page = database.batches(after.partition(":")[2], min(100, limit - len(found)))
                found += page
                if len(page) < 100:
                    break
        return found

    def cancel_batch(self, batch: str, reason: str = "") -> int:
        """Cancel the jobs of all members that have not ended; return how many were cancelled.

        Each is cancelled as by ``cancel_job``. The batch ends if it is sealed.

        Raises:
            UsageError: it is not the id of a batch.

        """
        cancelled = 0
        for jobid in self._members(batch):
            cancelled += self.cancel_job(jobid, reason)
        return cancelled

    def _members(self, batch: str) -> Iterator[Handle]:
        dbid, batchid = parse_batch(batch)
        after = 0
        while page := self._shards[dbid].members(batchid, after):
            after = page[-1]
            yield from (Handle(jobid, dbid) for jobid in page)

    cancel_job: Callable[..., bool]


class AsyncBatchCalls:
    """The calls of ``AsyncClient`` about batches."""

    _client: Any
    _call: Callable[..., Awaitable[Any]]

    def batch(
        self,
        name: str = "",
        *,
        on_complete: JobLike | None = None,
        on_success: JobLike | None = None,
        connection: AsyncJoinable | None = None,
    ) -> AsyncBatch:
        """Return a new batch, for ``async with``. Does no I/O. See ``Client.batch``."""
        sync = getattr(connection, "sync_connection", None) or getattr(connection, "sync_session", None)
        batch: Batch = self._client.batch(
            name, on_complete=on_complete, on_success=on_success, connection=sync or connection
        )
        batch._connection = connection
        return AsyncBatch(self, batch)

    def open_batch(self, batch: str, *, connection: AsyncJoinable | None = None) -> AsyncBatch:
        """Return a stored batch: see ``Client.open_batch``. Does no I/O."""
        found: Batch = self._client.open_batch(batch)
        found._connection = connection
        return AsyncBatch(self, found)

    async def get_batch(self, batch: str) -> BatchStatus | None:
        """Return a batch as it is now: see ``Client.get_batch``."""
        found: BatchStatus | None = await self._call(self._client.get_batch, batch)
        return found

    async def list_batches(self, *, limit: int = 100) -> list[BatchStatus]:
        """Return batches: see ``Client.list_batches``."""
        found: list[BatchStatus] = await self._call(self._client.list_batches, limit=limit)
        return found

    async def cancel_batch(self, batch: str, reason: str = "") -> int:
        """Cancel the jobs of all members that have not ended: see ``Client.cancel_batch``."""
        cancelled: int = await self._call(self._client.cancel_batch, batch, reason)
        return cancelled


def _with_batch(job: NewJob, batch: str) -> NewJob:
    """Return a job with the id of its batch among its headers."""
    headers = {} if job.headers is None else msgspec.json.decode(job.headers)
    headers["batch"] = batch
    return replace(job, headers=msgspec.json.encode(headers).decode())
