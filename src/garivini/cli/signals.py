"""Signals for commands that start processes of their own."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Whether SIGTERM is deferred now, and the deferred signal; 0: none.
_deferred = False
_waiting = 0


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that the command ends the processes that it has started."""
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def sigterm_deferred() -> Iterator[None]:
    """Defer SIGTERM to the end of the block, which starts a process and registers it to be ended.

    Otherwise the signal could arrive between these two steps, and nothing would end the process.
    """
    global _deferred, _waiting
    _deferred, _waiting = True, 0
    try:
        yield
    finally:
        _deferred = False
        if _waiting:
            sys.exit(128 + _waiting)


def _exit(number: int, frame: Any) -> None:
    global _waiting
    if _deferred:
        _waiting = number
    else:
        sys.exit(128 + number)
