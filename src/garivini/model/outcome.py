"""How an attempt ended: success, a setback, its result when written; and reports of a running job."""

import traceback
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias, get_args

from garivini.errors import UsageError
from garivini.model.job import Handle
from garivini.model.limits import check_word
from garivini.model.state import State
from garivini.model.when import When

Kind: TypeAlias = Literal["failed", "rescheduled", "discarded", "parked", "cancelled", "crashed"]
Result: TypeAlias = Literal["applied", "repeated", "stale", "gone", "locked"]
_KINDS: Final = get_args(Kind)
_RESULTS: Final = get_args(Result)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setback:
    """The end of an attempt without success.

    Raises:
        UsageError: its kind is unknown.

    """

    handle: Handle
    #: ``failed`` (counts; backs off unless ``when`` is given), ``rescheduled`` (does not count),
    #: ``discarded``, ``parked`` or ``cancelled`` (dead at once), ``crashed`` (the process died; the attempt
    #: goes on in another, unless that was the last crash allowed).
    kind: Kind
    error: str = ""
    message: str = ""
    trace: str = ""
    worker: str = ""
    when: When | None = None

    def __post_init__(self) -> None:
        check_word("kind", self.kind, _KINDS)
        for name in ("error", "message", "trace", "worker"):
            if not isinstance(text := getattr(self, name), str):
                raise UsageError(f"{name} is a text, not {text!r:.100}")


class _Settled(NamedTuple):
    #: ``applied``, ``repeated`` (this attempt had reported its end before), ``stale`` (another attempt
    #: holds the job, or nobody), ``gone`` (there is no such job) or ``locked`` (nothing was done: another
    #: transaction has its row, and this one was not to wait).
    result: Result
    #: Where it was applied: the job's new state, its failures, and seconds until it runs again (None: never,
    #: or at a time that was given).
    state: State = State.WAITING
    failcount: int = 0
    delay: int | None = None


class Settled(_Settled):
    """The result of a setback.

    Raises:
        UsageError: there is no such result.

    """

    __slots__ = ()

    def __new__(cls, result: Result, *details: Any, **named: Any) -> Self:
        """Check the result."""
        check_word("result", result, _RESULTS)
        return super().__new__(cls, result, *details, **named)


class Success(NamedTuple):
    """An attempt that succeeded."""

    jobid: int
    #: None: the one that the row has.
    attempt: int | None
    result: bytes = b""
    worker: str = ""
    #: Seconds for which the job, its result, its record and its reports are kept. 0: all is deleted.
    retention: int = 0


Said: TypeAlias = Literal["status", "data", "warning"]
_SAID: Final = get_args(Said)


class _Report(NamedTuple):
    #: With the attempt that runs it.
    handle: Handle
    #: ``status`` (its progress, in place of what it said before), ``data`` or ``warning`` (a line).
    kind: Said
    #: Of a status: ``b"numerator/denominator"``.
    body: bytes


class Report(_Report):
    """A report of a running job.

    Raises:
        UsageError: its kind is unknown.

    """

    __slots__ = ()

    def __new__(cls, handle: Handle, kind: Said, body: bytes) -> Self:
        """Check the kind."""
        check_word("kind", kind, _SAID)
        return super().__new__(cls, handle, kind, body)


def failure(handle: Handle, error: BaseException | str | None, worker: str = "") -> Setback:
    """Return the setback that records ``error`` for an attempt."""
    if isinstance(error, BaseException):
        name, message = type(error).__qualname__, _message(error)
        trace = "".join(traceback.format_exception(error))
    else:
        name, message, trace = "", error or "", ""
    return Setback(handle=handle, kind="failed", error=name, message=message, trace=trace, worker=worker)


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:
        return f"its message cannot be had: {type(broken).__qualname__}"
