"""The values that the row and the payload of a job allow: limits, and closed sets of words."""

from collections.abc import Collection
from typing import Final, Literal, TypeAlias, get_args

from garivini.errors import UsageError

#: ``run_after`` of a dead job: the largest time of the original's INT column.
NEVER: Final = 2147483647
#: Maximum bytes of an argument: those of a MEDIUMBLOB.
MAX_ARG: Final = 16 * 1024 * 1024 - 1
#: Maximum bytes of a function's name.
MAX_FUNCNAME: Final = 200
#: Maximum characters of a unique key and of a coalesce key.
MAX_KEY: Final = 255
#: Maximum bytes of a partition.
MAX_PARTITION: Final = 200
#: Maximum seconds of a delay: ten years. A larger number is probably a unix time.
MAX_DELAY: Final = 10 * 365 * 86400
#: Maximum seconds of a lease: a week.
MAX_LEASE: Final = 7 * 86400
#: The largest id of a job.
MAX_JOBID: Final = 2**63 - 1
#: The largest id of a database.
MAX_DBID: Final = 2**31 - 1

Flag: TypeAlias = Literal["shim", "controller"]
FLAGS: Final[tuple[Flag, ...]] = get_args(Flag)
Priority: TypeAlias = Literal["high", "normal", "low"]
#: The priorities in the order of their numbers in the row.
PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)


def check_word(what: str, word: object, known: Collection[str]) -> None:
    """Check that a word is one of the known ones.

    Raises:
        UsageError: it is not. The message lists the known words.

    """
    if not isinstance(word, str) or word not in known:
        raise UsageError(f"{what} {word!r:.100} is unknown: it is one of {', '.join(known)}")
