"""Keepers commit the outcomes of finished jobs and renew the leases of running ones.

Each database has its own keeper, with a thread and a connection. So neither a database that hangs nor a
function that computes delays another database. (C code that holds the interpreter lock delays all keepers, so
a lease should be much longer than any such code holds the lock.)
"""

from collections.abc import Callable, Collection, Mapping
from typing import Final, TypeVar

from garivini import events
from garivini.clock import SYSTEM_CLOCK, Clock
from garivini.keeper.batch_writer import BatchWriter
from garivini.keeper.database_clock import DatabaseClock
from garivini.keeper.execution import Execution
from garivini.keeper.functions import Functions, Registration
from garivini.keeper.job_calls import JobCalls
from garivini.keeper.job_events import JobEvents
from garivini.keeper.leases import Leases
from garivini.keeper.marks import Marks
from garivini.keeper.obituaries import Obituaries
from garivini.keeper.outcome_queue import OutcomeQueue
from garivini.keeper.outcome_writer import OutcomeWriter
from garivini.keeper.recognition import Recognition
from garivini.keeper.renewals import Renewals
from garivini.keeper.reports import Reports
from garivini.keeper.rounds import Rounds
from garivini.keeper.row_changes import RowChanges
from garivini.keeper.setback_writer import SetbackWriter
from garivini.keeper.start_checks import StartChecks
from garivini.keeper.step import Part
from garivini.keeper.supervised_child import SupervisedChild
from garivini.keeper.time_limit import TimeLimit
from garivini.keeper.wakeup import Wakeup
from garivini.model.outcome import Report
from garivini.model.policy import FunctionPolicy
from garivini.store.database import Database

_T = TypeVar("_T")

#: Seconds that a write of many rows waits for a lock. Then the locked rows are left out.
_LOCK_TIMEOUT: Final = 0.2
#: Maximum seconds for the commits at the end.
STOP_TIMEOUT: Final = 10.0
#: Maximum seconds for the database's answer to the last commit.
_LAST_ANSWER: Final = 0.5


def _emit_given_back(executions: list[Execution]) -> None:
    events.emit("jobs.given_back", jobs=len(executions))


def _both(first: Callable[[_T], None], then: Callable[[_T], None]) -> Callable[[_T], None]:
    """Return a function that passes its argument to two others."""

    def both(argument: _T) -> None:
        first(argument)
        then(argument)

    return both


class Keeper:
    """The thread that writes the rows of the jobs of one database that a process holds.

    Each concern is a part of its own, and each round of the thread runs the steps of all parts. The methods
    that other threads call are those of the parts:

    * ``must_check``, ``check``, ``drop``: see ``StartChecks``;
    * ``hold``: see ``Renewals``; ``limit``: see ``TimeLimit``;
    * ``report``: see ``Reports.add``; ``end``: see ``OutcomeQueue``;
    * ``read_functions``: see ``Functions.read``.

    Args:
        database: has the jobs.
        on_committed: called in the keeper's thread with the executions whose outcome is committed.
        on_checked: called in the keeper's thread with an execution that waited for its start check, and
            whether its attempt holds the job.
        take_back: called in the keeper's thread; removes an execution from the worker's queue for good and
            returns whether it was still there.
        on_given_back: called in the keeper's thread with executions whose jobs another worker may have now.
        on_cancelled: called in the keeper's thread with an execution whose job was cancelled.
        running: returns what the main thread runs now; called in the keeper's thread.
        on_overdue: called in the keeper's thread when the main thread's job runs too long and its failure is
            committed; ends the process.
        arguments: whether the jobs of executions have their arguments; a Controller does not keep them.
        functions: this worker's settings of its functions, declared at the start; a Controller has none.
        on_settings: called in the keeper's thread with the settings that apply to these functions, each time
            they are read.
        child: the data from the supervisor, if there is one. Only then does a time limit end the process.
        databases: the ids of all databases of the queue; empty: this one alone.
        on_inserted: called in the keeper's thread after follow-ups were inserted.
        clock: gives the time, and waits.

    """

    def __init__(
        self,
        database: Database,
        *,
        on_committed: Callable[[list[Execution]], None],
        on_checked: Callable[[Execution, bool], None],
        take_back: Callable[[Execution], bool],
        on_given_back: Callable[[list[Execution]], None],
        on_cancelled: Callable[[Execution], None] = lambda execution: None,
        running: Callable[[], Execution | None] = lambda: None,
        on_overdue: Callable[[Execution], None] = lambda execution: None,
        arguments: bool = True,
        functions: Mapping[str, FunctionPolicy] = {},  # read only
        on_settings: Callable[[Mapping[str, FunctionPolicy]], None] = lambda policies: None,
        child: SupervisedChild | None = None,
        databases: Collection[int] = (),
        on_inserted: Callable[[], None] = lambda: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._shared = database
        self._database = own = database.with_lock_timeout(_LOCK_TIMEOUT)
        self._monotonic = monotonic = clock.monotonic
        wakeup = Wakeup(clock.event())
        writer = BatchWriter(monotonic, locks_rows=database.locks_rows)
        setbacks = SetbackWriter(own, writer)
        recognition = Recognition(own, arguments=arguments)
        leases = Leases(own, writer, recognition)
        database_clock = DatabaseClock(own, monotonic)
        #: The settings of functions.
        self.functions: Functions = Functions(own, functions, leases, wakeup, monotonic, on_settings)
        #: Measures jobs for the events of their starts and ends.
        self.job_events: JobEvents = JobEvents(own.dbid, database_clock, monotonic)
        unstarted = RowChanges(writer, own.mark_leased, recognition, monotonic)
        checks = StartChecks(leases, recognition, database_clock, unstarted, wakeup, on_checked, monotonic)
        reports = Reports(own, writer, recognition, wakeup, monotonic)
        #: The calls of running functions about their own jobs.
        self.job_calls: JobCalls = JobCalls(database, databases, self.functions, reports)
        ends = OutcomeWriter(own, writer, recognition, setbacks, self.functions, database_clock, on_inserted)
        committed = _both(on_committed, self.job_events.end)
        self._outcomes = outcomes = OutcomeQueue(own.dbid, ends, reports, wakeup, committed, monotonic)
        given = _both(_emit_given_back, on_given_back)
        given_back = RowChanges(writer, own.give_back, recognition, monotonic, given)
        limit = TimeLimit(
            *(own.dbid, setbacks, recognition, self.functions, wakeup, running, on_overdue, monotonic),
            ends_process=child is not None,
        )
        cancelled = _both(limit.limit_cancelled, on_cancelled)
        renewals = Renewals(
            *(leases, given_back, database_clock, self.functions, wakeup, take_back, cancelled, monotonic)
        )
        marks = Marks(own, checks, renewals, monotonic)
        obituaries = Obituaries(child, own.dbid, setbacks, writer, recognition, monotonic)
        # In the order of the steps: reports come before the outcomes of their jobs, registration comes last.
        first: list[Part] = [recognition, obituaries, self.functions, database_clock, marks, checks]
        then: list[Part] = [self.job_events, reports, outcomes, unstarted, renewals, given_back, limit]
        parts = [*first, *then, Registration(own, functions, self.functions, wakeup)]
        self._rounds = Rounds(own.dbid, parts, wakeup, outcomes, limit, writer.concerns_all, clock)
        self._thread = clock.thread(self._run, f"garivini-keeper-{own.dbid}")
        self._publish(renewals, checks, reports, limit)

    def _publish(
        self, renewals: Renewals, checks: StartChecks, reports: Reports, time_limit: TimeLimit
    ) -> None:
        """Bind the calls of other threads as attributes, because methods would cost another call per job."""
        self.must_check: Callable[[Execution], bool] = checks.must_check
        self.check: Callable[[Execution], None] = checks.check
        self.drop: Callable[[Execution], None] = checks.drop
        self.hold: Callable[[Execution], None] = renewals.hold
        self.limit: Callable[[Execution, float], None] = time_limit.limit
        self.report: Callable[[Report], None] = reports.add
        self.end: Callable[[Execution], None] = self._outcomes.end
        self.read_functions: Callable[[], None] = self.functions.read

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float = STOP_TIMEOUT) -> int:
        """Commit the outcomes of executions that have ended, and end the thread.

        Args:
            timeout: maximum seconds for the commits.

        Returns:
            The number of outcomes that are not committed, or whose commit the database has not answered.
            The event ``keeper.abandoned`` reports this number. Jobs whose outcomes are not committed run
            again when their leases expire.

        """
        self._rounds.stop_by(self._monotonic() + timeout)
        self._thread.join(timeout + _LAST_ANSWER)
        if left := self._outcomes.unwritten:
            events.emit("keeper.abandoned", dbid=self._database.dbid, outcomes=left, seconds=timeout)
        return left

    def _run(self) -> None:
        try:
            self._rounds.run()
        finally:
            if self._database is not self._shared:
                self._database.close()
