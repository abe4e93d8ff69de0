"""Remembers the copies that a process has ended, so that it never starts them again."""

from collections.abc import Iterable
from typing import Final, TypeAlias

from garivini.model.job import Job

#: Names one copy: database, job and attempt.
Copy: TypeAlias = tuple[int, int, int | None]

#: Copies remembered per process. A server can resend only the copies that were in flight on a connection when
#: it was lost, and a worker may hold only a limited number of them.
MAX_COPIES: Final = 16_384


def copy_of(job: Job) -> Copy:
    """Return the name of the copy that a payload came with."""
    return job.dbid, job.jobid, job.attempt


class EndedCopies(dict[Copy, None]):
    """Copies whose outcome is committed, but possibly not received by the server.

    When a connection is lost, the server gives the copies that were in flight on it to the next worker, which
    may be this process. The newest ``MAX_COPIES`` are remembered.
    """

    def add(self, copies: Iterable[Copy]) -> None:
        """Remember copies."""
        self.update(dict.fromkeys(copies))
        while len(self) > MAX_COPIES:
            del self[next(iter(self))]

    def drops(self, copy: Copy) -> bool:
        """Return whether this process has already ended a copy that has arrived.

        All copies of one job that come without an attempt have the same name. So such a copy, once it has
        ended, drops only the next one that arrives.
        """
        if copy not in self:
            return False
        if copy[2] is None:
            del self[copy]
        return True
