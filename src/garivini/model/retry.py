"""When a failed job runs again, by the class of its error: the setting ``retry`` of a function."""

import random
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias

import msgspec

from garivini.errors import UsageError
from garivini.model.limits import MAX_DELAY, check_word
from garivini.model.outcome import Setback
from garivini.model.when import backoff

_DAY: Final = 86400
#: Maximum characters of the setting as JSON.
MAX_TEXT: Final = 60_000
#: Maximum number of delays in a list, and of entries for classes of errors.
_MAX_ITEMS: Final = 255


class BackoffCurve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The delay after each failure of a job: first ``base``, then each time ``factor`` times the last delay.

    Args:
        base: seconds after the first failure, 0 to ten years.
        factor: 1 to 100.
        cap: maximum seconds of a delay, jitter included.
        jitter: the fraction by which a delay is longer or shorter at random, 0 to 1.

    Raises:
        UsageError: a number is out of range.

    """

    base: float
    factor: float = 2.0
    cap: float = float(_DAY)
    jitter: float = 0.1

    def __post_init__(self) -> None:
        limits = {"base": (0, MAX_DELAY), "factor": (1, 100), "cap": (0, MAX_DELAY), "jitter": (0, 1)}
        for name, (least, most) in limits.items():
            _check_number(f"{name} of a backoff", getattr(self, name), least, most)

    def delay(self, failures: int, *, spread: float) -> int:
        """Return the whole seconds to wait after this number of failures, from 1 on.

        ``spread``: -1 to 1, the position in the jitter.
        """
        try:
            seconds = min(self.base * self.factor ** (failures - 1), self.cap)
        except OverflowError:
            seconds = self.cap
        return round(min(seconds * (1 + self.jitter * spread), self.cap))


#: The delays of a function or class of errors: a curve, or the seconds after each failure, of which the last
#: apply to all later failures.
Backoff: TypeAlias = BackoffCurve | Sequence[float]

#: An exception class, or the name of one: alone, or with its module.
ErrorClass: TypeAlias = type[BaseException] | str


class RetryEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The rule for failures by one class of errors."""

    #: The name of the class, or of a base class, alone or with its module.
    error: str
    #: The delays of this entry; None: those of the function.
    backoff: BackoffCurve | tuple[float, ...] | None = None
    #: Whether the job is dead at once.
    discard: bool = False

    def __post_init__(self) -> None:
        if not self.error or len(self.error) > _MAX_ITEMS:
            raise UsageError(f"the name of a class of errors has 1 to {_MAX_ITEMS} characters")
        if self.discard and self.backoff is not None:
            raise UsageError(f"{self.error} has both a backoff and discard")
        _check_delays(self.backoff)


class RetryPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Decides whether and when a failed job runs again. It is checked, and stored as JSON.

    The first entry of ``errors`` that names a class of the error decides, as with ``except`` clauses. If none
    does, ``others`` decides.

    Raises:
        UsageError: a value is out of range.

    """

    #: The delays after errors for which no entry has delays; None: those of ``model/when.backoff``.
    backoff: BackoffCurve | tuple[float, ...] | None = None
    errors: tuple[RetryEntry, ...] = ()
    #: The rule for failures that no entry matches.
    others: Literal["retry", "discard"] = "retry"

    def __post_init__(self) -> None:
        check_word("others", self.others, ("retry", "discard"))
        if len(self.errors) > _MAX_ITEMS:
            raise UsageError(f"a retry policy has at most {_MAX_ITEMS} classes of errors")
        _check_delays(self.backoff)

    def delay(self, classes: Iterable[str], failures: int, *, spread: float | None = None) -> int | None:
        """Return the whole seconds after which a failed job runs again; None: it is dead.

        Args:
            classes: the names of the error's classes.
            failures: of the job, this one included.
            spread: -1 to 1, the position in the jitter; by default random.

        """
        names = set(classes)
        entry = next((entry for entry in self.errors if entry.error in names), None)
        if entry.discard if entry is not None else self.others == "discard":
            return None
        delays = entry.backoff if entry is not None and entry.backoff is not None else self.backoff
        if delays is None:
            return backoff(failures, spread=spread)
        if isinstance(delays, BackoffCurve):
            return delays.delay(failures, spread=random.uniform(-1, 1) if spread is None else spread)
        return round(delays[min(failures, len(delays)) - 1])

    @property
    def text(self) -> str:
        """The policy as JSON, as it is stored."""
        return msgspec.json.encode(self).decode()


def parse_retry(text: str | bytes) -> RetryPolicy:
    """Return the policy in a JSON text.

    Raises:
        UsageError: the text is not a policy; the message says why.

    """
    problem = f"it is longer than {MAX_TEXT} characters"
    if len(text) <= MAX_TEXT:
        try:
            return msgspec.json.decode(text, type=RetryPolicy)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            problem = str(error)
    raise UsageError(f"retry is not a retry policy: {problem}")


@lru_cache(maxsize=1024)
def stored_retry(text: str) -> RetryPolicy | None:
    """Return the policy that a database has, or None if it is invalid: then the default applies."""
    try:
        return parse_retry(text)
    except UsageError:
        return None


def retry_policy(
    backoff: Backoff | None = None,
    backoff_for: Mapping[ErrorClass, Backoff] | None = None,
    retry_on: Iterable[ErrorClass] | None = None,
    discard_on: Iterable[ErrorClass] = (),
) -> RetryPolicy | None:
    """Return the policy of these arguments of ``Worker.function``, or None if there is none.

    An entry for a class precedes those for its base classes. Otherwise the order is: ``discard_on``,
    ``backoff_for``, ``retry_on``.

    Raises:
        UsageError: an argument is not valid.

    """
    found: list[tuple[ErrorClass, RetryEntry]] = []
    for error in _classes("discard_on", discard_on):
        _add(found, error, RetryEntry(_name(error), discard=True))
    for error, delays in (backoff_for or {}).items():
        _add(found, error, RetryEntry(_name(error), backoff=_delays(delays)))
    for error in _classes("retry_on", retry_on or ()):
        if error not in (backoff_for or {}):
            _add(found, error, RetryEntry(_name(error)))
    policy = RetryPolicy(
        backoff=None if backoff is None else _delays(backoff),
        errors=tuple(entry for _, entry in found),
        others="retry" if retry_on is None else "discard",
    )
    return None if policy == RetryPolicy() else policy


def error_names(setback: Setback) -> tuple[str, ...]:
    """Return the names by which entries may match a setback; without a class, the name of its error."""
    return setback.classes or (setback.error,)


def _add(
    found: list[tuple[ErrorClass, RetryEntry]],
    error: ErrorClass,
    entry: RetryEntry,
) -> None:
    """Insert an entry before the first one for a base class."""
    place = len(found)
    if isinstance(error, type):
        for number, (other, _) in enumerate(found):
            if isinstance(other, type) and other is not error and issubclass(error, other):
                place = number
                break
    found.insert(place, (error, entry))


def _classes(name: str, errors: Iterable[ErrorClass]) -> Iterable[ErrorClass]:
    if isinstance(errors, str | type):
        return (errors,)
    try:
        return tuple(errors)
    except TypeError:
        raise UsageError(f"{name} is a list of exception classes, not {errors!r:.100}") from None


def _name(error: ErrorClass) -> str:
    if isinstance(error, str):
        return error
    if isinstance(error, type) and issubclass(error, BaseException):
        return f"{error.__module__}.{error.__qualname__}"
    raise UsageError(f"{error!r:.100} is neither an exception class nor the name of one")


def _delays(delays: Any) -> BackoffCurve | tuple[float, ...]:
    if isinstance(delays, BackoffCurve):
        return delays
    if isinstance(delays, Sequence) and not isinstance(delays, str | bytes):
        return tuple(delays)
    raise UsageError(f"a backoff is a BackoffCurve or a list of seconds, not {delays!r:.100}")


def _check_delays(delays: BackoffCurve | tuple[float, ...] | None) -> None:
    if isinstance(delays, tuple):
        if not 1 <= len(delays) <= _MAX_ITEMS:
            raise UsageError(f"a backoff is a list of 1 to {_MAX_ITEMS} delays")
        for seconds in delays:
            _check_number("a delay", seconds, 0, MAX_DELAY)


def _check_number(name: str, value: object, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise UsageError(f"{name} is {least} to {most}, not {value!r:.100}")
