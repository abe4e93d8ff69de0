"""Recognises the rows of jobs that this process received from another incarnation of the database."""

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec.structs import force_setattr

from garivini import events
from garivini.keeper.step import NOT_DUE
from garivini.model.job import Job
from garivini.store.database import Database

#: A job whose row was not recognised gets this incarnation, which no database has.
_NONE: Final = 2**32


class Recognition:
    """Decides which jobs may be written: those of the present incarnation, and those recognised in it.

    The keeper writes only to the incarnation that it knows. If the database is replaced, its writes are
    refused until the next round has read the new incarnation. A job that is recognised belongs to the new
    incarnation from then on.

    Args:
        database: as the keeper uses it, with a short lock timeout.
        arguments: whether jobs have their arguments, which are then compared with the rows.

    """

    def __init__(self, database: Database, *, arguments: bool) -> None:
        self._database = database
        self._arguments = arguments
        #: The incarnation that writes go to; None: not known yet, or the database has none. Other threads
        #: read it.
        self.current: int | None = None
        self._known = False

    def step(self) -> None:
        """Read the incarnation at the start, and when a connection has reached another incarnation."""
        if not self._known or self._database.incarnation != self.current:
            self.current = self._database.expect()
            self._known = True

    def next_due(self) -> float:
        """Return infinity: a refused write is retried in the next round, and this step comes first in it."""
        return NOT_DUE

    def is_foreign(self, job: Job) -> bool:
        """Return whether a job comes from another incarnation, as far as is known."""
        return job.incarnation != self.current and job.incarnation is not None and self.current is not None

    def unrecognised(self, jobs: Iterable[Job]) -> set[int]:
        """Return the identities (``id``) of the jobs of another incarnation whose rows are not recognised.

        Raises:
            GariviniError: the rows cannot be read.

        """
        current = self.current
        foreign = [job for job in jobs if job.incarnation != current and job.incarnation is not None]
        if not foreign or current is None:
            return set()
        return self._compare(foreign, current)

    def report(self, outcomes: int) -> None:
        """Report outcomes that were not written, because the rows of their jobs were not recognised."""
        events.emit("outcomes.unrecognised", dbid=self._database.dbid, outcomes=outcomes)

    def _compare(self, jobs: Sequence[Job], current: int) -> set[int]:
        asked = [job for job in jobs if job.incarnation != _NONE]
        same = self._database.recognised(asked, arguments=self._arguments) if asked else []
        for job in same:
            force_setattr(job, "incarnation", current)
        unknown = [job for job in jobs if job.incarnation != current]
        for job in unknown:
            force_setattr(job, "incarnation", _NONE)
        return {id(job) for job in unknown}
