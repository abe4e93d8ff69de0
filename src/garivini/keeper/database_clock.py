"""The database's clock, as a keeper knows it."""

from collections.abc import Callable

from garivini.keeper.step import NOT_DUE
from garivini.model.job import Job
from garivini.store.database import Database


class DatabaseClock:
    """The offset of the database's clock to the monotonic clock of this process.

    Args:
        database: has the clock.
        monotonic: returns the monotonic time.

    """

    def __init__(self, database: Database, monotonic: Callable[[], float]) -> None:
        self._database = database
        self._monotonic = monotonic
        #: Unix time by the database's clock less monotonic time, in seconds; None before it is read. Other
        #: threads read it.
        self.offset: float | None = None

    def step(self) -> None:
        """Read the clock if its offset is unknown."""
        if self.offset is None:
            # The monotonic time is read before the call. If this process is suspended in between, leases seem
            # to end too early, which costs only start checks. Leases never seem to end too late.
            before = self._monotonic()
            self.offset = self._database.clock() - before

    def next_due(self) -> float:
        """Return infinity: the clock is read in rounds that other parts need."""
        return NOT_DUE

    def refresh(self) -> None:
        """Read the clock again. Its offset is unknown until the database has answered."""
        self.offset = None
        self.step()

    def due_of(self, job: Job) -> int:
        """Return when a job that is returned is due, as a unix time.

        This is the time in its payload, but not later than now.
        """
        if self.offset is None:
            return job.run_after
        return min(job.run_after, int(self._monotonic() + self.offset))
