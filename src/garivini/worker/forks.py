"""Child processes that a function forks: they do not inherit the worker's signal handlers and connections.

``multiprocessing`` and ``os.fork`` would copy both. A child with these handlers would not end at the SIGTERM
that ``multiprocessing.Pool`` sends it. A child with an open socket would hide the death of its worker from
the Gearman server. A child that returns from the function would continue as a second worker on the same
sockets.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

#: Returns the descriptors of the running worker's connections; None if no worker runs.
_descriptors: Callable[[], Iterable[int]] | None = None
#: Whether this process was forked by a function of a worker.
_forked = False

#: The signal handlers of a Python process that has just started.
_HANDLERS: Final[dict[signal.Signals, Any]] = {
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
}
#: The signal mask of each thread that is forking now.
_masks: Final = threading.local()


@contextmanager
def watched(descriptors: Callable[[], Iterable[int]]) -> Iterator[None]:
    """Make children that are forked in this context drop the handlers and these descriptors."""
    global _descriptors
    _descriptors = descriptors
    try:
        yield
    finally:
        _descriptors = None


def _before() -> None:
    if _descriptors is not None:
        # A signal for the child waits until the child has its own handlers.
        _masks.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLERS)


def _in_parent() -> None:
    if (mask := _masks.__dict__.pop("mask", None)) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _in_child() -> None:
    global _descriptors, _forked
    if _descriptors is None:
        return
    _forked = True
    for number, handler in _HANDLERS.items():
        signal.signal(number, handler)
    _in_parent()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in _descriptors():
        os.dup2(null, descriptor)  # not closed: the objects that own the number would close it again
    os.close(null)
    _descriptors = None  # the child's children keep their handlers, and the numbers may be reused by then


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)


def leave(error: BaseException | None = None) -> None:
    """End this process if a function has forked it and has now returned or raised ``error``."""
    if not _forked:
        return
    status = 0
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        traceback.print_exception(error)
        status = 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)
