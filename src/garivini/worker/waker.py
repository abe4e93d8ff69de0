"""Wakes a QueueRunner after follow-ups were inserted."""

import asyncio
from collections.abc import Callable


class Waker:
    """Wakes a QueueRunner in a thread of the loop's executor, by one call at a time.

    If ``wake`` is called during such a call, another call follows.

    Args:
        loop: the loop in which ``wake`` is called.
        wake: wakes a QueueRunner; it blocks, and never fails.

    """

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self._loop = loop
        self._wake = wake
        self._running = False
        self._again = False

    def wake(self) -> None:
        """Wake a QueueRunner soon."""
        if self._running:
            self._again = True
            return
        self._running = True
        self._loop.run_in_executor(None, self._wake).add_done_callback(self._woken)

    def _woken(self, _: asyncio.Future[None]) -> None:
        self._running = False
        if self._again:
            self._again = False
            self.wake()
