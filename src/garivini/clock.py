"""The clock of a process: functions that read the time or wait, and the jitter of delays.

Keepers, workers and roles are given a ``Clock`` when they are made. A simulation gives them a clock of its
own.
"""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final


def _thread(run: Callable[[], object], name: str) -> threading.Thread:
    return threading.Thread(target=run, name=name, daemon=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Functions that read the time or wait; by default those of the standard library.

    The functions are attributes, so that a use costs a single call. This matters because ``monotonic`` is
    called several times per job.
    """

    #: Returns the monotonic time in seconds.
    monotonic: Callable[[], float] = time.monotonic
    #: Blocks the calling thread for a number of seconds.
    sleep: Callable[[float], None] = time.sleep
    #: Makes an event that threads can wait for.
    event: Callable[[], threading.Event] = threading.Event
    #: Makes a queue. Threads can wait for its items.
    queue: Callable[[], SimpleQueue[Any]] = SimpleQueue
    #: Makes a daemon thread. The arguments are the function that the thread calls, and the thread's name.
    thread: Callable[[Callable[[], object], str], threading.Thread] = _thread
    #: Returns a random number between two numbers, for the jitter of delays.
    uniform: Callable[[float, float], float] = random.uniform


#: The clock of every process but those of a simulation.
SYSTEM_CLOCK: Final = Clock()
