"""One step of a keeper's round: the work of one part, and its pause after an error."""

from typing import Final, Protocol

from garivini.backoff import Backoff
from garivini.clock import Clock

#: The result of ``next_due`` of a part that has no work.
NOT_DUE: Final = float("inf")


class Part(Protocol):
    """A concern of a keeper. Both methods are called in the keeper's thread."""

    def step(self) -> None:
        """Do the work that is due.

        Raises:
            GariviniError: some of the work was not done, and is due again.

        """

    def next_due(self) -> float:
        """Return the monotonic time at which work is due, infinity if there is none."""


class Step:
    """Runs the step of a part. After an error, it pauses without delaying the steps of other parts."""

    def __init__(self, part: Part, clock: Clock) -> None:
        self.part: Part = part
        #: The error because of which the step pauses.
        self.error: Exception | None = None
        self._monotonic = clock.monotonic
        self._paused_until = 0.0  # monotonic
        self._backoff = Backoff(first=0.05, longest=2.0, uniform=clock.uniform)

    def is_due(self) -> bool:
        """Return whether the step may run now."""
        return self._monotonic() >= self._paused_until

    def next_due(self) -> float:
        """Return the monotonic time at which the step must run."""
        return self.part.next_due() if self.error is None else self._paused_until

    def failed(self, error: Exception) -> None:
        """Pause, longer each time."""
        self.error = error
        self._paused_until = self._monotonic() + self._backoff.failed()

    def succeeded(self) -> None:
        """End the pause."""
        if self.error is not None:
            self.error = None
            self._paused_until = 0.0
            self._backoff.succeeded()
