"""The states of a job."""

from enum import IntEnum

from garivini.errors import UsageError


class State(IntEnum):
    """The state of a job. The numbers are those of the row."""

    #: The job waits, and is due at ``run_after``.
    WAITING = 0
    #: The job is claimed and submitted; its lease ends at ``run_after``.
    LEASED = 1
    #: The holder of the job has renewed its lease.
    RUNNING = 2
    #: The job's lease has expired once and was not renewed since.
    SUSPECT = 3
    #: The job does not run again until an operator retries it.
    DEAD = 4

    @classmethod
    def _missing_(cls, value: object) -> "State | None":
        # A state of a newer version, or a number of another program. A row with it must still be readable.
        if not isinstance(value, int):
            return None
        state = int.__new__(cls, value)
        state._name_, state._value_ = str(value), value
        return state

    @property
    def known(self) -> bool:
        """Whether this is one of the states above. The name of any other state is its number.

        A job in another state is never claimed and not changed, only shown and deleted.
        """
        return self.name in type(self).__members__


def parse_state(state: str) -> State:
    """Return the state of this name.

    Raises:
        UsageError: no state has it.

    """
    try:
        return State[state.upper()]
    except (KeyError, AttributeError):
        names = ", ".join(member.name.lower() for member in State)
        raise UsageError(f"state {state!r:.100} is unknown: it is one of {names}") from None
