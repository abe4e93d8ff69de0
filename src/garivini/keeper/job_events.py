"""Emits the events of jobs that start and end.

An event covers all jobs of a function that started in a round, or ended in a batch with the same outcome.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Final

from garivini import events
from garivini.keeper.database_clock import DatabaseClock
from garivini.keeper.execution import Execution
from garivini.keeper.step import NOT_DUE

#: Decimals of the sums and maxima, for a readable log.
_DIGITS: Final = 6


class JobEvents:
    """The events ``jobs.started`` and ``jobs.ended`` of one database's jobs.

    While nobody receives these events, nothing is measured. A job then costs only two reads of attributes,
    ``enabled`` and the execution's ``started_at``, without a call or an object.

    Args:
        dbid: the id of the database.
        clock: its clock, by which jobs are due.
        monotonic: returns the monotonic time.

    """

    def __init__(self, dbid: int, clock: DatabaseClock, monotonic: Callable[[], float]) -> None:
        self._dbid = dbid
        self._clock = clock
        self._monotonic = monotonic
        #: Whether anybody receives these events. Refreshed in each round, so at least once per second.
        self.enabled: bool = events.is_enabled("jobs.started")
        #: Executions whose start is not reported yet.
        self._started: deque[Execution] = deque()

    def start(self, execution: Execution) -> None:
        """Measure an execution that starts now. Called from any thread, only while ``enabled``."""
        execution.started_at = self._monotonic()
        self._started.append(execution)

    def step(self) -> None:
        """Report the executions that have started since the last round."""
        self.enabled = events.is_enabled("jobs.started")
        self._report_started()

    def next_due(self) -> float:
        """Return infinity: a start does not wake the thread, which has a round at least once per second."""
        return NOT_DUE

    def end(self, executions: Iterable[Execution]) -> None:
        """Report executions that have ended, except those that started when nobody received the events."""
        if not self.enabled:
            return
        self._report_started()  # starts must be reported before ends
        groups: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        for execution in executions:
            if execution.started_at:
                key = execution.job.funcname, execution.outcome
                groups[key].append(execution.ended_at - execution.started_at)
        for (function, outcome), runs in groups.items():
            events.emit(
                "jobs.ended",
                dbid=self._dbid,
                function=function,
                outcome=outcome,
                jobs=len(runs),
                run_sum=round(sum(runs), _DIGITS),
                run_max=round(max(runs), _DIGITS),
                runs=runs,
            )

    def _report_started(self) -> None:
        if not self._started:
            return
        groups: defaultdict[str, list[Execution]] = defaultdict(list)
        for _ in range(len(self._started)):
            execution = self._started.popleft()
            groups[execution.job.funcname].append(execution)
        for function, executions in groups.items():
            waits = self._waits(executions)
            events.emit(
                "jobs.started",
                dbid=self._dbid,
                function=function,
                jobs=len(executions),
                wait_sum=round(sum(waits), _DIGITS),
                wait_max=round(max(waits, default=0.0), _DIGITS),
                waits=waits,
            )

    def _waits(self, executions: Iterable[Execution]) -> list[float]:
        """Return the seconds from due time to start, for those executions for which both are known."""
        offset = self._clock.offset
        if offset is None:
            return []
        return [max(0.0, it.started_at + offset - it.job.run_after) for it in executions if it.job.run_after]
