"""When a schedule ticks: cron expressions in a time zone, and intervals. Times are unix seconds.

cronsim finds the local times that match an expression. The changes of the clock are applied here, because
cronsim skips some times if the clock changes by half an hour:

* If neither minute nor hour begins with ``*``, the expression names times of the day. If the clock
  skips such times, there is one tick for all of them, when the skipped period ends. If such a time comes
  twice, there is a tick only at the first.
* Otherwise the expression follows the clock: it ticks whenever the clock shows a matching time.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import islice
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from garivini.errors import UsageError

#: Maximum characters of a cron expression.
MAX_CRON: Final = 200
#: Maximum seconds of an interval: a year.
MAX_EVERY: Final = 365 * 86400
#: The ticks of an interval are multiples of it, counted from this time: the first Monday of 1970, in UTC.
_MONDAY: Final = 4 * 86400
_EPOCH: Final = datetime(1970, 1, 1)  # in this module, local times are naive
_SECOND: Final = timedelta(seconds=1)
_DAY: Final = 86400


def interval_ticks(every: int, after: int) -> Iterator[int]:
    """Yield the multiples of an interval later than a time. A restart does not shift these times."""
    tick = after - (after - _MONDAY) % every
    while True:
        tick += every
        yield tick


def cron_ticks(expression: str, zone: tzinfo, after: int) -> Iterator[int]:
    """Yield the times of a valid cron expression later than a time, in order and each once."""
    minute, hour = expression.split()[-5:-3]
    follows_clock = minute.startswith("*") or hour.startswith("*")
    return (_clock_ticks if follows_clock else _day_ticks)(expression, zone, after)


def check_cron(expression: str) -> None:
    """Check a cron expression of five fields, or six with the seconds first.

    Raises:
        UsageError: it is not valid, or matches no time of the next fifty years.

    """
    if len(expression) > MAX_CRON:
        raise UsageError(f"a cron expression has at most {MAX_CRON} characters, this one {len(expression)}")
    error: Exception | str = "it matches no time"
    try:
        if any(islice(CronSim(expression, _EPOCH), 1)):
            return
    # cronsim raises the last two because it accepts some invalid fields at first, such as 5#2/2.
    except (CronSimError, ValueError, AssertionError, TypeError) as wrong:
        error = wrong
    raise UsageError(
        f"{expression!r} is not a cron expression ({str(error) or 'wrong field'}): write minute, hour, day "
        "of the month, month and day of the week, such as '0 3 * * *'"
    )


def explain_cron(expression: str) -> str:
    """Return a valid cron expression in words."""
    return CronSim(expression, _EPOCH).explain()


@lru_cache(256)
def find_zone(name: str) -> tzinfo:
    """Return the time zone of a name.

    Raises:
        UsageError: this system does not know it.

    """
    if name == "UTC":
        return UTC  # UTC needs no time zone files
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise UsageError(
            f"the time zone {name!r:.100} is unknown here: write one such as Europe/Berlin. If that is "
            "unknown too, this system has no time zones: install its package tzdata, or pip install tzdata"
        ) from None


def local_time(time: int, zone: tzinfo) -> datetime:
    """Return a time as the clock of a zone shows it, with its offset."""
    return datetime.fromtimestamp(time, zone)


def _day_ticks(expression: str, zone: tzinfo, after: int) -> Iterator[int]:
    """Yield the ticks of an expression that names times of the day."""
    for local in CronSim(expression, _EPOCH + (after + _offset(zone, after)) * _SECOND):
        tick = _first_instant(local, zone)
        # Otherwise the clock has been put back, or several times were skipped together.
        if tick > after:
            yield tick
            after = tick


def _clock_ticks(expression: str, zone: tzinfo, after: int) -> Iterator[int]:
    """Yield the ticks of an expression that follows the clock: from one change of the offset to the next."""
    change: int | None = after + 1
    while change is not None:
        begin, offset = change, _offset(zone, change)
        change = None
        for local in CronSim(expression, _EPOCH + (begin - 1 + offset) * _SECOND):
            tick = (local - _EPOCH) // _SECOND - offset
            change = _change(zone, begin, tick)
            if change is not None:
                break
            yield tick
            begin = tick


def _first_instant(local: datetime, zone: tzinfo) -> int:
    """Return when the clock first shows a local time. If the clock skips it: when the skipped time ends."""
    tick = int(local.replace(tzinfo=zone).timestamp())
    skipped = (local_time(tick, zone).replace(tzinfo=None) - local) // _SECOND
    return tick if skipped <= 0 else _change(zone, tick - skipped, tick) or tick


def _change(zone: tzinfo, begin: int, end: int) -> int | None:
    """Return when the offset changes first after ``begin`` and up to ``end``; None: not at all."""
    offset = _offset(zone, begin)
    while begin < end:
        step = min(begin + _DAY, end)
        if _offset(zone, step) != offset:
            while step - begin > 1:
                middle = (begin + step) // 2
                if _offset(zone, middle) == offset:
                    begin = middle
                else:
                    step = middle
            return step
        begin = step
    return None


def _offset(zone: tzinfo, time: int) -> int:
    """Return the seconds by which the clock of a zone is ahead of UTC at a time."""
    offset = local_time(time, zone).utcoffset()
    assert offset is not None
    return offset // _SECOND
