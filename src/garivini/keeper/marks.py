"""Reads the marks of functions. A function is marked when a held job of it is cancelled."""

from collections.abc import Callable, Mapping
from typing import Final

from garivini.keeper.renewals import Renewals
from garivini.keeper.start_checks import StartChecks
from garivini.store.database import Database

#: Seconds between two reads.
_INTERVAL: Final = 1.0


class Marks:
    """Reads once a second which functions are marked.

    A copy of a marked function is checked before it starts. When a job of the function is cancelled, the
    leases of all its jobs in this process are renewed at once. The renewal fails for a cancelled job.

    Args:
        database: has the marks.
        checks: receives the names of the functions.
        renewals: renews the leases of the executions.
        monotonic: returns the monotonic time.

    """

    def __init__(
        self, database: Database, checks: StartChecks, renewals: Renewals, monotonic: Callable[[], float]
    ) -> None:
        self._database = database
        self._checks = checks
        self._renewals = renewals
        self._monotonic = monotonic
        self._due = monotonic()
        self._marks: Mapping[str, int] = {}

    def step(self) -> None:
        """Read the marks, if that is due."""
        now = self._monotonic()
        if now < self._due:
            return
        before, self._marks = self._marks, self._database.marks()
        self._due = now + _INTERVAL
        self._checks.marked = frozenset(self._marks)
        if changed := {name for name, number in self._marks.items() if number != before.get(name)}:
            self._renewals.hasten(changed)

    def next_due(self) -> float:
        """Return when the marks are read again."""
        return self._due
