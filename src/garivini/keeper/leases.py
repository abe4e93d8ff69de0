"""Writes the leases of executions: renews them, and adopts copies that came without an attempt."""

from collections.abc import Sequence
from typing import TypeAlias

from msgspec.structs import replace

from garivini.keeper.batch_writer import BatchWriter
from garivini.keeper.execution import Execution, jobid_of
from garivini.keeper.recognition import Recognition
from garivini.model.job import Handle
from garivini.model.lease import LEASE
from garivini.store.database import Database

#: Executions whose lease could not be written, each with the reason.
Failed: TypeAlias = list[tuple[Execution, Exception]]


class Leases:
    """The leases of one database's jobs.

    Args:
        database: where the rows are.
        writer: writes to it.
        recognition: decides which rows still belong to their jobs.

    """

    def __init__(self, database: Database, writer: BatchWriter, recognition: Recognition) -> None:
        self._database = database
        self._recognition = recognition
        self._writer = writer
        #: Seconds of a lease, for each function that has this setting.
        self.seconds: dict[str, int] = {}

    def set_lease(self, execution: Execution) -> None:
        """Replace the lease that came in the payload by that of the function's settings, if they have one."""
        job = execution.job
        lease = self.seconds.get(job.funcname)
        if lease is not None and job.lease and job.lease != lease:
            execution.job = replace(job, lease=lease)

    def renew(self, executions: Sequence[Execution]) -> tuple[set[Handle], Failed]:
        """Renew leases; return the handles that still hold their job, and the executions that failed.

        Raises:
            GariviniError: one that concerns all writes; some of the leases may have been renewed.

        """
        by_lease: dict[int, list[Execution]] = {}
        unrecognised = self._recognition.unrecognised(execution.job for execution in executions)
        for execution in executions:
            if id(execution.job) not in unrecognised:
                by_lease.setdefault(execution.job.lease, []).append(execution)
        holders: set[Handle] = set()
        failed: Failed = []
        for lease, part in by_lease.items():

            def renew(items: list[Execution], locked: set[int] | None, lease: int = lease) -> None:
                handles = [execution.job.handle for execution in items]
                holders.update(self._database.renew(handles, lease=lease, locked=locked))

            failed += self._writer.write(part, renew, jobid_of)
        return holders, failed

    def cancelled(self, executions: Sequence[Execution]) -> set[Handle]:
        """Return the handles of the executions that do not hold their jobs because the jobs were cancelled.

        Raises:
            GariviniError: the rows cannot be read.

        """
        handles = [execution.job.handle for execution in executions]
        return self._database.cancelled(handles) if handles else set()

    def adopt(self, executions: Sequence[Execution]) -> Failed:
        """Give attempts to copies that came without one; return the executions that failed.

        ``adopted`` is true for executions that hold their job now.

        Raises:
            GariviniError: one that concerns all writes; some may have been adopted.

        """
        return self._writer.write(executions, self._adopt, jobid_of) if executions else []

    def _adopt(self, executions: list[Execution], locked: set[int] | None) -> None:
        # If two copies of one job arrive, only the first is adopted.
        first = {execution.job.jobid: execution for execution in reversed(executions)}
        by_lease: dict[int, list[int]] = {}
        for jobid, execution in first.items():
            by_lease.setdefault(self.seconds.get(execution.job.funcname, LEASE), []).append(jobid)
        all_locked: set[int] = set()
        for lease, jobids in by_lease.items():
            for job in self._database.adopt(jobids, lease=lease, locked=locked):
                execution = first[job.jobid]
                given = execution.job
                execution.job = replace(job, run_after=given.run_after, arg=given.arg)
                execution.adopted = True
            all_locked.update(locked or ())
        if locked is not None:
            locked |= all_locked
