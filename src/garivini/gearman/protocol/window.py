"""The grab window: how many grabs of a worker may be without an answer."""

from typing import Final

#: Grabs beyond the expected jobs. They find out whether there are more jobs; if not, each gets a "no job".
_EXTRA: Final = 16
#: Maximum grabs without an answer. They occupy a server, which answers each of them even if it has no job.
MAX_WINDOW: Final = 512


class GrabWindow:
    """The maximum of grabs without an answer, according to the jobs that have arrived.

    After a wake-up the maximum is one, because usually one job caused the wake-up, and the server would
    answer any further grab with "no job". Each job adds one, so the window doubles with each round trip. An
    ``eager`` window begins with as many grabs as jobs arrived between the last two wake-ups.
    """

    __slots__ = ("_arrived", "_eager", "_expected", "size")

    def __init__(self, *, eager: bool = False) -> None:
        self._eager = eager
        #: Number of jobs that have arrived since the last wake-up.
        self._arrived = 0
        #: Number of arrived jobs after which the window widens again.
        self._expected = 0
        #: Maximum number of grabs that may be without an answer now.
        self.size: int = MAX_WINDOW

    def woken(self) -> None:
        """Begin again, because the server has woken this worker."""
        self.size = min(max(1, self._arrived), MAX_WINDOW) if self._eager else 1
        self._expected = self.size - _EXTRA
        self._arrived = 0

    def arrived(self, jobs: int) -> None:
        """Count jobs that have arrived together."""
        narrowing = self._expected - self._arrived
        self._arrived += jobs
        if narrowing > 0:
            # Each expected job narrows the window, because one fewer is still to come.
            narrowing = min(narrowing, jobs)
            jobs -= narrowing
            self.size -= narrowing
        self.size += jobs
        if self.size > MAX_WINDOW:
            self.size = MAX_WINDOW
