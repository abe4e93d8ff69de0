"""Declares the schedules of a process at its start, and then records once a minute that it still runs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec.structs import asdict

from garivini import events
from garivini.backoff import Backoff
from garivini.clock import SYSTEM_CLOCK, Clock
from garivini.errors import GariviniError
from garivini.model.schedule import Schedule
from garivini.store.database import Database
from garivini.store.shards import Shards

#: Seconds between two steps. A schedule is retired if it has not been declared for ten times as long.
_INTERVAL: Final = 60.0
#: Seconds until a step is retried that has failed: after the first failure, and the maximum.
_RETRY: Final = (1.0, _INTERVAL)


class DeclaredSchedules:
    """Declares schedules, in a separate thread.

    Args:
        shards: the databases. A schedule that none of them has is created in its home.
        schedules: the definitions by name.
        clock: gives the time, and creates the thread.

    """

    def __init__(
        self, shards: Shards, schedules: Mapping[str, Schedule], clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._shards = shards
        self._names = frozenset(schedules)
        #: The schedules that have not been declared since the start. Each is declared once, so that two
        #: versions of a program that run at the same time do not change a schedule in turn.
        self._undeclared = dict(schedules)
        self._clock = clock
        self._stop = clock.event()

    def start(self) -> None:
        """Start the thread."""
        self._clock.thread(self._run, "garivini-schedules").start()

    def stop(self) -> None:
        """End the thread when its step has ended."""
        self._stop.set()

    def _run(self) -> None:
        backoff = Backoff(*_RETRY, uniform=self._clock.uniform)
        while True:
            errors: Sequence[Exception]
            try:
                errors = self.step()
            except Exception as error:  # a defect must not retire the schedules
                errors = [error]
            for text in sorted({str(error) or repr(error) for error in errors}):
                events.emit("schedules.undeclared", error=text)
            if not errors:
                backoff.succeeded()
            if self._stop.wait(backoff.failed() if errors else _INTERVAL):
                return

    def step(self) -> list[GariviniError]:
        """Declare schedules that are not declared yet, and record that this process runs; return the errors.

        A schedule or database that fails does not affect the others. But while a database does not answer, no
        schedule is created, because that database may have it already.
        """
        errors: list[GariviniError] = []
        everywhere: set[str] = set()
        unknown = False
        for database in self._shards:
            try:
                found = {entry.name: entry.declared for entry in database.schedules()}
                known = self._names & found.keys()
                if known:
                    database.see_schedules(sorted(known))
            except GariviniError as error:
                errors.append(error)
                unknown = True
                continue
            everywhere |= known
            for name in sorted(known & self._undeclared.keys()):
                if found[name] == asdict(self._undeclared[name]):
                    del self._undeclared[name]
                else:
                    errors += self._declare(database, name)
        if not unknown:
            for name in sorted(self._undeclared.keys() - everywhere):
                errors += self._declare(self._shards.home("", name), name)
        return errors

    def _declare(self, database: Database, name: str) -> Iterable[GariviniError]:
        try:
            database.declare_schedule(name, self._undeclared[name])
            database.see_schedules([name])
        except GariviniError as error:
            return [error]
        del self._undeclared[name]
        return []
