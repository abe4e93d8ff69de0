"""Start checks find out, before a copy starts, whether its attempt still holds the job."""

from collections.abc import Callable

from garivini.keeper.batch_writer import BATCH, is_unfit
from garivini.keeper.database_clock import DatabaseClock
from garivini.keeper.execution import Execution
from garivini.keeper.inbox import Inbox
from garivini.keeper.leases import Leases
from garivini.keeper.recognition import Recognition
from garivini.keeper.row_changes import RowChanges
from garivini.keeper.wakeup import Wakeup


class StartChecks:
    """Renews the leases of copies that may be stale before they start, and adopts copies without an attempt.

    Args:
        leases: renews leases, and adopts copies.
        recognition: knows the incarnation of the database.
        clock: the database's clock.
        unstarted: marks rows as leased again, for executions that were checked and do not start.
        wakeup: wakes the keeper's thread.
        on_checked: called in the keeper's thread with each execution, and whether it holds its job.
        monotonic: returns the monotonic time.

    """

    def __init__(
        self,
        leases: Leases,
        recognition: Recognition,
        clock: DatabaseClock,
        unstarted: RowChanges,
        wakeup: Wakeup,
        on_checked: Callable[[Execution, bool], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._leases = leases
        self._recognition = recognition
        self._clock = clock
        self._unstarted = unstarted
        self._wakeup = wakeup
        self._on_checked = on_checked
        self._monotonic = monotonic
        self._inbox: Inbox[Execution] = Inbox()
        #: The marked functions, all of whose copies are checked. Other threads read this set.
        self.marked: frozenset[str] = frozenset()

    def must_check(self, execution: Execution) -> bool:
        """Return whether a copy that has just arrived needs a start check.

        A copy needs one if another attempt may have the job, or if the job may have ended:

        * the copy is of a later attempt than the first, or its lease has expired;
        * it came on a reopened connection and was claimed before the reopening. When the connection was lost,
          the server may have given the copy to another worker;
        * it comes from another incarnation of the database. In this one, its id may be another job's;
        * jobs of its function were cancelled, perhaps this job;
        * it has no attempt. It comes from a QueueRunner of the original, and must be adopted.
        """
        job = execution.job
        if job.attempt is None or job.attempt > 1:
            return True
        recognition = self._recognition
        if job.incarnation != recognition.current and recognition.is_foreign(job):
            return True
        if not job.lease:
            return False
        if job.funcname in self.marked:
            return True
        offset = self._clock.offset  # read once, because another thread can change it
        # A lease that would begin in the future was not set by the database, so its copy is checked too.
        if offset is None or not 0 <= job.lease_end - self._monotonic() - offset <= job.lease + 2:
            return True
        reopened_at = execution.held.reopened_at
        # The time of the claim is in whole seconds, so one second is allowed on each side.
        return reopened_at is not None and job.lease_end - job.lease - 1 <= reopened_at + offset + 1

    def check(self, execution: Execution) -> None:
        """Check an execution before it starts; ``on_checked`` receives the result."""
        self._leases.set_lease(execution)
        self._inbox.put(execution)
        self._wakeup.set()

    def drop(self, execution: Execution) -> None:
        """Do not start an execution whose connection is lost: the server gives its copy to another worker.

        If its start check has made the row running, the row becomes leased again: nobody runs the job, and a
        QueueRunner may find that the server has forgotten it.
        """
        execution.dropped = True
        if execution.checked:
            self._unstarted.add(execution)
            self._wakeup.set()

    def step(self) -> None:
        """Check the executions that wait for a check, and the deferred ones that are due."""
        now = self._monotonic()
        batch = self._inbox.take_due(now, BATCH) + self._inbox.take(len(self._inbox))
        if not batch:
            return
        try:
            holders, failed = self._leases.renew([it for it in batch if it.job.attempt is not None])
            failed += self._leases.adopt([it for it in batch if it.job.attempt is None])
        except Exception:
            self._inbox.put_back(batch)
            raise
        self._inbox.close_batch(batch, failed, now, is_final=is_unfit)
        deferred = {id(execution) for execution, error in failed if not is_unfit(error)}
        for execution in batch:
            if id(execution) not in deferred:
                job = execution.job
                execution.checked = job.attempt is not None and (execution.adopted or job.handle in holders)
                self._on_checked(execution, execution.checked)

    def next_due(self) -> float:
        """Return when the first deferred check is due."""
        return self._inbox.next_due()
