"""The options by which the commands ``garivini jobs`` find jobs."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from typing import Any, Final

import click

from garivini.errors import UsageError
from garivini.model.job_query import JobQuery
from garivini.model.state import State
from garivini.store.shards import Shards

_TIMES: Final = ("created_from", "created_before", "due_from", "due_before")
_TIME: Final = "A unix time, -SECONDS or +SECONDS from now, or a date and time as 2026-11-29T21:00."


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters that a command was given: the value of each, by the name of its condition."""

    given: dict[str, Any]

    def __bool__(self) -> bool:
        """Whether any filter is given."""
        return bool(self.given)

    def query(self, shards: Shards) -> JobQuery:
        """Return the query. A time relative to now counts from the clock of the first database.

        Raises:
            UsageError: a value cannot be used.

        """
        if self.given.get("failed") and "state" in self.given:
            raise UsageError("--failed and --state exclude each other")
        first = next(iter(shards))
        times: dict[str, Any] = {
            name: _parse_time(self.given[name], first.clock) for name in _TIMES if name in self.given
        }
        return JobQuery(**self.given | times)


_STATES: Final = tuple(state.name.lower() for state in State)
_FILTERS: Final = (
    click.option("--function", "funcname", metavar="NAME", help="Only jobs of this function."),
    click.option("--failed", is_flag=True, help="Only jobs that have failed or are dead."),
    click.option("--key", "uniqkey", metavar="KEY", help="Only the job with this unique key."),
    click.option("--partition", metavar="NAME", help="Only jobs of this partition."),
    click.option(
        "--error",
        metavar="CLASS",
        help="Only jobs whose latest failure has this class, such as TimeoutError.",
    ),
    click.option(
        "--error-text", metavar="TEXT", help="Only jobs whose latest failure has this in its message."
    ),
    click.option("--arg-text", metavar="TEXT", help="Only jobs with this in their argument."),
    click.option("--created-from", metavar="WHEN", help=f"Only jobs inserted at this time or later. {_TIME}"),
    click.option("--created-before", metavar="WHEN", help="Only jobs inserted before this time."),
    click.option(
        "--due-from", metavar="WHEN", help="Only jobs due, or whose lease ends, at or after this time."
    ),
    click.option(
        "--due-before", metavar="WHEN", help="Only jobs due, or whose lease ends, before this time."
    ),
)
_NAMES: Final = (
    "funcname",
    "state",
    "failed",
    "uniqkey",
    "partition",
    "error",
    "error_text",
    "arg_text",
    *_TIMES,
)


def filters(command: Callable[..., None], *, further_states: Sequence[str] = ()) -> Callable[..., None]:
    """Add the filters. The command gets them as ``filters``.

    Args:
        command: the function of a command.
        further_states: values of ``--state`` that are not states of jobs in the queue.

    """
    state = click.Choice([*_STATES, *further_states])

    @wraps(command)
    def with_filters(*arguments: Any, **named: Any) -> None:
        given = {name: named.pop(name) for name in _NAMES}
        command(
            *arguments,
            filters=Filters({name: value for name, value in given.items() if value not in (None, False)}),
            **named,
        )

    for option in reversed((*_FILTERS, click.option("--state", type=state, help="Only jobs in this state."))):
        option(with_filters)
    return with_filters


def _parse_time(text: str, clock: Callable[[], float]) -> int:
    """Return the unix time of a text. ``clock`` is called if the time is relative.

    Raises:
        UsageError: the text is not a time.

    """
    if re.fullmatch("[+-][0-9]{1,10}", text):
        return int(clock()) + int(text)
    if re.fullmatch("[0-9]{5,10}", text):
        return int(text)
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"{text!r:.50} is not a time. {_TIME}") from None
