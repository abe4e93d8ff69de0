"""Rules of unique keys: how long a job holds its key, and the effect of an insert whose key is taken."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal, TypeAlias, get_args

import msgspec

from garivini.errors import UsageError
from garivini.model.limits import check_word

#: How long a job holds its key. ``while_live``: until it is complete or dead. ``while_live_or_dead``: until
#: its row is deleted.
UniqueScope: TypeAlias = Literal["while_live", "while_live_or_dead"]
UNIQUE_SCOPES: Final[tuple[UniqueScope, ...]] = get_args(UniqueScope)
#: The effect of an insert whose key is taken: see ``docs/how-to/unique.md``.
OnDuplicate: TypeAlias = Literal["existing", "raise", "replace", "debounce", "one_more"]
ON_DUPLICATE: Final[tuple[OnDuplicate, ...]] = get_args(OnDuplicate)
#: Maximum seconds of a window, and of the time for which debouncing puts a job off: a year.
MAX_WINDOW: Final = 365 * 86400
#: Seconds for which debouncing puts a job off after its first insert, if no other number is given.
DEBOUNCE_MAX_DELAY: Final = 3600


class KeyRule(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of one unique key. None: the default applies."""

    scope: UniqueScope | None = None
    #: Seconds after an insert for which the key stays taken, even if the job is complete.
    window: int | None = None
    on_duplicate: OnDuplicate | None = None
    #: Maximum seconds for which ``debounce`` puts a job off, from its first insert.
    max_delay: int | None = None

    def __post_init__(self) -> None:
        if self.scope is not None:
            check_word("unique_scope", self.scope, UNIQUE_SCOPES)
        if self.on_duplicate is not None:
            check_word("on_duplicate", self.on_duplicate, ON_DUPLICATE)
        for name, seconds in (("unique_window", self.window), ("max_delay", self.max_delay)):
            if seconds is not None and (type(seconds) is not int or not 1 <= seconds <= MAX_WINDOW):
                raise UsageError(f"{name} is whole seconds from 1 to a year, not {seconds!r:.100}")

    def over(self, other: "KeyRule") -> "KeyRule":
        """Return these rules. A rule that is None here is taken from ``other``."""
        return KeyRule(
            scope=self.scope if self.scope is not None else other.scope,
            window=self.window if self.window is not None else other.window,
            on_duplicate=self.on_duplicate if self.on_duplicate is not None else other.on_duplicate,
            max_delay=self.max_delay if self.max_delay is not None else other.max_delay,
        )

    def check_together(self) -> None:
        """Make sure that these rules can apply together.

        Raises:
            UsageError: they cannot.

        """
        if self.window is not None and self.changes:
            raise UsageError(
                f"a window keeps the key of a job that is complete, which {self.on_duplicate} cannot change: "
                "use one of the two"
            )
        if self.queues and self.scope == "while_live_or_dead":
            raise UsageError(
                f"{self.on_duplicate} needs the key of a job that dies: use it without while_live_or_dead"
            )

    @property
    def changes(self) -> bool:
        """Whether a duplicate changes a job."""
        return self.on_duplicate in ("replace", "debounce", "one_more")

    @property
    def queues(self) -> bool:
        """Whether a duplicate of a job that an attempt holds is stored until that job ends."""
        return self.on_duplicate in ("debounce", "one_more")

    @property
    def frees_dead(self) -> bool:
        """Whether a dead job gives up its key."""
        return self.queues or self.scope == "while_live"

    @property
    def open_for(self) -> int | None:
        """Seconds of the window; None: there is no window, or duplicates change jobs."""
        return None if self.changes else self.window

    @property
    def is_plain(self) -> bool:
        """Whether these are the defaults."""
        plain = self.on_duplicate in (None, "existing")
        return plain and self.window is None and not self.frees_dead


#: The rules of a function without settings.
NO_RULE: Final = KeyRule()


@dataclass(frozen=True, slots=True)
class Unique:
    """A unique key and its rules, for ``unique`` of an insert. None: the setting of the function applies.

    Args:
        key: the key, up to 255 characters.
        scope: how long a job holds the key: ``while_live`` or ``while_live_or_dead``, the default.
        window: seconds after an insert for which the key stays taken, even if the job is complete.
        on_duplicate: the effect of an insert whose key is taken: ``existing`` (default) returns that job,
            ``raise`` raises a ``DuplicateJobError``, ``replace``, ``debounce`` and ``one_more`` change that
            job or store the insert until that job ends.
        max_delay: maximum seconds for which ``debounce`` puts a job off, from its first insert; an hour by
            default.

    Raises:
        UsageError: a value is not one of these, or two do not go together.

    """

    key: str
    scope: UniqueScope | None = None
    window: int | timedelta | None = None
    on_duplicate: OnDuplicate | None = None
    max_delay: int | timedelta | None = None

    def __post_init__(self) -> None:
        self.rule.check_together()

    @property
    def rule(self) -> KeyRule:
        """Its rules."""
        return KeyRule(
            scope=self.scope,
            window=_seconds(self.window),
            on_duplicate=self.on_duplicate,
            max_delay=_seconds(self.max_delay),
        )


def _seconds(value: int | timedelta | None) -> int | None:
    """Return whole seconds; fractions round up."""
    return -int(-value.total_seconds() // 1) if isinstance(value, timedelta) else value
