"""Moves follow-ups from the outbox of a database to their homes. Blocking."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from garivini.errors import GariviniError, RefusedError, UsageError
from garivini.model.job import NewJob
from garivini.store.database import Database
from garivini.store.homes import home_of, home_of_job
from garivini.store.outbox import Outgoing
from garivini.store.placements import Placements


class Moved(NamedTuple):
    """The result of moving a page of follow-ups."""

    #: The number of follow-ups that have left the outbox.
    jobs: int
    #: The id after which the next page begins; None: this was the last one.
    after: str | None
    #: The errors of follow-ups that could not be moved. These stay in the outbox.
    errors: list[GariviniError]


class OutboxMoves:
    """Moves follow-ups out of one database.

    Args:
        source: the database with the outbox.
        databases: all databases of the queue, by id.

    """

    def __init__(self, source: Database, databases: Mapping[int, Database]) -> None:
        self._source = source
        self._databases = databases
        #: The ids of databases that were found to be drained.
        self._drained: set[int] = set()
        self._placements = Placements()

    def move(self, target: int, after: str = "") -> Moved:
        """Move the next follow-ups for a database.

        Raises:
            UsageError: there is no such database here.
            GariviniError: a database does not answer. The next call moves the follow-ups that are left.

        """
        if target not in self._databases:
            raise UsageError(f"follow-ups wait for database {target}, which is not in this list of databases")
        page = self._source.outgoing(target, after)
        if not page:
            return Moved(0, None, [])
        errors: list[GariviniError] = []
        moved = self._receive(target, page, errors)
        if moved:
            self._source.leave_outbox(target, moved)
        return Moved(len(moved), page[-1].id, errors)

    def _receive(self, target: int, page: Sequence[Outgoing], errors: list[GariviniError]) -> list[Outgoing]:
        """Insert follow-ups into their home; return those that can leave the outbox."""
        try:
            self._databases[target].receive(page)
        except (UsageError, RefusedError) as error:
            if isinstance(error, RefusedError) and error.draining:
                return self._send_elsewhere(target, page)
            if len(page) == 1:
                errors.append(error)
                return []
            half = len(page) // 2
            return self._receive(target, page[:half], errors) + self._receive(target, page[half:], errors)
        return list(page)

    def _send_elsewhere(self, target: int, page: Sequence[Outgoing]) -> list[Outgoing]:
        """Send follow-ups for a drained database to their new homes; return those that need not be moved.

        A follow-up need not be moved if a job with its key is still live in the drained database: it is a
        duplicate of that job.
        """
        self._drained.add(target)
        left: Collection[int] = self._databases.keys() - self._drained
        if not left:
            raise RefusedError("all databases are being drained")
        self._placements.refresh(self._databases.values())
        done: list[Outgoing] = []
        homes: dict[int, list[Outgoing]] = {}
        for it in page:
            if self._is_duplicate(target, it.job):
                done.append(it)
                continue
            home = home_of_job(left, it.job, self._placements.scopes)
            if home is None:  # the function had rules when the follow-up was inserted
                home = home_of(left, it.job.funcname, it.id)
            homes.setdefault(home, []).append(it)
        self._source.retarget(target, homes)
        return done

    def _is_duplicate(self, target: int, job: NewJob) -> bool:
        """Whether a database has a live job with the unique key of this one."""
        return job.uniqkey is not None and self._databases[target].live(job.funcname, job.uniqkey) is not None
