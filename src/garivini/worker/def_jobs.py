"""Runs the jobs of ``def`` functions in the main thread, one at a time."""

import os
import threading
from collections.abc import Callable
from typing import Final

from msgspec.structs import force_setattr

from garivini.keeper.execution import Execution
from garivini.keeper.shared_copy import SharedCopy
from garivini.keeper.supervised_child import TIME_LIMIT
from garivini.model.current import set_current_job
from garivini.worker import forks
from garivini.worker.blocking import BlockingRunner
from garivini.worker.bundles import begin, end
from garivini.worker.functions import setback_of
from garivini.worker.kept_results import take_result
from garivini.worker.links import Links
from garivini.worker.shared import Shared

#: Maximum seconds to report the end of a job to its Gearman server before the process ends.
_LAST_REPORT: Final = 1.0


class DefJobs:
    """Calls ``def`` functions, and hands their outcomes to the keepers.

    Args:
        shared: the state that the parts of a worker share.
        give_up: called in the loop with an execution that did not start because its connection is lost.
        after_batch: called after each batch of jobs.

    """

    def __init__(
        self,
        shared: Shared,
        give_up: Callable[[Execution], None],
        after_batch: Callable[[], None],
    ) -> None:
        self._name = shared.name
        self._functions = shared.functions
        self._keepers = shared.keepers
        self._slot = shared.slot
        self._loop = shared.loop
        self._call_in_loop = shared.call_in_loop
        #: The connections for ``def`` functions.
        self.links: Links = Links(1)
        #: The jobs that wait, and the loop that runs them in the main thread.
        self.runner: BlockingRunner = BlockingRunner(self._run, self._end_batch, shared.clock)
        self._give_up = give_up
        self._after_batch = after_batch
        #: The execution that is running now.
        self.current: Execution | None = None
        self._seconds = 0.0  # seconds per job of the last batch
        self._offer_due = False

    def _run(self, execution: Execution) -> bool:
        """Run a job; return whether it ran."""
        held = execution.held
        if held.disconnected:
            self._call_in_loop(self._give_up, execution)
            return False
        entry = self._functions[held.job.function]
        keeper = self._keepers[execution.job.dbid]
        self.current = execution  # set first: while there is a time limit, the keeper reads it
        if entry.timeout is not None:
            keeper.limit(execution, entry.timeout)
        if self._slot is not None:
            self._slot.set(execution.job, execution.deadline)
        force_setattr(execution.job, "calls", keeper.job_calls)
        try:
            set_current_job(execution.job)
            if execution.job.members:
                begin(execution, keeper)
            elif keeper.job_events.enabled:
                keeper.job_events.start(execution)
            result = entry.function(execution.job)
            forks.leave()
            if result is not None:
                take_result(execution, result)
        except BaseException as error:  # also SystemExit: a job must not end the worker
            forks.leave(error)
            execution.setback = setback_of(entry, execution.job, error, self._name)
        self.current = None
        self.links.ran += 1
        force_setattr(execution.job, "calls", None)  # threads that the function left behind must not use them
        if execution.job.answer is not None or type(execution.held) is SharedCopy:
            end(execution, keeper, entry, self._name)
        else:
            keeper.end(execution)
        return True

    def _end_batch(self, ran: int, seconds: float) -> None:
        """Request as many jobs as suit the duration of the last batch."""
        set_current_job(None)  # once per batch: no other code runs between its jobs
        if self._slot is not None:
            self._slot.clear()
        self._after_batch()
        if ran:
            self._seconds = seconds / ran
            if not self._offer_due:  # otherwise the loop has not run the last call yet
                self._offer_due = True
                self._call_in_loop(self._prefetch)

    def _prefetch(self) -> None:
        self._offer_due = False
        self.links.prefetch(self._seconds)

    def end_process(self, execution: Execution) -> None:
        """End this process, because its main thread is in a function that runs too long.

        Called in a keeper's thread. The end of the job is first reported to the Gearman server, which would
        otherwise give the copy to another worker immediately.
        """
        assert self._slot is not None
        self._slot.acquit()
        reported = threading.Event()

        def report() -> None:
            execution.held.fail()
            self._loop.call_soon(reported.set)  # called after the report was written

        self._call_in_loop(report)
        reported.wait(_LAST_REPORT)
        os._exit(TIME_LIMIT)
