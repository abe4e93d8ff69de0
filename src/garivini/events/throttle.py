"""Limits how many similar events a process emits: ``events.limiter`` with a clock, a lock and a timer."""

import os
import threading
import time
from typing import Any

from garivini import events
from garivini.events.limiter import INTERVAL, Limiter


class _Throttle:
    """The gate of this process. Thread-safe."""

    def __init__(self) -> None:
        self._limiter = Limiter()
        self._lock = threading.Lock()
        #: Emits the held events; it exists while there are any.
        self._timer: threading.Timer | None = None

    def admit(self, name: str, fields: dict[str, Any]) -> bool:
        with self._lock:
            if self._limiter.admit(name, fields, time.monotonic()):
                return True
            if self._timer is None:
                self._timer = threading.Timer(INTERVAL, self.emit_held)
                self._timer.daemon = True
                self._timer.start()
            return False

    def emit_held(self) -> None:
        """Emit the held events now."""
        with self._lock:
            held = self._limiter.take_held(time.monotonic())
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        for name, fields in held:
            events.emit_unlimited(name, fields)

    def restart(self) -> None:
        self.emit_held()
        with self._lock:
            self._limiter = Limiter()


_throttle: _Throttle | None = None


def install() -> None:
    """Limit events in this process from now on. Components with untrusted input call this."""
    global _throttle
    if _throttle is None:
        _throttle = _Throttle()
        events.limit(_throttle)


def emit_held() -> None:
    """Emit the held events now."""
    if _throttle is not None:
        _throttle.emit_held()


def _after_fork() -> None:
    # The timer and the held events belong to the parent.
    global _throttle
    if _throttle is not None:
        _throttle = None
        install()


os.register_at_fork(after_in_child=_after_fork)
