"""Renews the leases of executions until they end."""

from collections import deque
from collections.abc import Callable, Collection
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final

from msgspec.structs import force_setattr

from garivini import events
from garivini.keeper.database_clock import DatabaseClock
from garivini.keeper.execution import Execution
from garivini.keeper.functions import Functions
from garivini.keeper.leases import Leases
from garivini.keeper.row_changes import RowChanges
from garivini.keeper.step import NOT_DUE
from garivini.keeper.wakeup import Wakeup

#: Seconds until the first renewal, or a third of the lease if that is less. The first renewal makes the row
#: running. Sweeps do not ask about running rows, so a server that forgets the job does not make it run twice.
FIRST_RENEWAL: Final = 1.0
#: A lease of more than these seconds is renewed the first time after ``FIRST_RENEWAL``.
_LONG: Final = 3 * FIRST_RENEWAL
#: Seconds until the renewal of a locked row is tried again.
_LOCKED_RENEWAL: Final = 1.0
#: When a renewal is due, those that are due within these seconds are made with it.
_TOGETHER: Final = 0.2


class Renewals:
    """The executions whose leases are renewed.

    Args:
        leases: writes the leases.
        given_back: gives back jobs that have not started.
        clock: refreshed after each renewal.
        functions: asked in each step to read the settings again if they are old.
        wakeup: wakes the keeper's thread.
        take_back: called in the keeper's thread; removes an execution from the worker's queue for good and
            returns whether it was still there.
        on_cancelled: called in the keeper's thread with an execution whose job was cancelled.
        monotonic: returns the monotonic time.

    """

    def __init__(
        self,
        leases: Leases,
        given_back: RowChanges,
        clock: DatabaseClock,
        functions: Functions,
        wakeup: Wakeup,
        take_back: Callable[[Execution], bool],
        on_cancelled: Callable[[Execution], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._leases = leases
        self._given_back = given_back
        self._clock = clock
        self._functions = functions
        self._wakeup = wakeup
        self._take_back = take_back
        self._on_cancelled = on_cancelled
        self._monotonic = monotonic
        # Executions before their first renewal, in order of arrival, because all first renewals are due after
        # the same time. Then the others, as a heap, by the time of their next renewal. Executions that have
        # ended are skipped.
        self._new: deque[Execution] = deque()
        self._renewed: list[tuple[float, int, Execution]] = []
        self._numbers = count()  # decide the order of equal times
        #: The executions that are being renewed. After an error they stay here, for the next round.
        self._due: list[Execution] = []

    def hold(self, execution: Execution) -> None:
        """Renew the lease of an execution from now on, until it ends."""
        if self._leases.seconds:
            self._leases.set_lease(execution)
        if lease := execution.job.lease:
            execution.renews = True
            when = self._monotonic() + (FIRST_RENEWAL if lease > _LONG else lease / 3)
            execution.renew_at = when
            self._new.append(execution)
            if when < self._wakeup.until:
                self._wakeup.set()

    def step(self) -> None:
        """Renew the leases that are due. If a job has not started when its renewal is due, give it back."""
        now = self._monotonic()
        self._functions.refresh_old(now)
        self._collect_due(now)
        due = [execution for execution in self._due if execution.renews]
        if not due:
            self._due.clear()
            return
        for execution in due:
            if not execution.dropped and self._take_back(execution):
                execution.dropped = True
                self._given_back.add(execution)
        holders, failed = self._leases.renew([execution for execution in due if not execution.dropped])
        unknown = {id(execution) for execution, _ in failed}
        missed = [
            it for it in due if it.job.handle not in holders and id(it) not in unknown and not it.dropped
        ]
        cancelled = self._leases.cancelled(missed)
        self._due.clear()
        for execution in due:
            if execution.dropped:
                execution.renews = False
            elif id(execution) in unknown:
                self._renew_at(execution, now + _LOCKED_RENEWAL)
            elif execution.job.handle in holders:
                self._renew_at(execution, now + execution.job.lease / 3)
            else:
                self._supersede(execution, cancelled=execution.job.handle in cancelled)
        self._clock.refresh()

    def hasten(self, funcnames: Collection[str]) -> None:
        """Renew the leases of these functions' executions in this round. For the keeper's thread."""
        for _ in range(len(self._new)):  # another thread may append meanwhile
            execution = self._new.popleft()
            (self._due if execution.job.funcname in funcnames else self._new).append(execution)
        later = self._renewed
        self._due += [it for _, _, it in later if it.job.funcname in funcnames]
        self._renewed = [entry for entry in later if entry[2].job.funcname not in funcnames]
        heapify(self._renewed)

    def _supersede(self, execution: Execution, *, cancelled: bool) -> None:
        """Record that an attempt is superseded. Its success counts; the fence refuses other outcomes."""
        execution.renews = False
        job = execution.job
        if job.completed and not cancelled:  # usually, its function's transaction has just ended it
            return
        force_setattr(job, "cancelled", cancelled)
        force_setattr(job, "superseded", True)
        events.emit("job.stale", jobid=job.jobid, dbid=job.dbid, attempt=job.attempt)
        if cancelled:
            self._on_cancelled(execution)

    def _collect_due(self, now: float) -> None:
        while self._new and self._new[0].renew_at <= now:
            self._due.append(self._new.popleft())
        while self._renewed and self._renewed[0][0] <= now + (_TOGETHER if self._due else 0):
            self._due.append(heappop(self._renewed)[2])

    def _renew_at(self, execution: Execution, when: float) -> None:
        execution.renew_at = when
        heappush(self._renewed, (when, next(self._numbers), execution))

    def next_due(self) -> float:
        """Return when the next lease must be renewed."""
        while self._new and not self._new[0].renews:
            self._new.popleft()
        while self._renewed and not self._renewed[0][2].renews:
            heappop(self._renewed)
        return min(
            self._new[0].renew_at if self._new else NOT_DUE, self._renewed[0][0] if self._renewed else NOT_DUE
        )
