"""Sizes of batches, and how long they wait: rows per claim, prefetched jobs, room under a watermark. Pure."""

from typing import Final

#: The default watermark: maximum jobs per function that wait in the Gearman servers.
WATERMARK: Final = 4000
#: Rows per claim: the first number, and the maximum.
BATCH_START: Final = 50
BATCH_MAX: Final = 1000
#: Maximum bytes of the arguments in one claim or insert.
BATCH_BYTES: Final = 8 * 1024 * 1024
#: Seconds between two passes of a QueueRunner that nothing wakes.
POLL: Final = 1.0
#: After a batch of at least this many items, the next batch waits until it has as many.
GATE_SIZE: Final = 32
#: Maximum seconds for which a batch waits for more items.
GATE_PATIENCE: Final = 0.01


def next_batch(size: int, *, full: bool, maximum: int = BATCH_MAX) -> int:
    """Return the number of rows to claim next.

    A full batch adds a tenth of ``maximum``; any other removes a twentieth.
    """
    size = size + max(1, maximum // 10) if full else size - max(1, maximum // 20)
    return max(min(size, maximum), min(BATCH_START, maximum))


def next_prefetch(prefetch: int, seconds: float) -> int:
    """Return the number of jobs that a worker should hold, about 50 ms of work, if a job takes ``seconds``.

    More jobs could wait here while another worker is idle. With fewer, this worker would wait for the server.
    The number at most doubles per call, so that one quick job has little effect.
    """
    wanted = int(0.05 / seconds) if seconds > 0 else 256
    return max(1, min(wanted, prefetch * 2, 256))


class BatchGate:
    """Decides how long a batch waits for more items before it is written.

    Concurrent callers that have just been answered call again within milliseconds, and outcomes arrive in the
    same way. If each such round were written immediately, in batches of any size, the batches would cost a
    quarter of what their jobs cost. So after a batch of at least ``GATE_SIZE`` items, the next batch waits
    until it has as many. It waits at most as long as the last batch took, and at most ``GATE_PATIENCE``.

    Times are seconds of one monotonic clock.
    """

    __slots__ = ("expected", "until")

    def __init__(self) -> None:
        #: The items for which a batch waits.
        self.expected: int = 0
        #: The time at which waiting ends.
        self.until: float = 0.0

    def waits(self, size: int, now: float) -> bool:
        """Return whether a batch of this size should wait for more items."""
        return size < self.expected and now < self.until

    def stored(self, size: int, began: float, now: float) -> None:
        """Record that a batch was written from ``began`` to ``now``.

        ``size``: its items and those that arrived meanwhile.
        """
        self.expected = size if size >= GATE_SIZE else 0
        self.until = now + min(now - began, GATE_PATIENCE)


def room(watermark: int, queued: int) -> int | None:
    """Return how many more jobs of a function may be submitted; None: any number."""
    return max(0, watermark - queued) if watermark else None
