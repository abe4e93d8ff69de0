"""The values that a job's row and payload allow: limits, and closed sets of words."""

from collections.abc import Collection
from typing import Final, Literal, TypeAlias, get_args

from garivini.errors import UsageError

#: ``run_after`` of a job that is parked for inspection: the largest time of the original's INT column.
NEVER: Final = 2147483647
#: Bytes of an argument, at most: a MEDIUMBLOB.
MAX_ARG: Final = 16 * 1024 * 1024 - 1
#: Bytes of a function's name and characters of a unique key and of a coalesce key, at most.
MAX_FUNCNAME: Final = 200
MAX_KEY: Final = 255
#: Seconds from now, at most: ten years. More is a unix time taken for a delay.
MAX_DELAY: Final = 10 * 365 * 86400
#: Maximum seconds of a lease: a week.
MAX_LEASE: Final = 7 * 86400
#: The largest id of a job and of a database.
MAX_JOBID: Final = 2**63 - 1
MAX_DBID: Final = 2**31 - 1

Flag: TypeAlias = Literal["shim", "controller"]
FLAGS: Final[tuple[Flag, ...]] = get_args(Flag)
Priority: TypeAlias = Literal["high", "normal", "low"]
#: In the order of the row's numbers.
PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)


def check_word(what: str, word: object, known: Collection[str]) -> None:
    """Make sure that a word is one of the known ones.

    Raises:
        UsageError: it is not; it names those that are.

    """
    if not isinstance(word, str) or word not in known:
        raise UsageError(f"{what} {word!r:.100} is unknown: it is one of {', '.join(known)}")
