"""The delay before something that failed is tried again."""

import random


class Backoff:
    """How long to leave something alone that has failed: doubling, jittered, bounded.

    Args:
        first: seconds after the first failure.
        longest: seconds, at most.

    """

    def __init__(self, first: float = 0.1, longest: float = 2.0) -> None:
        self._first = first
        self._longest = longest
        self._failures = 0

    def succeeded(self) -> None:
        """Start again from the first delay."""
        self._failures = 0

    def failed(self) -> float:
        """Return the seconds to wait now. Jitter keeps many clients from coming back at one moment."""
        delay = min(self._first * 2.0 ** min(self._failures, 30), self._longest)
        self._failures += 1
        return delay * random.uniform(0.5, 1.0)
