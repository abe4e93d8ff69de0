"""Splits a batch of inserts that failed as a whole, so that each caller gets its own answer. No I/O."""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from garivini.errors import ConflictError, GariviniError, RefusedError, UsageError
from garivini.model.inserted import Inserted
from garivini.model.job import NewJob

#: Maximum lock timeouts of single callers, after which the rest of the batch is given up.
_CONFLICTS: Final = 3


class Inserting(Protocol):
    """The insert of one caller."""

    @property
    def jobs(self) -> Sequence[NewJob]:
        """The jobs to store."""


_C = TypeVar("_C", bound=Inserting)


class Ends(NamedTuple, Generic[_C]):
    """The callers of a failed batch whose outcome is known."""

    stored: list[tuple[_C, Sequence[Inserted]]]
    failed: list[tuple[_C, Exception]]


class SplitInserts(Generic[_C]):
    """A batch of inserts, and the smaller batches to try when it fails.

    A value that a database refuses may be only one caller's: the batch is halved until that caller is found.
    A lock may block only one key: each caller is tried separately. If a database cannot be reached, or the
    outcome of its commit is unknown, that applies to the whole batch.
    """

    def __init__(self, batch: Sequence[_C]) -> None:
        self._todo: list[Sequence[_C]] = [batch]
        self._conflicts = 0

    def next_batch(self) -> Sequence[_C]:
        """Return the callers whose jobs the next call inserts. The result is empty when none are left."""
        return self._todo.pop() if self._todo else ()

    def failed(self, batch: Sequence[_C], error: Exception) -> Ends[_C]:
        """Record that this batch failed; return the callers whose outcome is known now."""
        ends: Ends[_C] = Ends([], [])
        untried: list[_C] = []
        about: list[_C] = []
        stored = error.stored if isinstance(error, GariviniError) else {}
        failed = frozenset(error.failed) if isinstance(error, GariviniError) else frozenset()
        start = 0
        for call in batch:
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

    def _divide(self, batch: Sequence[_C], error: Exception, ends: Ends[_C]) -> None:
        """Divide a failed batch into smaller ones, or give its callers their errors."""
        if len(batch) > 1 and isinstance(error, UsageError | RefusedError):
            half = len(batch) // 2
            self._todo += [batch[half:], batch[:half]]
            return
        if len(batch) > 1 and isinstance(error, ConflictError) and not error.whole:
            self._todo += [[call] for call in reversed(batch)]
            return
        over = list(batch)
        if isinstance(error, ConflictError):
            self._conflicts += 1
            if self._conflicts >= _CONFLICTS:
                over += [call for rest in reversed(self._todo) for call in rest]
                self._todo.clear()
        ends.failed.extend((call, _own(error, call, {})) for call in over)


def _own(error: Exception, call: Inserting, stored: Mapping[int, Inserted]) -> Exception:
    """Return the error for one caller."""
    if not isinstance(error, GariviniError):
        return error
    own = copy(error)
    own.__cause__ = error.__cause__
    own.stored = stored
    own.failed = [number for number in range(len(call.jobs)) if number not in stored]
    return own
