"""The rounds of a keeper's thread: when they are due, which steps run, and what happens on errors."""

from collections.abc import Callable, Sequence
from contextlib import suppress

from garivini import events
from garivini.backoff import Backoff
from garivini.clock import Clock
from garivini.keeper.outcome_queue import OutcomeQueue
from garivini.keeper.renewals import FIRST_RENEWAL
from garivini.keeper.step import Part, Step
from garivini.keeper.time_limit import TimeLimit
from garivini.keeper.wakeup import Wakeup
from garivini.store.incarnations import ReplacedError


class Rounds:
    """Runs the steps of all parts in rounds, until it is stopped.

    Args:
        dbid: the id of the database, for events.
        parts: in the order of their steps.
        wakeup: wakes this thread.
        outcomes: the part that a stop waits for.
        time_limit: the part whose step runs even if the database cannot be reached.
        concerns_all: returns whether an error means that no step can succeed.
        clock: gives the time, and waits.

    """

    def __init__(
        self,
        dbid: int,
        parts: Sequence[Part],
        wakeup: Wakeup,
        outcomes: OutcomeQueue,
        time_limit: TimeLimit,
        concerns_all: Callable[[Exception], bool],
        clock: Clock,
    ) -> None:
        self._name = f"keeper of database {dbid}"
        self._steps = [Step(part, clock) for part in parts]
        self._wakeup = wakeup
        self._outcomes = outcomes
        self._time_limit = time_limit
        self._concerns_all = concerns_all
        self._monotonic = clock.monotonic
        self._sleep = clock.sleep
        self._backoff = Backoff(first=0.05, longest=2.0, uniform=clock.uniform)
        self._stop_by: float | None = None  # monotonic; None while not stopping
        self._hastened = False
        #: Whether the last round failed.
        self.failing: bool = False

    def run(self) -> None:
        """Run rounds until a stop, and then until all outcomes are committed or the time is over."""
        self._wakeup.set()  # starts the first round immediately
        while True:
            self._wakeup.wait(self.until_next())
            self._wakeup.clear()
            self._round()
            if self._is_over():
                return

    def stop_by(self, when: float) -> None:
        """Make ``run`` return by this monotonic time, unless the database does not answer."""
        self._stop_by = when
        self._wakeup.set()

    def until_next(self) -> float:
        """Return the seconds until the next round; note its monotonic time in the wakeup."""
        now = self._monotonic()
        due = min(step.next_due() for step in self._steps)
        if self._stop_by is not None:
            due = min(due, self._stop_by)
        # The next round is not later than the first renewal of a job that arrives now. So the job need not
        # wake this thread, and the thread does not compete with the start of the job.
        self._wakeup.until = min(due, now + FIRST_RENEWAL)
        return max(0.0, self._wakeup.until - now)

    def _is_over(self) -> bool:
        if self._stop_by is None:
            return False
        return self._monotonic() >= self._stop_by or not self._outcomes.unwritten

    def _round(self) -> None:
        """Run each step that is due. A failed step does not prevent the others.

        If the database cannot be reached, or was replaced, the round ends: nothing is dropped, and all is
        retried.
        """
        if self._stop_by is not None and not self._hastened:
            self._hastened = True
            self._outcomes.hasten()
        errors: list[Exception | None] = []
        for step in self._steps:
            if not step.is_due():
                errors.append(step.error)
                continue
            try:
                step.part.step()
            except ReplacedError:
                self._wakeup.set()  # the next round begins with the new incarnation
                return
            except Exception as error:
                if self._concerns_all(error):
                    self._pause(error, step)
                    return
                step.failed(error)
                errors.append(error)
            else:
                step.succeeded()
        self._backoff.succeeded()
        if errors or self._outcomes.refused:
            self._record_error(next(iter(errors), None))
        elif self.failing:
            self.failing = False
            events.emit("role.recovered", role=self._name)

    def _pause(self, error: Exception, step: Step) -> None:
        """Wait before the next round, longer each time, because the database cannot be reached."""
        self._record_error(error)
        if step.part is not self._time_limit:
            with suppress(Exception):
                self._time_limit.step()
        seconds = self._backoff.failed()
        if self._stop_by is not None:
            seconds = min(seconds, max(0.0, self._stop_by - self._monotonic()))
        self._sleep(seconds)
        self._wakeup.set()

    def _record_error(self, error: Exception | None) -> None:
        if not self.failing:
            self.failing = True
            text = "outcomes are refused" if error is None else str(error)
            events.emit("role.error", role=self._name, error=text)
