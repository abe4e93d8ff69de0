"""The conditions of a search for jobs, the changes of many jobs, and their progress."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

from garivini.errors import UsageError
from garivini.model.limits import PRIORITIES, Priority, check_word
from garivini.model.state import State, parse_state
from garivini.model.when import When


@dataclass(frozen=True, slots=True, kw_only=True)
class JobQuery:
    """Conditions on jobs. A job matches if all conditions that are given hold; without any, each job matches.

    Texts are compared as they are: no character is a wildcard, and upper and lower case differ. Times are
    unix seconds by the database's clock or datetimes with a time zone.

    Raises:
        UsageError: a value has another type, is empty, or is out of range.

    """

    #: The name of the function.
    funcname: str | None = None
    #: A state, or its name: ``waiting``, ``leased``, ``running``, ``suspect`` or ``dead``.
    state: State | str | None = None
    #: Only jobs that have failed, whose process has died, or that are dead.
    failed: bool = False
    #: The unique key.
    uniqkey: str | None = None
    #: The partition.
    partition: str | None = None
    #: The name of the class of the latest failure, such as ``TimeoutError``.
    error: str | None = None
    #: Part of the message of the latest failure.
    error_text: str | None = None
    #: Part of the argument. A str is searched as UTF-8.
    arg_text: bytes | str | None = None
    #: Inserted at or after this time. A job with an unknown time does not match.
    created_from: int | datetime | None = None
    #: Inserted before this time. A job with an unknown time does not match.
    created_before: int | datetime | None = None
    #: Due, or its lease ends, at or after this time. A dead job does not match.
    due_from: int | datetime | None = None
    #: Due, or its lease ends, before this time. A dead job does not match.
    due_before: int | datetime | None = None

    def __post_init__(self) -> None:
        self.values()

    @property
    def reads_failures(self) -> bool:
        """Whether a condition needs the failure records."""
        return self.error is not None or self.error_text is not None

    @property
    def state_number(self) -> State | None:
        """The state that matches; None: every state matches."""
        return parse_state(self.state) if isinstance(self.state, str) else self.state

    def values(self) -> Mapping[str, Any]:
        """Return the conditions as the values of a statement."""
        if not isinstance(self.failed, bool):
            raise UsageError(f"failed is True or False, not {self.failed!r:.100}")
        if not isinstance(self.state, State | str | None):
            raise UsageError(f"a state is a State or its name, not {self.state!r:.100}")
        texts = {
            name: _text(name, getattr(self, name))
            for name in ("funcname", "uniqkey", "partition", "error", "error_text")
        }
        times = {
            name: _time(name, getattr(self, name))
            for name in ("created_from", "created_before", "due_from", "due_before")
        }
        arg = self.arg_text if isinstance(self.arg_text, bytes) else _text("arg_text", self.arg_text)
        if arg == b"":
            raise UsageError("arg_text is empty, which matches every job: leave it out")
        return {
            **texts,
            **times,
            "state": self.state_number,
            "failed": self.failed,
            "arg_text": arg.encode() if isinstance(arg, str) else arg,
        }


def _text(name: str, text: object) -> str | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise UsageError(f"{name} is a text, not {text!r:.100}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name} is not valid Unicode: {text!r:.100}") from None
    if not text or ("\0" in text and name != "arg_text"):
        raise UsageError(f"{name} {text!r:.100} matches no job: a text is not empty and has no NUL")
    return text


def _time(name: str, time: object) -> int | None:
    if time is None:
        return None
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise UsageError(f"{name} has no time zone: use for example datetime.now(timezone.utc)")
        time = math.ceil(time.timestamp())
    if not isinstance(time, int) or isinstance(time, bool) or not 0 <= time < 2**32:
        raise UsageError(f"{name} is a unix time in seconds or a datetime, not {time!r:.100}")
    return time


#: What an operator does with jobs.
Action: TypeAlias = Literal["retry", "cancel", "discard", "delete", "reschedule", "prioritize"]
_ACTIONS: Final = get_args(Action)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobChange:
    """A change of jobs that no attempt holds.

    Raises:
        UsageError: the action or the priority is unknown.

    """

    #: ``retry``: the job is due now, and its failures are forgiven. ``cancel``, ``discard``: it is dead, with
    #: a failure record of that kind. ``delete``: its row and records are deleted. ``reschedule``: it is due
    #: at ``when``. ``prioritize``: it gets ``priority``.
    action: Action
    #: Of ``cancel`` and ``discard``: the message of the failure record.
    reason: str = ""
    #: Of ``reschedule``: the time at which the jobs are due.
    when: When | None = None
    #: Of ``prioritize``: the new priority.
    priority: Priority = "normal"

    def __post_init__(self) -> None:
        check_word("action", self.action, _ACTIONS)
        check_word("priority", self.priority, PRIORITIES)
        if not isinstance(self.reason, str):
            raise UsageError(f"reason is text, not {self.reason!r:.100}")
        if (self.when is None) == (self.action == "reschedule"):
            raise UsageError("a reschedule needs a time, and nothing else has one")

    @property
    def states(self) -> Collection[State]:
        """The states in which it changes a job; it skips a job in another state."""
        if self.action in ("cancel", "discard", "prioritize"):
            return (State.WAITING,)
        return (State.WAITING, State.DEAD)


class BulkProgress(NamedTuple):
    """How far a search or a change of all jobs that match a query has come."""

    #: Jobs that were compared with the query.
    examined: int = 0
    #: Jobs that matched.
    matched: int = 0
    #: Jobs that were changed; of a dry run, that would be changed.
    changed: int = 0
    #: Jobs that matched and were left as they are: in a state that the change does not apply to, or locked.
    skipped: int = 0
    #: The fraction of the ids that were examined, 0 to 1. 1: the search is complete.
    fraction: float = 0.0
