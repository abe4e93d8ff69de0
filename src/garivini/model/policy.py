"""The settings of a function, and their defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, get_args

from garivini.errors import UsageError
from garivini.model.lease import SUBMIT_WITHIN, check_lease
from garivini.model.limits import check_word
from garivini.model.rate import MAX_BURST, Rate, parse_rate
from garivini.model.retry import parse_retry
from garivini.model.unique import KeyRule, OnDuplicate, UniqueScope

#: Failures after which a job is dead.
MAX_FAILURES: Final = 25
#: Crashes after which a job is dead.
MAX_CRASHES: Final = 3
#: Maximum jobs of a function that wait in Gearman servers if it has a ``partition_rate`` or is ``fair``.
WAITING_TURNS: Final = 20
#: The largest limit of a function's jobs in flight. A claim counts up to it.
MAX_RUNNING: Final = 10_000
#: The largest bundle.
MAX_BUNDLE: Final = 1000
_DAY: Final = 86400
_WHOLE: Final = (
    *(
        "lease",
        "deadline",
        "max_failures",
        "retention",
        "max_running",
        "dead_retention",
        "burst",
        "expires",
    ),
    *("partition_max_running", "partition_burst", "cancel_grace", "coalesce_max", "coalesce_wait"),
)
#: The longest ``dead_retention``: ten years.
_MAX_DAYS: Final = 3650

#: Forms of a payload: our JSON object, the same with ``arg`` as the original encodes it, or the argument
#: alone.
Envelope: TypeAlias = Literal["json", "latin-1", "raw"]
ENVELOPES: Final[tuple[Envelope, ...]] = get_args(Envelope)

#: What the rules of a function apply to: all of its jobs together, or only the jobs of each partition.
RuleScope: TypeAlias = Literal["function", "partition"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionPolicy:
    """The settings of one function. None: the default applies."""

    #: Seconds of the lease.
    lease: int | None = None
    #: Maximum seconds that a job may run on a worker that does not renew.
    deadline: int | None = None
    #: Whether its workers renew. A Worker sets it when it starts.
    renews: bool | None = None
    #: One of ``ENVELOPES``.
    envelope: Envelope | None = None
    #: Failures after which a job is dead.
    max_failures: int | None = None
    #: Seconds for which a job is kept with its result after success; None: not kept.
    retention: int | None = None
    #: Maximum jobs of the function that attempts may hold at a time.
    max_running: int | None = None
    #: When a failed job runs again: the JSON text of a ``retry.RetryPolicy``.
    retry: str | None = None
    #: Maximum seconds of an attempt on a ``Worker``; None: no limit.
    timeout: float | None = None
    #: Days for which a dead job is kept; None: for ever.
    dead_retention: int | None = None
    #: Maximum jobs that start in a period: a text such as ``100/m``.
    rate: str | None = None
    #: Maximum jobs that start at once under the rate; None: as many as start in a tenth of a second, at least
    #: one.
    burst: int | None = None
    #: How long a job holds its unique key: one of ``UNIQUE_SCOPES``.
    unique_scope: UniqueScope | None = None
    #: Seconds after an insert for which its unique key stays taken, even if the job is complete.
    unique_window: int | None = None
    #: The effect of an insert whose unique key is taken: one of ``ON_DUPLICATE``.
    on_duplicate: OnDuplicate | None = None
    #: Maximum seconds for which ``debounce`` puts a job off, from its first insert.
    max_delay: int | None = None
    #: Seconds after its due time until which a job must be handed out; None: no limit.
    expires: int | None = None
    #: Maximum jobs of each partition that attempts may hold at a time.
    partition_max_running: int | None = None
    #: Maximum jobs of each partition that start in a period: a text such as ``100/m``.
    partition_rate: str | None = None
    #: Maximum jobs of a partition that start at once under ``partition_rate``; None: as ``burst``.
    partition_burst: int | None = None
    #: Whether the partitions take turns: each gets one job per round.
    fair: bool | None = None
    #: Seconds after a running job is cancelled, after which a supervised ``Worker`` ends the process of a
    #: ``def``; None: the function continues.
    cancel_grace: int | None = None
    #: Maximum jobs with the same ``coalesce`` value that go to the function in one call; None: one.
    coalesce_max: int | None = None
    #: Maximum seconds for which a due job waits until ``coalesce_max`` jobs are due; None: it does not wait.
    coalesce_wait: int | None = None
    #: Unix time until which no job of the function is handed out; None: it is not paused. Not a setting:
    #: see ``Client.pause``.
    paused_until: int | None = None

    def __post_init__(self) -> None:
        for name in _WHOLE:
            number = getattr(self, name)
            if number is not None and type(number) is not int:
                raise UsageError(f"{name} is a whole number, not {number!r:.100}")
        for name in ("renews", "fair"):
            if type(getattr(self, name)) not in (bool, type(None)):
                raise UsageError(f"{name} is True or False, not {getattr(self, name)!r:.100}")
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
        if self.dead_retention is not None and not 1 <= self.dead_retention <= _MAX_DAYS:
            raise UsageError(f"a dead_retention is 1 to {_MAX_DAYS} days, not {self.dead_retention}")
        if self.expires is not None and not 1 <= self.expires <= 365 * _DAY:
            raise UsageError(f"expires is 1 s to a year, not {self.expires}")
        self._check_failures()
        self._check_rules()
        _ = self.key_rule  # checks its parts

    def _check_failures(self) -> None:
        """Check the settings of failed jobs, and of those that are to be ended."""
        if self.retry is not None:
            if not isinstance(self.retry, str):
                raise UsageError(f"retry is a JSON text, not {self.retry!r:.100}")
            parse_retry(self.retry)
        if self.timeout is not None:
            if isinstance(self.timeout, bool) or not isinstance(self.timeout, int | float):
                raise UsageError(f"timeout is a number of seconds, not {self.timeout!r:.100}")
            if not 0 < self.timeout <= 365 * _DAY:
                raise UsageError(f"a timeout is above 0 seconds and at most a year, not {self.timeout}")
        if self.cancel_grace is not None and not 1 <= self.cancel_grace <= 365 * _DAY:
            raise UsageError(f"a cancel_grace is 1 s to a year, not {self.cancel_grace}")

    def _check_rules(self) -> None:
        """Check the limits, rates and bursts."""
        for name in ("max_running", "partition_max_running"):
            limit = getattr(self, name)
            if limit is not None and not 1 <= limit <= MAX_RUNNING:
                raise UsageError(f"{name} is 1 to {MAX_RUNNING}, not {limit}")
        for name in ("burst", "partition_burst"):
            burst = getattr(self, name)
            if burst is not None and not 1 <= burst <= MAX_BURST:
                raise UsageError(f"a {name} is 1 to {MAX_BURST}, not {burst}")
        if self.coalesce_max is not None and not 1 <= self.coalesce_max <= MAX_BUNDLE:
            raise UsageError(f"coalesce_max is 1 to {MAX_BUNDLE}, not {self.coalesce_max}")
        if self.coalesce_wait is not None and not 0 <= self.coalesce_wait <= _DAY:
            raise UsageError(f"coalesce_wait is 0 s to a day, not {self.coalesce_wait}")
        for rate in (self.rate, self.partition_rate):
            if rate is None:
                continue
            if not isinstance(rate, str):
                raise UsageError(f"a rate is a text such as 100/m, not {rate!r:.100}")
            parse_rate(rate)

    @property
    def key_rule(self) -> KeyRule:
        """The rules of its unique keys."""
        return KeyRule(
            scope=self.unique_scope,
            window=self.unique_window,
            on_duplicate=self.on_duplicate,
            max_delay=self.max_delay,
        )

    @property
    def start_rate(self) -> Rate | None:
        """The rate of starts; None: no limit."""
        return None if self.rate is None else parse_rate(self.rate, self.burst)

    @property
    def partition_start_rate(self) -> Rate | None:
        """The rate of starts of each partition; None: no limit."""
        return None if self.partition_rate is None else parse_rate(self.partition_rate, self.partition_burst)

    @property
    def most_waiting(self) -> int | None:
        """Maximum jobs that may wait in Gearman servers; None: only the watermark limits them.

        Waiting jobs start in the order in which they were handed out, and together when a worker comes.
        """
        bounds = [] if self.start_rate is None else [self.start_rate.burst]
        if self.fair or self.partition_rate is not None:
            bounds.append(WAITING_TURNS)
        return min(bounds, default=None)

    @property
    def has_turns(self) -> bool:
        """Whether a rule is about partitions. If so, the partitions take turns."""
        return bool(self.fair) or self.partition_max_running is not None or self.partition_rate is not None

    @property
    def rule_scope(self) -> RuleScope | None:
        """What its rules apply to; None: it has no limit, no rate and no turns. A pause is not among them."""
        if self.max_running is not None or self.rate is not None or self.fair:
            return "function"
        return "partition" if self.has_turns else None

    @property
    def has_rules(self) -> bool:
        """Whether its jobs are handed out by admission only."""
        rules = (self.max_running, self.rate, self.paused_until, self.coalesce_max)
        return any(rule is not None for rule in rules) or self.has_turns


#: Maximum age in seconds of the settings by which a program hands out jobs.
POLICIES_AGE: Final = 5.0
#: Seconds until every program follows a new rule, and has submitted the jobs that it claimed before.
RULES_APPLY_AFTER: Final = POLICIES_AGE + SUBMIT_WITHIN
#: The end of a pause without an end: the last second of 32 bits.
FOREVER: Final = 2**32 - 1

#: The policy of a function without settings.
NO_POLICY: Final = FunctionPolicy()
#: The name of the row with the default envelope. No function has this name.
DEFAULT: Final = ""


class Policies(dict[str, FunctionPolicy]):
    """The policy of each function by name: its settings, and the default envelope of the database.

    Args:
        settings: the settings by function; under ``DEFAULT``, those of all other functions.

    """

    __slots__ = ("_default", "bursts", "paused", "ruled")

    def __init__(self, settings: Mapping[str, FunctionPolicy] = MappingProxyType({})) -> None:
        envelope = settings.get(DEFAULT, NO_POLICY).envelope
        self._default = FunctionPolicy(envelope=envelope)
        super().__init__(
            (name, policy if policy.envelope else replace(policy, envelope=envelope))
            for name, policy in settings.items()
        )
        #: The functions whose jobs only admission hands out: see ``store/admission.py``.
        self.ruled: frozenset[str] = frozenset(name for name, policy in self.items() if policy.has_rules)
        #: The unix times until which functions are paused.
        self.paused: Mapping[str, int] = {
            name: policy.paused_until for name, policy in self.items() if policy.paused_until is not None
        }
        #: By function, the maximum jobs that wait in Gearman servers, if ``most_waiting`` limits them.
        self.bursts: Mapping[str, int] = {
            name: burst for name in self.ruled if (burst := self[name].most_waiting) is not None
        }

    def __missing__(self, funcname: str) -> FunctionPolicy:
        return self._default
