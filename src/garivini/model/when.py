"""When a job runs: times from callers, and the delay after a failure."""

import math
import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from garivini.errors import UsageError
from garivini.model.limits import MAX_DELAY, NEVER

_DAY: Final = 86400


@dataclass(frozen=True, slots=True)
class Offset:
    """The given seconds from now, by the database's clock."""

    seconds: int


@dataclass(frozen=True, slots=True)
class At:
    """A unix time."""

    time: int


@dataclass(frozen=True, slots=True)
class Never:
    """Never: the job is dead."""


When: TypeAlias = Offset | At | Never


def backoff(failcount: int, *, spread: float | None = None) -> int:
    """Return the seconds to wait after a failure: 2^failcount minutes, up to a day.

    Args:
        failcount: failures so far, including this one.
        spread: -1 to 1, the position in the jitter of 10 % either way; by default random.

    """
    delay = min(60 << min(failcount, 20), _DAY)
    if spread is None:
        spread = random.uniform(-1, 1)
    return min(round(delay * (1 + 0.1 * spread)), _DAY)


def parse_delay(run_after: float | timedelta | None) -> int:
    """Return the whole seconds from now until an inserted job is due. Fractions round up.

    Raises:
        UsageError: it is negative, not a number, or longer than ten years.

    """
    if run_after is None:
        return 0
    if isinstance(run_after, timedelta):
        run_after = run_after.total_seconds()
    if isinstance(run_after, bool) or not isinstance(run_after, int | float) or not abs(run_after) < math.inf:
        raise UsageError(f"run_after is a number of seconds from now or a timedelta, not {run_after!r}")
    seconds = math.ceil(run_after)
    if not 0 <= seconds <= MAX_DELAY:
        raise UsageError(
            f"run_after={run_after!r} is out of range: it counts seconds from now, 0 to {MAX_DELAY}"
        )
    return seconds


def parse_when(when: str | int | timedelta | datetime) -> When:
    """Return the time that ``reschedule_job`` is given.

    ``"+360"`` or a timedelta counts from now; ``"1313572984"``, an int or an aware datetime is a unix time.

    Raises:
        UsageError: it is none of these, out of range, or a datetime without a time zone.

    """
    match when:
        case timedelta():
            return Offset(parse_delay(when))
        case datetime():
            if when.tzinfo is None:
                raise UsageError(f"{when!r} has no time zone: use for example datetime.now(timezone.utc)")
            return _at(math.ceil(when.timestamp()))
        case bool():
            pass
        case int():
            return _at(when)
        case "never":
            return Never()
        case str() if when.isascii() and when.removeprefix("+").isdigit() and len(when) <= 20:
            number = int(when)
            return Offset(parse_delay(number)) if when.startswith("+") else _at(number)
    raise UsageError(
        f"{when!r} is not a time: use 'never', '+SECONDS', a unix time, a timedelta or a datetime"
    )


def _at(time: int) -> When:
    if time == NEVER:
        return Never()  # the original's number for "never"
    if not 0 < time < 2**32:
        raise UsageError(f"unix time {time} is out of range: it is in seconds, 1 to {2**32 - 1}")
    return At(time)
