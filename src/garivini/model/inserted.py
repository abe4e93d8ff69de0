"""The answer to an insert."""

from collections.abc import Iterator

import msgspec

from garivini.model.state import State


class Inserted(msgspec.Struct, frozen=True, eq=False):
    """The answer to an insert. Unpacks as ``(jobid, dbid)``."""

    jobid: int
    dbid: int
    #: False where a live job had the unique key already: then ``jobid`` is that job's.
    new: bool = True
    #: Unix time by the database's clock at which it was stored; 0 where it is not new.
    created: int = 0
    #: The state of the live job with the key at that time; None for a new job. It is not compared.
    state: State | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Inserted) and self._compared == other._compared

    def __hash__(self) -> int:
        return hash(self._compared)

    @property
    def _compared(self) -> tuple[int, int, bool, int]:
        return self.jobid, self.dbid, self.new, self.created

    @property
    def dead(self) -> bool:
        """Whether the job is dead; it has the unique key until an operator retries or deletes it."""
        return self.state is State.DEAD

    def __iter__(self) -> Iterator[int]:
        return iter((self.jobid, self.dbid))

    @property
    def id(self) -> str:
        """The job's id as text, ``1:42`` for job 42 of database 1."""
        return f"{self.dbid}:{self.jobid}"
