"""Decisions as pure functions: when to run again, how much to claim, how long to wait. No I/O, no clock."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, get_args

from garivini.errors import UsageError
from garivini.job import MAX_DELAY, MAX_LEASE, NEVER, check_word

#: Failures after which a job is dead.
MAX_FAILURES: Final = 25
#: Deaths of its process after which a job is dead.
MAX_CRASHES: Final = 3
#: Seconds of a lease, unless told otherwise, and the shortest.
LEASE: Final = 60
MIN_LEASE: Final = 3
#: Assumed maximum seconds of other processes' leases; the original's leases are this long.
OTHERS_LEASE: Final = 1000
#: Seconds within which a claim is submitted or given back, and a third of the lease at most. Nobody may take
#: an attempt that no server knows for lost before twice this time: its submit could be on the way.
SUBMIT_WITHIN: Final = 3.0
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

_DAY: Final = 86400


def check_lease(seconds: int) -> None:
    """Make sure that a lease is long enough to be renewed in time, and ends.

    Raises:
        UsageError: it is shorter than ``MIN_LEASE`` or longer than a week.

    """
    if not MIN_LEASE <= seconds <= MAX_LEASE:
        raise UsageError(f"a lease is {MIN_LEASE} s to a week, not {seconds}")


#: Forms of a payload: our JSON object, the same with the original's blobs, or the bare argument.
Envelope: TypeAlias = Literal["json", "latin-1", "raw"]
ENVELOPES: Final[tuple[Envelope, ...]] = get_args(Envelope)


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionPolicy:
    """What is set for one function; None where the default holds."""

    #: Seconds.
    lease: int | None = None
    #: Seconds that a worker which does not renew may take.
    deadline: int | None = None
    #: Whether its workers renew: set by a starting Worker.
    renews: bool | None = None
    #: One of ``ENVELOPES``.
    envelope: Envelope | None = None
    #: Failures after which a job is dead.
    max_failures: int | None = None
    #: Seconds for which a finished job that a Controller ran is kept with its result; None: not at all.
    retention: int | None = None

    def __post_init__(self) -> None:
        for name in ("lease", "deadline", "max_failures", "retention"):
            number = getattr(self, name)
            if number is not None and type(number) is not int:
                raise UsageError(f"{name} is a whole number, not {number!r:.100}")
        if self.renews is not None and type(self.renews) is not bool:
            raise UsageError(f"renews is True or False, not {self.renews!r:.100}")
        if self.lease is not None:
            check_lease(self.lease)
        if self.deadline is not None and not 1 <= self.deadline <= 365 * _DAY:
            raise UsageError(f"a deadline is 1 s to a year, not {self.deadline}")
        if self.envelope is not None:
            check_word("envelope", self.envelope, ENVELOPES)
        if self.max_failures is not None and not 1 <= self.max_failures <= 255:
            raise UsageError(f"max_failures is 1 to 255, not {self.max_failures}")
        if self.retention is not None and not 1 <= self.retention <= 365 * _DAY:
            raise UsageError(f"a retention is 1 s to a year, not {self.retention}")


@dataclass(frozen=True, slots=True)
class Offset:
    """So many seconds from now, by the database's clock."""

    seconds: int


@dataclass(frozen=True, slots=True)
class At:
    """A unix time."""

    time: int


@dataclass(frozen=True, slots=True)
class Never:
    """Parked for inspection."""


When: TypeAlias = Offset | At | Never


#: Where nothing is set for a function.
NO_POLICY: Final = FunctionPolicy()
#: The name under which the envelope of functions without one of their own is stored. No function has it.
DEFAULT: Final = ""


class Policies(dict[str, FunctionPolicy]):
    """The policy of each function by name: its own settings, and the database's default envelope.

    Args:
        settings: the settings by function name, and under ``DEFAULT`` for all others.

    """

    __slots__ = ("_default",)

    def __init__(self, settings: Mapping[str, FunctionPolicy] = MappingProxyType({})) -> None:
        envelope = settings.get(DEFAULT, NO_POLICY).envelope
        self._default = FunctionPolicy(envelope=envelope)
        super().__init__(
            (name, policy if policy.envelope else replace(policy, envelope=envelope))
            for name, policy in settings.items()
        )

    def __missing__(self, funcname: str) -> FunctionPolicy:
        return self._default


def backoff(failcount: int, *, spread: float | None = None) -> int:
    """Return the seconds to wait after a failure: 2^failcount minutes, a day at most.

    Args:
        failcount: failures so far, this one included.
        spread: -1 to 1, the place in the jitter of a tenth either way; at random where not given.

    """
    delay = min(60 << min(failcount, 20), _DAY)
    if spread is None:
        spread = random.uniform(-1, 1)
    return min(round(delay * (1 + 0.1 * spread)), _DAY)


def parse_delay(run_after: float | timedelta | None) -> int:
    """Return the whole seconds from now until an inserted job is due; parts of a second round up.

    Raises:
        UsageError: it is negative, no number, or longer than ten years.

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
    """Read the time of ``reschedule_job``.

    ``"never"``; ``"+360"`` or a timedelta: from now; ``"1313572984"``, an int or an aware datetime: then.

    Raises:
        UsageError: it is none of these, naive, or out of range.

    """
    match when:
        case timedelta():
            return Offset(parse_delay(when))
        case datetime():
            if when.tzinfo is None:
                raise UsageError(f"{when!r} has no time zone: use datetime.now(timezone.utc) or the like")
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
    raise UsageError(f"{when!r} is no time: use 'never', '+SECONDS', a unix time, a timedelta or a datetime")


def _at(time: int) -> When:
    if time == NEVER:
        return Never()  # the original's own number for it
    if not 0 < time < 2**32:
        raise UsageError(f"unix time {time} is out of range: it is in seconds, 1 to {2**32 - 1}")
    return At(time)


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
