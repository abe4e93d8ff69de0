"""Copies of jobs that a process has ended: it never starts them again."""

from collections.abc import Iterable
from typing import Final, TypeAlias

from garivini.job import Job

#: Names one copy: database, job and attempt.
Copy: TypeAlias = tuple[int, int, int | None]

#: Copies that are remembered per process. A server can give again only those that it held when the connection
#: was lost: as many as a worker may hold.
MAX_COPIES: Final = 16_384


def copy_of(job: Job) -> Copy:
    """Return the name of the copy that a payload came with."""
    return job.dbid, job.jobid, job.attempt


class EndedCopies(dict[Copy, None]):
    """Copies whose outcome is committed and whose server may not have learned of it.

    When a connection is lost the server gives the copies that it believes to be under way to the next worker,
    which may be this process. The newest ``MAX_COPIES`` are remembered.
    """

    def add(self, copies: Iterable[Copy]) -> None:
        """Remember copies."""
        self.update(dict.fromkeys(copies))
        while len(self) > MAX_COPIES:
            del self[next(iter(self))]
