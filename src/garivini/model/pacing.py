"""How much at once: rows per claim, jobs that a worker holds, waiting for a group, room under a watermark."""

from typing import Final

#: Jobs that may wait for workers in gearmand, a function.
WATERMARK: Final = 4000
#: Rows of a claim: at first, and at most.
BATCH_START: Final = 50
BATCH_MAX: Final = 1000
#: Bytes of arguments in a claim or an insert, at most.
BATCH_BYTES: Final = 8 * 1024 * 1024
#: Seconds between two looks for work where nothing wakes a QueueRunner.
POLL: Final = 1.0
#: How many are a crowd, and seconds that a group waits for one, at most.
CROWD: Final = 32
CROWD_PATIENCE: Final = 0.01


def next_batch(size: int, *, full: bool, most: int = BATCH_MAX) -> int:
    """Return the rows to claim next: a tenth of ``most`` more after a full batch, a twentieth less else."""
    size = size + max(1, most // 10) if full else size - max(1, most // 20)
    return max(min(size, most), min(BATCH_START, most))


def next_prefetch(prefetch: int, seconds: float) -> int:
    """Return the jobs that a worker should hold, when one took so many seconds: about 50 ms of work.

    More would lie here while another worker is idle; fewer would leave this one waiting for the server.
    It at most doubles at a time, so that one quick job proves little.
    """
    wanted = int(0.05 / seconds) if seconds > 0 else 256
    return max(1, min(wanted, prefetch * 2, 256))


class Crowd:
    """How long a group waits for more: those who come as a crowd come in turns.

    Callers that have been answered call again within milliseconds, and outcomes come like that too. Stored at
    once, each turn is a group of its own, and what a group costs is a quarter of what its jobs do. So from
    ``CROWD`` on the next group waits for as many, no longer than the last one took to be stored, and
    ``CROWD_PATIENCE`` at most. Times are seconds of one monotonic clock.
    """

    __slots__ = ("_expected", "until")

    def __init__(self) -> None:
        self._expected = 0
        #: When waiting is over.
        self.until = 0.0

    def waits(self, size: int, now: float) -> bool:
        """Whether so many should wait for more."""
        return size < self._expected and now < self.until

    def stored(self, size: int, began: float, now: float) -> None:
        """Note that a group has been stored since ``began``; ``size``: with those that came meanwhile."""
        self._expected = size if size >= CROWD else 0
        self.until = now + min(now - began, CROWD_PATIENCE)


def room(watermark: int, queued: int) -> int | None:
    """Return how many more jobs a function may have waiting in gearmand; None: any number."""
    return max(0, watermark - queued) if watermark else None
