"""Several databases as one queue: which one a job goes to, and which one to avoid for some time."""

import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeAlias

from garivini.databases import DatabasesLike, parse_databases
from garivini.errors import (
    ConflictError,
    GariviniError,
    OutcomeUnknownError,
    RefusedError,
    UnreachableError,
    UsageError,
)
from garivini.model.inserted import Inserted
from garivini.model.job import Job, NewJob
from garivini.store.callers import cursor_of
from garivini.store.database import Database
from garivini.store.homes import check_key, home_of, home_of_job
from garivini.store.placements import Placements

#: Inserts jobs into one database; the answers are in the order of the jobs.
Insert: TypeAlias = Callable[[Database, Sequence[NewJob]], list[Inserted]]


def _insert(database: Database, jobs: Sequence[NewJob]) -> list[Inserted]:
    return database.insert(jobs)


class Shards:
    """The databases of a queue, by id.

    A job with a unique key has one home, so that the key is unique over all of them. So has a job of a
    function with rules, because each database keeps the rules by itself. Any other job goes to a random
    healthy database.
    """

    def __init__(self, dbs: DatabasesLike, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._databases = {entry.dbid: Database(entry) for entry in parse_databases(dbs)}
        self._placements = Placements(clock)

    def __iter__(self) -> Iterator[Database]:
        return iter(self._databases.values())

    def __getitem__(self, dbid: int) -> Database:
        try:
            return self._databases[dbid]
        except KeyError:
            known = ", ".join(map(str, self._databases))
            raise UsageError(f"there is no database {dbid} here; there is {known}") from None

    def home(self, funcname: str, uniqkey: str, *, without: Collection[int] = ()) -> Database:
        """Return the database of a unique key; see ``home_of``. ``without``: ids to leave out."""
        rest = [dbid for dbid in self._databases if dbid not in without]
        return self._databases[home_of(rest, funcname, uniqkey)]

    def home_of_job(self, job: Job | NewJob, *, without: Collection[int] = ()) -> Database | None:
        """Return the database that a job belongs to by the rules that are known; None: it may be in any."""
        scopes = self._placements.scopes
        if job.uniqkey is None and not scopes:
            return None
        home = home_of_job([dbid for dbid in self._databases if dbid not in without], job, scopes)
        return None if home is None else self._databases[home]

    def target(self, job: Job, *, without: Collection[int]) -> Database:
        """Return the database to which a job of another database moves: its home, or any."""
        self._placements.refresh(self)
        rest = [database for database in self if database.dbid not in without]
        return self.home_of_job(job, without=without) or random.choice(rest)

    def insert(
        self, jobs: Sequence[NewJob], *, connection: Any = None, into: Insert = _insert
    ) -> list[Inserted]:
        """Insert jobs, one transaction per database; return one answer per job, in order.

        Jobs without a key come last, and those without a home all together: if a database fails, none of
        these is stored, so that the same jobs can be inserted again unless functions have rules. The call
        stops at the first database that fails.

        Args:
            jobs: to insert.
            connection: a caller's own; all jobs go to its database, in its transaction.
            into: called with a database and the jobs for it.

        Raises:
            UsageError: a job cannot have a unique key, or belongs to another database than the connection.
            UnreachableError, RefusedError, ConflictError: nothing was inserted in the database that failed;
                with several databases, others may have stored their part: see ``stored`` and ``failed``.
            OutcomeUnknownError: the connection was lost at the commit.

        """
        if connection is not None:
            return self._database_of(connection, jobs).insert(jobs, connection=connection)
        answers: dict[int, Inserted] = {}
        indexes: Sequence[int] = range(len(jobs))
        try:
            if len(self._databases) == 1:
                (database,) = self
                return into(database, jobs)
            self._check_keys(jobs)
            for home, indexes in self._parts(jobs):
                part = [jobs[index] for index in indexes]
                found = self._anywhere(part, into) if home is None else self._at_home(home, part, into)
                answers.update(zip(indexes, found, strict=True))
        except GariviniError as error:
            error.stored = answers | {indexes[number]: at for number, at in error.stored.items()}
            error.failed = [indexes[number] for number in error.failed] or indexes
            raise
        return [answers[index] for index in range(len(jobs))]

    def _parts(self, jobs: Sequence[NewJob]) -> list[tuple[Database | None, list[int]]]:
        """Return the positions of the jobs by their homes: those without unique keys last, None at the end.

        A part whose jobs all have keys can be stored twice without a second job.
        """
        homes: dict[Database | None, list[int]] = {}
        for index, job in enumerate(jobs):
            homes.setdefault(self.home_of_job(job), []).append(index)

        def order(part: tuple[Database | None, list[int]]) -> tuple[bool, bool]:
            home, indexes = part
            return home is None, any(jobs[index].uniqkey is None for index in indexes)

        return sorted(homes.items(), key=order)

    def _check_keys(self, jobs: Sequence[NewJob]) -> None:
        """Read the rules of functions if they are too old; check the unique keys of the jobs."""
        self._placements.refresh(self)
        if scopes := self._placements.scopes:
            for job in jobs:
                check_key(job, scopes)

    def _database_of(self, connection: Any, jobs: Sequence[NewJob]) -> Database:
        """Return the database that a caller's connection leads to."""
        if len(self._databases) == 1:
            (database,) = self
            return database
        _, url = cursor_of(connection)
        found = [database for database in self if url is not None and database.is_at(url)]
        if len(found) != 1:
            raise UsageError("which of the databases the connection leads to cannot be told from it")
        self.check_homes(found[0], jobs, "the connection")
        return found[0]

    def check_homes(self, database: Database, jobs: Sequence[NewJob], what: str) -> None:
        """Make sure that jobs may be inserted into a database; ``what`` names it.

        Raises:
            UsageError: one belongs to another database.

        """
        if len(self._databases) == 1:
            return
        self._check_keys(jobs)
        for job in jobs:
            home = self.home_of_job(job)
            if home is not None and home is not database:
                kind = f"function {job.funcname!r} with its rules"
                if job.funcname not in self._placements.scopes:
                    kind = f"unique key {job.uniqkey!r}"
                raise UsageError(f"{kind} belongs to another database than {what}: {home.where}")

    def database_for(self, connection: Any = None) -> Database:
        """Return the database that a caller's connection leads to, or without one, a random database."""
        if connection is not None:
            return self._database_of(connection, ())
        return random.choice(list(self))

    def _at_home(self, home: Database, jobs: Sequence[NewJob], into: Insert) -> list[Inserted]:
        """Insert jobs into their home, or the next database if that one is being drained."""
        try:
            return into(home, jobs)
        except RefusedError as error:
            if not error.draining:
                raise
        answers: list[Inserted] = []
        for number, job in enumerate(jobs):
            try:
                answers.append(self._after_drain(home, job, into))
            except GariviniError as error:
                error.stored, error.failed = dict(enumerate(answers)), [number]
                raise
        return answers

    def _after_drain(self, home: Database, job: NewJob, into: Insert) -> Inserted:
        """Insert a job whose home is being drained into its new home."""
        drained = [home.dbid]
        while True:
            # A job that is still there has not been moved yet, and a trigger prevents new ones.
            if job.uniqkey is not None:
                live = self[drained[-1]].live(job.funcname, job.uniqkey)
                if live is not None:
                    return live
            next_home = self.home_of_job(job, without=drained) or home
            drained.append(next_home.dbid)
            try:
                return into(next_home, [job])[0]
            except RefusedError as error:
                if not error.draining or len(drained) == len(self._databases):
                    raise

    def _anywhere(self, jobs: Sequence[NewJob], into: Insert) -> list[Inserted]:
        databases = list(self)
        random.shuffle(databases)
        # The avoided ones come last: if all have failed, trying one is better than refusing.
        databases.sort(key=lambda database: self._placements.avoids(database.dbid))
        for database in databases[:-1]:
            try:
                return into(database, jobs)
            except (UnreachableError, RefusedError, ConflictError):
                self._placements.avoid(database.dbid)
            except OutcomeUnknownError:
                self._placements.avoid(database.dbid)
                raise
        return into(databases[-1], jobs)

    def close(self) -> None:
        """Close the idle connections, except those of a caller's Engine."""
        for database in self:
            database.close()
