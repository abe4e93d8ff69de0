"""The result of an insert."""

from collections.abc import Iterator
from typing import SupportsIndex, overload

import msgspec

from garivini.model.state import State


class Inserted(msgspec.Struct, frozen=True, eq=False):
    """The result of an insert. It unpacks and indexes like the pair ``(jobid, dbid)``."""

    jobid: int
    dbid: int
    #: False if a job with the unique key already exists. Then ``jobid`` is that of the existing job.
    new: bool = True
    #: Unix time by the database's clock at which a new job was stored; otherwise 0.
    created: int = 0
    #: The state of the existing job; None for a new job. Comparisons ignore it.
    state: State | None = None
    #: The incarnation of the database that stored a new job; None: the database has none, or the insert was
    #: part of the caller's transaction. Comparisons ignore it.
    incarnation: int | None = None
    #: Whether the insert has replaced the argument of the existing job. Comparisons ignore it.
    replaced: bool = False
    #: Whether the insert is stored as a successor, which becomes a job when the existing job ends.
    #: Comparisons ignore it.
    queued: bool = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Inserted) and self._compared == other._compared

    def __hash__(self) -> int:
        return hash(self._compared)

    @property
    def _compared(self) -> tuple[int, int, bool, int]:
        return self.jobid, self.dbid, self.new, self.created

    @property
    def dead(self) -> bool:
        """Whether the existing job is dead. Then nothing runs until that job is retried or deleted."""
        return self.state is State.DEAD

    def __iter__(self) -> Iterator[int]:
        return iter((self.jobid, self.dbid))

    def __len__(self) -> int:
        return 2

    @overload
    def __getitem__(self, index: SupportsIndex) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[int, ...]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> int | tuple[int, ...]:
        return (self.jobid, self.dbid)[index]

    @property
    def id(self) -> str:
        """The job's id as text, ``1:42`` for job 42 of database 1."""
        return f"{self.dbid}:{self.jobid}"
