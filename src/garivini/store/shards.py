"""Several databases as one queue: which one a job goes to, and which one to avoid for some time."""

import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Final, TypeAlias

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
from garivini.store.homes import home_of

#: Seconds for which inserts avoid a database that failed.
AVOID: Final = 30.0

#: Inserts jobs into one database; the answers are in the order of the jobs.
Insert: TypeAlias = Callable[[Database, Sequence[NewJob]], list[Inserted]]


def _insert(database: Database, jobs: Sequence[NewJob]) -> list[Inserted]:
    return database.insert(jobs)


class Shards:
    """The databases of a queue, by id.

    A job with a unique key has one home, so that the key is unique over all of them; any other job goes to
    a random healthy database.
    """

    def __init__(self, dbs: DatabasesLike, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._databases = {entry.dbid: Database(entry) for entry in parse_databases(dbs)}
        self._clock = clock
        self._avoid_until: dict[int, float] = {}

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

    def target(self, job: Job, *, without: Collection[int]) -> Database:
        """Return the database to which a job of another database moves: its key's home, or any."""
        if job.uniqkey is not None:
            return self.home(job.funcname, job.uniqkey, without=without)
        return random.choice([database for database in self if database.dbid not in without])

    def insert(
        self, jobs: Sequence[NewJob], *, connection: Any = None, into: Insert = _insert
    ) -> list[Inserted]:
        """Insert jobs, one transaction per database; return one answer per job, in order.

        Jobs without a key come last and all together: if a database fails, none of them is stored, so that
        the same jobs can be inserted again. The call stops at the first database that fails.

        Args:
            jobs: to insert.
            connection: a caller's own; all jobs go to its database, in its transaction.
            into: called with a database and the jobs for it.

        Raises:
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
        """Return the positions of the jobs by the home of their keys, those without a key (None) last."""
        keyless: list[int] = []
        homes: dict[int, list[int]] = {}
        for index, job in enumerate(jobs):
            if job.uniqkey is None:
                keyless.append(index)
            else:
                homes.setdefault(self.home(job.funcname, job.uniqkey).dbid, []).append(index)
        keyed = [(self[dbid], indexes) for dbid, indexes in homes.items()]
        return [*keyed, (None, keyless)] if keyless else [*keyed]

    def _database_of(self, connection: Any, jobs: Sequence[NewJob]) -> Database:
        """Return the database that a caller's connection leads to."""
        if len(self._databases) == 1:
            (database,) = self
            return database
        _, url = cursor_of(connection)
        found = [database for database in self if url is not None and database.is_at(url)]
        if len(found) != 1:
            raise UsageError("which of the databases the connection leads to cannot be told from it")
        for job in jobs:
            if job.uniqkey is not None and self.home(job.funcname, job.uniqkey) is not found[0]:
                raise UsageError(
                    f"unique key {job.uniqkey!r} belongs to another database than the connection"
                )
        return found[0]

    def _at_home(self, home: Database, jobs: Sequence[NewJob], into: Insert) -> list[Inserted]:
        """Insert jobs with unique keys into their home, or the next database if that one is being drained."""
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
        """Insert a job with a unique key whose home is being drained into the key's new home."""
        assert job.uniqkey is not None
        drained = [home.dbid]
        while True:
            # A job that is still there has not been moved yet, and a trigger prevents new ones.
            live = self[drained[-1]].live(job.funcname, job.uniqkey)
            if live is not None:
                return live
            next_home = self.home(job.funcname, job.uniqkey, without=drained)
            drained.append(next_home.dbid)
            try:
                return into(next_home, [job])[0]
            except RefusedError as error:
                if not error.draining or len(drained) == len(self._databases):
                    raise

    def _anywhere(self, jobs: Sequence[NewJob], into: Insert) -> list[Inserted]:
        now = self._clock()
        databases = list(self)
        random.shuffle(databases)
        # The avoided ones come last: if all have failed, trying one is better than refusing.
        databases.sort(key=lambda database: self._avoid_until.get(database.dbid, 0.0) > now)
        for database in databases[:-1]:
            try:
                return into(database, jobs)
            except (UnreachableError, RefusedError, ConflictError):
                self._avoid_until[database.dbid] = now + AVOID
            except OutcomeUnknownError:
                self._avoid_until[database.dbid] = self._clock() + AVOID
                raise
        return into(databases[-1], jobs)

    def close(self) -> None:
        """Close the idle connections, except those of a caller's Engine."""
        for database in self:
            database.close()
