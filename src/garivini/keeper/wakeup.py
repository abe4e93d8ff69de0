"""Wakes the thread of a keeper."""

import threading


class Wakeup:
    """Ends the sleep of one thread, from any other.

    ``set``, ``is_set``, ``wait`` and ``clear`` are those of a ``threading.Event``, called without a call of
    our own in between: they are used for each job. ``is_set`` takes no lock.
    """

    __slots__ = ("clear", "is_set", "set", "until", "wait")

    def __init__(self) -> None:
        event = threading.Event()
        self.set = event.set
        self.is_set = event.is_set
        self.clear = event.clear
        self.wait = event.wait
        #: Monotonic time at which the thread wakes by itself. Work that is due later need not wake it.
        self.until = 0.0
