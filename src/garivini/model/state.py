"""The states of a job."""

from enum import IntEnum


class State(IntEnum):
    """Where a job is. The numbers are the row's."""

    #: Due at ``run_after``.
    WAITING = 0
    #: Handed to Gearman; the lease ends at ``run_after``.
    LEASED = 1
    #: Its holder has renewed the lease.
    RUNNING = 2
    #: Its lease ended once and has not been renewed since.
    SUSPECT = 3
    #: Parked until a person decides.
    DEAD = 4

    @classmethod
    def _missing_(cls, value: object) -> "State":
        # A row of another program with an unknown number is never claimed. Other rows must still be readable.
        return cls.DEAD
