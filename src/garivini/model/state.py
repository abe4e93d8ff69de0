"""The states of a job."""

from enum import IntEnum


class State(IntEnum):
    """The state of a job. The numbers are those of the row."""

    #: Due at ``run_after``.
    WAITING = 0
    #: Claimed and submitted; the lease ends at ``run_after``.
    LEASED = 1
    #: Its holder has renewed the lease.
    RUNNING = 2
    #: Its lease has expired once and was not renewed since.
    SUSPECT = 3
    #: Not run again until an operator retries it.
    DEAD = 4

    @classmethod
    def _missing_(cls, value: object) -> "State":
        # A row of another program with an unknown number is never claimed. Other rows must still be readable.
        return cls.DEAD
