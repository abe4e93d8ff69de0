"""The calls of a database about batches."""

from collections.abc import Sequence
from typing import Any, Final

from garivini.model.batch import BATCH_RETENTION, BatchStatus
from garivini.model.inserted import Inserted
from garivini.model.job import NewJob
from garivini.store import batches as batch_rows
from garivini.store.calls import in_transaction, read_only, retry_transient
from garivini.store.connections import Connections
from garivini.store.inserts import unusual_texts
from garivini.store.key_calls import KeyCalls


class BatchCalls(KeyCalls):
    """The calls of ``Database`` about batches."""

    connections: Connections

    @retry_transient
    def create_batch(
        self,
        batchid: str,
        name: str,
        on_complete: str | None,
        on_success: str | None,
        *,
        connection: Any = None,
    ) -> None:
        """Store a batch without members, in the transaction of ``connection`` if one is given."""
        if connection is None:
            with self.connections.transaction() as run:
                batch_rows.create(run, batchid, name, on_complete, on_success)
        else:
            with self.connections.joined(connection, {name} - {""}) as run:
                batch_rows.create(run, batchid, name, on_complete, on_success)

    @retry_transient
    def add_members(self, batchid: str, jobs: Sequence[NewJob], *, connection: Any = None) -> list[Inserted]:
        """Insert jobs as members of a batch in one transaction; return one answer per job, in order.

        Raises:
            RefusedError: the batch has ended, or does not exist.

        """
        jobs = self._with_key_rules(jobs)
        if connection is None:
            with self.connections.transaction() as run:
                return batch_rows.add(run, batchid, jobs)
        with self.connections.joined(connection, unusual_texts(jobs)) as run:
            return batch_rows.add(run, batchid, jobs)

    @retry_transient
    def seal_batch(self, batchid: str, *, connection: Any = None) -> BatchStatus | None:
        """Let a batch end with its last member; return the batch, or None if there is none."""
        if connection is None:
            with self.connections.transaction() as run:
                return batch_rows.seal(run, batchid)
        with self.connections.joined(connection, ()) as run:
            return batch_rows.seal(run, batchid)

    batch: Final = read_only(batch_rows.read)
    batches: Final = read_only(batch_rows.page)
    members: Final = read_only(batch_rows.members)
    open_batches: Final = read_only(batch_rows.open_batches)
    _ended_members = read_only(batch_rows.ended_members)
    _count_ended = in_transaction(batch_rows.count_ended)
    _forget_batches = in_transaction(batch_rows.forget)

    def count_ended_members(self, batchid: str, after: int = 0) -> int | None:
        """Count members of a batch whose jobs another program has ended, among the next 1,000.

        Returns:
            The id after which the next page begins; None: there is none.

        """
        gone, dead, following = self._ended_members(batchid, after)
        if gone or dead:
            self._count_ended(gone, dead)
        return following

    def forget_batches(self, limit: int = 1000) -> int:
        """Delete batches that ended a week ago or earlier; return how many."""
        return int(self._forget_batches(BATCH_RETENTION, limit))
