"""The rate of a function: how many of its jobs may start in a period. Pure.

This is the generic cell rate algorithm (GCRA). Its only state is a time, up to which the starts so far have
used the rate. Each start moves this time on by one interval: the period divided by the number of jobs. A
start is allowed as long as this time stays within ``burst`` intervals from now. So in any span of time at
most ``burst`` jobs start, plus one per interval in that span.
"""

import re
from dataclasses import dataclass
from typing import Final

from garivini.errors import UsageError

#: The largest burst, and the highest rate. Times are in whole microseconds, of which an interval must have
#: many.
MAX_BURST: Final = 10_000
_MAX_PER_SECOND: Final = 1000
#: Seconds of each period by its letter.
_PERIODS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_FORM: Final = re.compile(r"([1-9][0-9]{0,6})/([smhd])", re.ASCII)
#: The default burst is the number of starts in this many seconds.
_DEFAULT_BURST: Final = 0.1
#: The starts of this many seconds are gathered, so that one claim serves them.
_GATHER: Final = 0.05
#: The part of an interval up to which a difference counts as a rounding error.
_ROUNDING: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Rate:
    """The rate of a function. Times are seconds of one clock, with fractions."""

    #: Seconds per start, on average.
    interval: float
    #: Maximum jobs that start at once after a time without starts.
    burst: int

    def allowed(self, used_until: float, now: float) -> int:
        """Return how many jobs may start now.

        ``used_until``: the result of the last ``use``; 0 before the first.
        """
        left = now + self.burst * self.interval - self._begin(used_until, now)
        return int(left / self.interval + _ROUNDING)

    def use(self, used_until: float, now: float, starts: int) -> float:
        """Return the time up to which the rate is used after this many starts, to be stored.

        If ``starts`` is 0, this time does not change, unless it is more than a burst ahead of now: then the
        rate was lower when the time was stored, or the clock was set back, and the time is reduced to a burst
        from now.
        """
        latest = now + self.burst * self.interval
        return self._begin(used_until, now) + starts * self.interval if starts else min(used_until, latest)

    def until_next(self, used_until: float, now: float) -> float:
        """Return the seconds until a claim is worthwhile: until a job may start, or a few at a high rate."""
        starts = max(1, min(self.burst // 2, int(_GATHER / self.interval)))
        return max(0.0, self._begin(used_until, now) + (starts - self.burst) * self.interval - now)

    def _begin(self, used_until: float, now: float) -> float:
        """Return the time from which the next start uses the rate."""
        return min(max(now, used_until), now + self.burst * self.interval)


def parse_rate(text: str, burst: int | None = None) -> Rate:
    """Return the rate of a text like ``100/m``, with the default burst if none is given.

    Raises:
        UsageError: the text has another form, or the rate is too high.

    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise UsageError(f"a rate is a number of jobs per s, m, h or d, such as 100/m, not {text!r:.100}")
    jobs, period = int(match[1]), _PERIODS[match[2]]
    if jobs > _MAX_PER_SECOND * period:
        raise UsageError(f"a rate is at most {_MAX_PER_SECOND} jobs per second, not {text}")
    return Rate(period / jobs, burst or max(1, round(_DEFAULT_BURST * jobs / period)))
