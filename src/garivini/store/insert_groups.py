"""Takes apart a group of inserts that failed as a whole, so that each caller gets his own answer. Pure."""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from garivini.errors import ConflictError, GariviniError, RefusedError, UsageError
from garivini.job import Inserted, NewJob

#: Callers alone who may each wait in vain for a lock, until the rest of the group is given up.
_CONFLICTS: Final = 3


class Inserting(Protocol):
    """The insert of one caller."""

    @property
    def jobs(self) -> Sequence[NewJob]:
        """What is to be stored."""


_C = TypeVar("_C", bound=Inserting)


class Ends(NamedTuple, Generic[_C]):
    """The callers of a failed group whose outcome is known."""

    stored: list[tuple[_C, Sequence[Inserted]]]
    failed: list[tuple[_C, Exception]]


class InsertGroups(Generic[_C]):
    """A group of inserts, and the smaller groups to try when it fails.

    A value that a database does not take, or refuses, may be one caller's alone: the group is halved until he
    is. A lock may be in the way of one key alone: each caller is tried by himself. If a database cannot be
    reached, or nobody knows whether it has committed, that is so for the whole group.
    """

    def __init__(self, group: Sequence[_C]) -> None:
        self._todo: list[Sequence[_C]] = [group]
        self._conflicts = 0

    def next_group(self) -> Sequence[_C]:
        """Return what is to be inserted next, in one call; nothing at the end."""
        return self._todo.pop() if self._todo else ()

    def failed(self, group: Sequence[_C], error: Exception) -> Ends[_C]:
        """Note that this group failed; return the callers whose outcome is known now."""
        ends: Ends[_C] = Ends([], [])
        untried: list[_C] = []
        about: list[_C] = []
        stored = error.stored if isinstance(error, GariviniError) else {}
        failed = frozenset(error.failed) if isinstance(error, GariviniError) else frozenset()
        start = 0
        for call in group:
            own = range(start, start + len(call.jobs))
            start = own.stop
            answers = {number - own.start: stored[number] for number in own if number in stored}
            if answers and len(answers) == len(own):
                ends.stored.append((call, list(answers.values())))
            elif answers:
                ends.failed.append((call, _own(error, call, answers)))
            elif failed and failed.isdisjoint(own):
                untried.append(call)
            else:
                about.append(call)
        if untried:
            self._todo.append(untried)
        self._divide(about, error, ends)
        return ends

    def _divide(self, group: Sequence[_C], error: Exception, ends: Ends[_C]) -> None:
        """Try these in smaller groups, or end them."""
        if len(group) > 1 and isinstance(error, UsageError | RefusedError):
            half = len(group) // 2
            self._todo += [group[half:], group[:half]]
            return
        if len(group) > 1 and isinstance(error, ConflictError) and not error.whole:
            self._todo += [[call] for call in reversed(group)]
            return
        over = list(group)
        if isinstance(error, ConflictError):
            self._conflicts += 1
            if self._conflicts >= _CONFLICTS:
                over += [call for rest in reversed(self._todo) for call in rest]
                self._todo.clear()
        ends.failed.extend((call, _own(error, call, {})) for call in over)


def _own(error: Exception, call: Inserting, stored: Mapping[int, Inserted]) -> Exception:
    """Return the error as one caller gets it."""
    if not isinstance(error, GariviniError):
        return error
    own = copy(error)
    own.__cause__ = error.__cause__
    own.stored = stored
    own.failed = [number for number in range(len(call.jobs)) if number not in stored]
    return own
