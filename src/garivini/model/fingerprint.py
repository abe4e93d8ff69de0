"""Groups failures with the same function, the same class of error, and a similar message.

Numbers, ids and quoted text are removed from a message, because they differ between failures of one cause.
"""

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from garivini.model.outcome import Kind

#: The kinds of setbacks that are errors.
ERRORS: Final[frozenset[Kind]] = frozenset(("failed", "discarded", "crashed", "parked"))
#: Maximum characters of a message that are read, and of the normalised message that are kept.
READ: Final = 500
_KEPT: Final = 200
#: Maximum groups. Beyond it, failures that have no group yet are grouped by function and class alone.
MAX_GROUPS: Final = 10_000
#: Stands for text that was removed, and for the messages of failures beyond ``MAX_GROUPS``.
REMOVED: Final = "…"

# Matches text in quotes, but not the apostrophe of "can't". A quote that is not closed extends to the end of
# the text.
_QUOTED: Final = re.compile(r"""(?<!\w)(?:'[^']*(?:'(?!\w)|$)|"[^"]*(?:"|$)|`[^`]*(?:`|$))""")
_ID: Final = re.compile(
    r"\b(?:0x[0-9a-f]+|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?=[a-f]*[0-9])[0-9a-f]{8,})\b",
    re.IGNORECASE,
)
_NUMBER: Final = re.compile(r"[0-9]+(?:[.,:][0-9]+)*")


def normalised(message: str) -> str:
    """Return a message without its quoted text, ids and numbers, as one line."""
    text = " ".join(message[:READ].split())
    text = _QUOTED.sub(lambda match: f"{match[0][0]}{REMOVED}{match[0][0]}", text)
    return _NUMBER.sub("#", _ID.sub("#", text))[:_KEPT]


class Occurrence(NamedTuple):
    """The values of a failure that are needed to group it."""

    jobid: int
    funcname: str
    failed_at: int
    kind: str
    error: str
    #: At least the first ``READ`` characters of the message.
    message: str


@dataclass(slots=True)
class FailureGroup:
    """Failures that have the same fingerprint. Times are unix seconds by the databases' clocks."""

    funcname: str
    error: str
    message: str
    first: int
    last: int
    #: The job of the newest failure.
    jobid: int
    dbid: int
    failures: int = 0
    jobs: int = 0


class FailureGroups:
    """Groups failures that are added one by one.

    Add all failures of a job one after another: otherwise a group counts the job more than once.
    """

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str, str], FailureGroup] = {}
        #: The job that each group counted last.
        self._counted: dict[tuple[str, str, str], tuple[int, int]] = {}

    def add(self, dbid: int, failure: Occurrence) -> None:
        """Count a failure, unless it is no error."""
        if failure.kind not in ERRORS:
            return
        key = (failure.funcname, failure.error, normalised(failure.message))
        if key not in self._groups and len(self._groups) >= MAX_GROUPS:
            key = (failure.funcname, failure.error, REMOVED)
        at, job = failure.failed_at, (failure.jobid, dbid)
        group = self._groups.setdefault(key, FailureGroup(*key, at, at, *job))
        group.failures += 1
        group.jobs += self._counted.get(key) != job
        self._counted[key] = job
        group.first = min(group.first, at)
        if at >= group.last:
            group.last, group.jobid, group.dbid = at, *job

    def most_frequent(self) -> list[FailureGroup]:
        """Return the groups, those with the most failures first."""
        return sorted(self._groups.values(), key=lambda group: (-group.failures, -group.last))
