"""Wakes the thread of a keeper."""

import threading
from collections.abc import Callable


class Wakeup:
    """Ends the sleep of one thread, from any other.

    ``set``, ``is_set``, ``wait`` and ``clear`` are the methods of a ``threading.Event`` themselves, because
    methods of our own around them would cost another call per job. ``is_set`` takes no lock.
    """

    __slots__ = ("clear", "is_set", "set", "until", "wait")

    def __init__(self, event: threading.Event) -> None:
        self.set: Callable[[], None] = event.set
        self.is_set: Callable[[], bool] = event.is_set
        self.clear: Callable[[], None] = event.clear
        self.wait: Callable[[float], bool] = event.wait
        #: Monotonic time at which the thread wakes by itself. Work that is due later need not wake it.
        self.until: float = 0.0
