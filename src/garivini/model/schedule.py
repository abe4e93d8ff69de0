"""A schedule: when it inserts a job, of which function, and its rules for missed and overlapping ticks."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec

from garivini.errors import UsageError
from garivini.model.job import NewJob
from garivini.model.limits import Flag, Priority, check_word
from garivini.model.new_jobs import new_job
from garivini.model.ticks import MAX_EVERY, check_cron, cron_ticks, explain_cron, find_zone, interval_ticks

#: The rule for missed ticks: insert no job, one for the last of them, or one for each that is not too old.
Missed: TypeAlias = Literal["skip", "last", "all"]
MISSED: Final[tuple[Missed, ...]] = get_args(Missed)
#: The rule for a tick while the previous job of the schedule is live: insert its job anyway, insert none, or
#: insert it when the previous job has ended. At most one tick waits for the end of the previous job.
Overlap: TypeAlias = Literal["allow", "skip", "queue"]
OVERLAPS: Final[tuple[Overlap, ...]] = get_args(Overlap)

#: Seconds after which a tick that no scheduler has handled is missed.
ON_TIME: Final = 60
#: Seconds after which a declared schedule is retired if no process declares it any more.
RETIRED: Final = 600
#: Maximum seconds of a window of missed ticks: a year.
MAX_WINDOW: Final = 365 * 86400
#: Maximum ticks that one transaction handles.
MAX_TICKS: Final = 500
#: Maximum characters of a schedule's name.
MAX_NAME: Final = 200


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """The definition of a schedule.

    Raises:
        UsageError: a value is wrong, or there is not exactly one of ``cron`` and ``every``.

    """

    funcname: str
    arg: bytes = b""
    #: A cron expression of five fields, or six with the seconds first.
    cron: str | None = None
    #: Seconds between two ticks.
    every: int | None = None
    #: The time zone of ``cron``.
    zone: str = "UTC"
    flag: Flag = "shim"
    priority: Priority = "normal"
    missed: Missed = "last"
    #: The age in seconds up to which ``all`` inserts missed ticks.
    missed_window: int = 3600
    overlap: Overlap = "skip"

    def __post_init__(self) -> None:
        new_job(self.funcname, self.arg, flag=self.flag, priority=self.priority)
        check_word("missed", self.missed, MISSED)
        check_word("overlap", self.overlap, OVERLAPS)
        if not _is_count(self.missed_window, MAX_WINDOW):
            raise UsageError(f"missed_window is 1 to {MAX_WINDOW} seconds, not {self.missed_window!r:.100}")
        if not isinstance(self.zone, str):
            raise UsageError(f"zone is the name of a time zone, not {self.zone!r:.100}")
        find_zone(self.zone)
        if (self.cron is None) == (self.every is None):
            raise UsageError("a schedule has either a cron expression or an interval: give one of the two")
        if self.cron is not None:
            if not isinstance(self.cron, str):
                raise UsageError(f"cron is an expression, not {self.cron!r:.100}")
            check_cron(self.cron)
        elif not _is_count(self.every, MAX_EVERY):
            raise UsageError(f"an interval is 1 to {MAX_EVERY} whole seconds, not {self.every!r:.100}")

    def ticks(self, after: int) -> Iterator[int]:
        """Yield the unix times later than ``after`` at which it ticks, each once."""
        if self.cron is not None:
            return cron_ticks(self.cron, find_zone(self.zone), after)
        assert self.every is not None
        return interval_ticks(self.every, after)

    def next_tick(self, after: int) -> int | None:
        """Return the first tick later than a time; None: there is none in the next fifty years."""
        return next(self.ticks(after), None)

    @property
    def job(self) -> NewJob:
        """The job of a tick. It needs no unique key: the row of the schedule shows which ticks have jobs."""
        return new_job(self.funcname, self.arg, flag=self.flag, priority=self.priority)

    @property
    def words(self) -> str:
        """When it ticks, in words."""
        return explain_cron(self.cron) if self.cron is not None else f"Every {self.every} seconds"


class StoredSchedule(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as its row has it. Another program may have written the row, so its values may be wrong.

    Times are unix seconds by the database's clock.
    """

    name: str
    dbid: int
    funcname: str
    arg: bytes
    cron: str | None
    every: int | None
    zone: str
    flag: str
    priority: str
    missed: str
    missed_window: int
    overlap: str
    paused: bool
    #: Whether code has declared it, but no process in the last ``RETIRED`` seconds. Then it does not tick.
    retired: bool = False
    #: The tick that is handled next; None: not known yet, or there is none.
    next_tick: int | None = None
    #: A tick that waits for the end of the previous job.
    queued: int | None = None
    #: The last tick that has a job, and this job.
    last_tick: int | None = None
    last_jobid: int | None = None
    #: The number of jobs inserted, and of ticks that got no job.
    jobs: int = 0
    skipped: int = 0
    #: The values that code has declared, by name; None: no code has declared it.
    declared: Mapping[str, Any] | None = None
    #: The values that an operator has set, by name.
    override: Mapping[str, Any] = {}

    @property
    def values(self) -> dict[str, Any]:
        """The values of the definition by name."""
        return {name: getattr(self, name) for name in SETTINGS}

    @property
    def definition(self) -> Schedule:
        """The definition.

        Raises:
            UsageError: a value is wrong.

        """
        return Schedule(**self.values)


#: The names of a definition's values.
SETTINGS: Final[tuple[str, ...]] = Schedule.__struct_fields__


class Plan(msgspec.Struct, frozen=True):
    """The decisions of one transaction about the ticks of a schedule."""

    #: The ticks for which the transaction inserts a job, the oldest first.
    inserts: tuple[int, ...]
    #: The tick that is handled next; None: there is none.
    next_tick: int | None
    #: The tick that waits for the end of the previous job.
    queued: int | None
    #: Number of ticks that get no job.
    skipped: int


def plan(
    schedule: Schedule, next_tick: int | None, queued: int | None, *, now: int, live: bool
) -> Plan | None:
    """Decide about the ticks that are due; None: there is nothing to do.

    At most ``MAX_TICKS`` are decided about at a time. If there are more, the plan's next tick is due, too.

    Args:
        schedule: the definition.
        next_tick: the first tick that has not been decided about; None: the schedule is new.
        queued: a tick that waits for the end of the previous job.
        now: the unix time.
        live: whether the previous job of the schedule is live: it exists and is not dead.

    """
    due: list[int] = []
    following = next_tick
    if next_tick is None or next_tick <= now:
        following = None
        for tick in schedule.ticks(now if next_tick is None else next_tick - 1):
            if tick > now or len(due) == MAX_TICKS:
                following = tick
                break
            due.append(tick)
    wanted = _wanted(schedule, due, following, now)
    candidates = wanted if queued is None else [queued, *wanted]
    inserts, waiting = _overlapping(schedule.overlap, candidates, live=live)
    decided = Plan(
        tuple(inserts),
        following,
        waiting,
        len(due) + (queued is not None) - len(inserts) - (waiting is not None),
    )
    return None if decided == Plan((), next_tick, queued, 0) else decided


def changed(before: Mapping[str, Any], given: Mapping[str, Any]) -> Schedule:
    """Return a definition with other values.

    Args:
        before: the values before, by name; empty: the schedule is new.
        given: values by name. One of ``cron`` and ``every`` replaces the other.

    Raises:
        UsageError: a value is wrong, or the function of a new schedule is missing.

    """
    values = dict(before)
    if "cron" in given or "every" in given:
        values.update(cron=None, every=None)
    values.update(given)
    if "funcname" not in values:
        raise UsageError("there is no such schedule yet: name its function to create it")
    return Schedule(**values)


def check_name(name: object) -> str:
    """Return the name of a schedule.

    Raises:
        UsageError: it cannot be one.

    """
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise UsageError(f"the name of a schedule is a text of 1 to {MAX_NAME} characters, not {name!r:.100}")
    if not name.isprintable() or name != name.strip():
        raise UsageError(
            f"{name!r:.220} cannot name a schedule: it has spaces at an end, or control characters"
        )
    return name


def whole_seconds(every: Any) -> Any:
    """Return the seconds of a timedelta, as an int if they are whole. Return any other value as it is."""
    if not isinstance(every, timedelta):
        return every
    seconds = every.total_seconds()
    return int(seconds) if seconds.is_integer() else seconds


def _wanted(schedule: Schedule, due: list[int], following: int | None, now: int) -> list[int]:
    """Return the due ticks that get a job if no job overlaps."""
    if schedule.missed == "all":
        oldest = now - max(schedule.missed_window, ON_TIME)
        return [tick for tick in due if tick >= oldest]
    if not due or (following is not None and following <= now):
        return []  # a newer tick is due
    return due[-1:] if schedule.missed == "last" or now - due[-1] <= ON_TIME else []


def _overlapping(overlap: Overlap, ticks: list[int], *, live: bool) -> tuple[list[int], int | None]:
    """Return which of these ticks get a job now, and the one that waits for the end of the previous job."""
    match overlap:
        case "allow":
            return ticks, None
        case "skip":
            return ([] if live else ticks[-1:]), None
        case "queue":
            now = [] if live else ticks[:1]
            return now, next(iter(ticks[len(now) :]), None)


def _is_count(value: object, maximum: int) -> bool:
    return type(value) is int and 0 < value <= maximum
