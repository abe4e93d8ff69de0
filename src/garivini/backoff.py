"""The delay before a failed operation is retried."""

import random
from collections.abc import Callable


class Backoff:
    """The delay after each failure in a row: it doubles, has jitter, and has a maximum.

    Args:
        first: seconds after the first failure.
        longest: maximum seconds.
        uniform: returns a random number between two numbers, for the jitter.

    """

    def __init__(
        self,
        first: float = 0.1,
        longest: float = 2.0,
        *,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._first = first
        self._longest = longest
        self._uniform = uniform
        self._failures = 0

    def succeeded(self) -> None:
        """Begin again with the first delay."""
        self._failures = 0

    def failed(self) -> float:
        """Return the seconds to wait now. Jitter keeps many clients from retrying at the same moment."""
        delay = min(self._first * 2.0 ** min(self._failures, 30), self._longest)
        self._failures += 1
        return delay * self._uniform(0.5, 1.0)
