"""The queue of ``def`` functions, and the loop that runs them in the main thread of a worker process."""

from collections import deque
from collections.abc import Callable
from typing import Final

from garivini.clock import Clock
from garivini.keeper.execution import Execution

#: Maximum seconds of one batch. The event loop is notified once per batch.
_BATCH: Final = 0.005


class BlockingRunner:
    """Runs jobs of blocking functions one after another, in the thread that calls ``run``.

    Other threads add jobs, and remove those that have not started. Each job leaves the queue by one atomic
    call, so none is both run and removed. An idle thread is woken once per batch, not once per job.

    Args:
        execute: runs one job, records its outcome and returns whether it ran; must not raise.
        on_batch: called after each batch with the number of jobs that ran and the seconds that they took.
        clock: gives the time, and waits.

    """

    def __init__(
        self,
        execute: Callable[[Execution], bool],
        on_batch: Callable[[int, float], None],
        clock: Clock,
    ) -> None:
        self._execute = execute
        self._on_batch = on_batch
        self._monotonic = clock.monotonic
        self._queue: deque[Execution] = deque()
        # An idle thread waits for an item of this queue. To wait for an Event takes several times as long.
        self._wake = clock.queue()
        self._idle = False
        self._stopping = False

    def put(self, execution: Execution) -> None:
        """Add a job."""
        self._queue.append(execution)
        if self._idle:
            self._idle = False
            self._wake.put(None)

    def take_back(self, execution: Execution) -> bool:
        """Remove a job that has not started; return whether it was still there."""
        try:
            self._queue.remove(execution)
        except ValueError:
            return False
        return True

    def stop(self) -> None:
        """Make ``run`` return after the job that is running."""
        self._stopping = True
        self._wake.put(None)

    def run(self) -> None:
        """Run jobs until ``stop`` is called."""
        while not self._stopping:
            self._idle = True  # before the queue is read: adding a job from now on wakes this thread
            if not self._queue:
                self._wake.get()
            self._idle = False
            while self._queue and not self._stopping:
                self._run_batch()

    def _run_batch(self) -> None:
        began = self._monotonic()
        ran = 0
        while not self._stopping:
            try:
                execution = self._queue.popleft()
            except IndexError:
                break
            ran += self._execute(execution)
            if self._monotonic() - began >= _BATCH:
                break
        self._on_batch(ran, self._monotonic() - began)
