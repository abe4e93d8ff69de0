"""Checks the types of the values of statements. No I/O."""

from collections.abc import Mapping
from typing import Any, Final

from garivini.errors import UsageError

#: Parameters of statements that are text or bytes; most others are whole numbers.
_TEXTS: Final = frozenset(
    "funcname uniqkey coalesce partition headers arg flag kind error message trace worker body result"
    " envelope rate partition_rate error_text arg_text name cron zone missed overlap declared override"
    " unique_scope on_duplicate start rule"
    " id mover batchid on_complete on_success call".split()
)
#: Parameters that are numbers with a fraction.
_REALS: Final = frozenset(("ran", "used_until"))
#: Parameters for which True is refused: as a number, it would mean job 1.
_STRICT: Final = frozenset(("jobid", "first", "last", "dbid", "attempt", "after", "until", "limit"))
#: Parameters that may be None, besides the texts.
_OPTIONAL: Final = frozenset(
    "state lease deadline renews max_failures retention max_running dead_retention burst paused_until"
    " partition_max_running partition_burst fair cancel_grace coalesce_max coalesce_wait"
    " created_from created_before due_from due_before every tick next_tick queued last_tick"
    " last_jobid unique_window max_delay expires".split()
)
_LARGEST: Final = 2**63 - 1


def check_values(values: Mapping[str, Any]) -> None:
    """Check, in the same way for every database, that each value has the type of its parameter.

    Raises:
        UsageError: a value has another type; the message names the parameter.

    """
    for name, value in values.items():
        if name == "jobids":
            if not set(map(type, value)) <= {int}:
                wrong = next(item for item in value if type(item) is not int)
                raise UsageError(f"a job's id is a whole number, not {wrong!r:.100}")
        elif name in ("funcnames", "names", "partitions", "ids"):
            continue  # such a value was read from the database
        elif name in _REALS:
            if value is not None and not isinstance(value, float):
                raise UsageError(f"{name} is a number of seconds, not {value!r:.100}")
        elif name in _TEXTS:
            if value is not None and not isinstance(value, str | bytes):
                raise UsageError(f"{name} is a text, not {value!r:.100}")
        elif type(value) is not int:
            check_number(name, value, optional=name in _OPTIONAL, strict=name in _STRICT)
        elif name == "limit" and not 0 <= value <= _LARGEST:
            raise UsageError(f"limit is 0 to {_LARGEST}, not {value}")


def check_number(name: str, value: object, *, optional: bool = False, strict: bool = True) -> None:
    """Make sure that a value is a whole number.

    Args:
        name: of the parameter.
        value: the value.
        optional: whether it may be None.
        strict: whether to refuse True and False.

    Raises:
        UsageError: it is not a whole number.

    """
    if optional and value is None:
        return
    if not isinstance(value, int) or (strict and isinstance(value, bool)):
        raise UsageError(f"{name} is a whole number, not {value!r:.100}")
