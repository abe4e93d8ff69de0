"""How an attempt ended: success or setback, and the result of settling it. Reports of a running job."""

import traceback
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias, get_args

from garivini.errors import UsageError
from garivini.model.job import Handle, Job
from garivini.model.limits import check_word
from garivini.model.state import State
from garivini.model.when import When

#: The kinds of setback.
Kind: TypeAlias = Literal["failed", "rescheduled", "discarded", "parked", "cancelled", "crashed"]
#: The results of settling a setback.
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
    #: ``failed``: counts as a failure, and backs off unless ``when`` is given. ``rescheduled``: does not
    #: count. ``discarded``, ``parked``, ``cancelled``: dead immediately. ``crashed``: the process died, and
    #: the attempt continues in another one unless that was the last crash allowed.
    kind: Kind
    error: str = ""
    message: str = ""
    trace: str = ""
    worker: str = ""
    when: When | None = None
    #: The names of the exception's class and base classes, by which the function's retry policy decides;
    #: empty: ``error`` is the only name.
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_word("kind", self.kind, _KINDS)
        for name in ("error", "message", "trace", "worker"):
            if not isinstance(text := getattr(self, name), str):
                raise UsageError(f"{name} is text, not {text!r:.100}")


class _Settled(NamedTuple):
    #: ``applied``. ``repeated``: this attempt has reported its outcome before. ``stale``: the attempt does
    #: not hold the job. ``gone``: the job does not exist. ``locked``: nothing was done, because another
    #: transaction has locked the row and the caller did not want to wait.
    result: Result
    #: If it was applied, the new state of the job.
    state: State = State.WAITING
    #: If it was applied, the failures of the job.
    failcount: int = 0
    #: If it was applied, seconds until the job runs again. None: not at all, or at a given time.
    delay: int | None = None


class Settled(_Settled):
    """The result of settling a setback.

    Raises:
        UsageError: the result is unknown.

    """

    __slots__ = ()

    def __new__(cls, result: Result, *details: Any, **named: Any) -> Self:
        """Check the result."""
        check_word("result", result, _RESULTS)
        return super().__new__(cls, result, *details, **named)


class Success(NamedTuple):
    """An attempt that succeeded."""

    jobid: int
    #: None: it is unknown, and the attempt of the row is used.
    attempt: int | None
    #: None: the result cannot be kept, and ``warning`` says why.
    result: bytes | None = b""
    worker: str = ""
    #: Seconds for which the job, its result and its records are kept. 0: all are deleted.
    retention: int = 0
    #: How long it ran; None: unknown.
    seconds: float | None = None
    #: Why the result is None; stored as a report.
    warning: str = ""


class KeptResult(NamedTuple):
    """The result of a job that is kept after its success."""

    #: None: the result cannot be kept, and ``warning`` says why.
    result: bytes | None
    seconds: float
    warning: str = ""


#: The kinds of report.
ReportKind: TypeAlias = Literal["status", "data", "warning"]
_REPORT_KINDS: Final = get_args(ReportKind)


class _Report(NamedTuple):
    #: The handle of the job, with the attempt that runs it.
    handle: Handle
    #: ``status``: progress, which replaces the last status. ``data``, ``warning``: a line.
    kind: ReportKind
    #: The line, or of a status, ``b"numerator/denominator"``.
    body: bytes
    #: The job as its copy described it, if the database may have been replaced since then.
    job: Job | None = None


class Report(_Report):
    """A report of a running job.

    Raises:
        UsageError: its kind is unknown.

    """

    __slots__ = ()

    def __new__(cls, handle: Handle, kind: ReportKind, body: bytes, job: Job | None = None) -> Self:
        """Check the kind."""
        check_word("kind", kind, _REPORT_KINDS)
        return super().__new__(cls, handle, kind, body, job)


def failure(handle: Handle, error: BaseException | str | None, worker: str = "") -> Setback:
    """Return the setback of an attempt that failed with this error."""
    if not isinstance(error, BaseException):
        return Setback(handle=handle, kind="failed", message=error or "", worker=worker)
    return Setback(
        handle=handle,
        kind="failed",
        error=type(error).__qualname__,
        message=_message(error),
        trace="".join(traceback.format_exception(error)),
        worker=worker,
        classes=class_names(type(error)),
    )


def success(handle: Handle, result: Any, worker: Any) -> Success:
    """Return the success of a job with this result.

    Raises:
        UsageError: the result is not bytes or encodable text, or the worker is not a text.

    """
    if isinstance(result, str):
        try:
            result = result.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"the result cannot be encoded as UTF-8: {error}") from None
    if not isinstance(result, bytes):
        kind = type(result).__name__
        raise UsageError(f"a result is bytes or str, not {kind}: for data, pass json.dumps(data)")
    if not isinstance(worker, str):
        raise UsageError(f"the name of a worker is a str, not {type(worker).__name__}")
    return Success(handle.jobid, handle.attempt, result, worker)


def class_names(error: type[BaseException]) -> tuple[str, ...]:
    """Return the names of an exception's class and base classes, each alone and with its module."""
    bases = (base for base in error.__mro__ if issubclass(base, BaseException))
    return tuple(
        name for base in bases for name in (base.__qualname__, f"{base.__module__}.{base.__qualname__}")
    )


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:
        return f"its message cannot be read: {type(broken).__qualname__}"
