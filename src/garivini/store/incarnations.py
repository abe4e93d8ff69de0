"""Incarnations of a database: each of them gives an id once, and the next one may give it again.

After an asynchronous failover or from a backup, a database lacks its last commits, and gives new jobs the ids
of lost ones. Then a write by the holder of a lost job would change the row of another job. So each attempt
carries the number of the incarnation that gave it, and each transaction knows the one that it is in. If the
two differ, the row is compared before it is written: see ``recognised``.

The number comes from the server: see ``Dialect.incarnation``. A server is asked once per connection, because
a server does not change its incarnation while a connection stays open. Behind a pooler, it is asked in each
transaction.
"""

from collections.abc import Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

from garivini import events
from garivini.errors import UnreachableError
from garivini.model.job import Job
from garivini.store.chunks import chunks
from garivini.store.dialects.dialect import Dialect
from garivini.store.statements import Statements

#: Stands for the incarnation before a connection has reached any. No database has it.
UNKNOWN: Final = 0


class ReplacedError(UnreachableError):
    """The connection reaches another incarnation than the call is for. Nothing was done."""


class Incarnations:
    """The incarnations that the connections to one database reach.

    Args:
        dbid: of the database.
        where: names the database in messages.
        dialect: asks the server.

    """

    def __init__(self, dbid: int, where: str, dialect: Dialect) -> None:
        self._dbid = dbid
        self._where = where
        self._dialect = dialect
        self._of: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._last: int | None = None

    def of(self, connection: Any) -> int | None:
        """Return the incarnation that a driver's connection reaches; the first call is a round trip."""
        if not self._dialect.has_incarnations:
            return None
        found = None if self._dialect.pooled else self._of.get(connection)
        if found is None:
            found = self._dialect.incarnation(connection)
            if found is not None:
                self._of[connection] = found
                self.reached(found)
        return found

    def reached(self, incarnation: int) -> None:
        """Note the incarnation of a transaction, and report a new one."""
        if incarnation != self._last:
            before, self._last = self._last, incarnation
            if before is not None:
                events.emit("database.replaced", dbid=self._dbid, before=before, incarnation=incarnation)

    @property
    def last(self) -> int | None:
        """The incarnation that was reached last; ``UNKNOWN`` before that, None if the database has none."""
        if self._last is None and self._dialect.has_incarnations:
            return UNKNOWN
        return self._last

    def check(self, reached: int | None, expected: int | None) -> None:
        """Make sure that a transaction is in the incarnation that its call is for.

        Raises:
            ReplacedError: it is in another one.

        """
        if expected is not None and reached is not None and reached != expected:
            raise ReplacedError(f"{self._where} is incarnation {reached} now, and this was for {expected}")


def recognised(run: Statements, jobs: Sequence[Job], *, arguments: bool = True) -> list[Job]:
    """Return those jobs to which their rows still belong. All jobs come from another incarnation.

    A row is that of a job if the time of its insert, its function, its unique key and its attempt are equal.
    The time of the insert is in whole seconds, so the argument is compared as well. Of these values only the
    attempt can change, and each write checks it, so rows that another transaction has locked are compared
    too.

    Args:
        run: runs the statements.
        jobs: the jobs, as their copies have them.
        arguments: whether the jobs have their arguments.

    """
    alike: list[Job] = []
    for part in chunks(sorted({job.jobid for job in jobs})):
        run("lockable", jobids=part)  # which a former primary refuses: it lacks the rows of the new one
        rows = {row[0]: tuple(row[1:]) for row in run("identities", jobids=part)}
        alike += [job for job in jobs if job.jobid in rows and rows[job.jobid] == _identity(job)]
    if not arguments:
        return alike
    same: list[Job] = []
    for part in chunks(list(range(len(alike))), [len(job.arg) for job in alike]):
        rows = dict(run("args", jobids=sorted({alike[index].jobid for index in part})))
        same += [alike[index] for index in part if (rows[alike[index].jobid] or b"") == alike[index].arg]
    return same


def _identity(job: Job) -> tuple[int | None, int, str, str | None]:
    return job.attempt, job.created, job.funcname, job.uniqkey
