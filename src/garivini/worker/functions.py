"""The functions of a worker: how they are checked, and what their results and exceptions mean."""

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import Any, Final

from garivini.errors import UsageError
from garivini.model.job import Job
from garivini.model.outcome import Setback, failure
from garivini.model.policy import FunctionPolicy
from garivini.model.retry import Backoff, ErrorClass, error_names, retry_policy, stored_retry
from garivini.model.when import Offset, parse_delay

_logger: Final = logging.getLogger("garivini")

Function = Callable[[Job], Any]
#: Computes the seconds until a failed job runs again, from the number of its failures and the exception.
DelayAfter = Callable[[int, BaseException], float]


class Retry(Exception):
    """Raise it in a function to run the job again after the given seconds. It does not count as a failure."""

    def __init__(self, after: float | timedelta, reason: str = "") -> None:
        super().__init__(reason)
        self.after: int = parse_delay(after)
        self.reason: str = reason


class Discard(Exception):
    """Raise it in a function to make the job dead, with this reason, until an operator retries it."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason: str = reason


@dataclass(frozen=True, slots=True)
class Registered:
    """A function of a worker, and its settings."""

    function: Function
    policy: FunctionPolicy
    #: Maximum seconds of a job; None: no limit. ``LiveSettings`` replaces it if an operator has set another.
    timeout: float | None
    is_async: bool
    #: Computes the delay after a failure; None: the stored settings decide.
    delay: DelayAfter | None = None
    #: Whether failures store the name of the exception's class with its module.
    names_module: bool = False


def registered(
    funcname: str, function: Function, policy: FunctionPolicy, delay: DelayAfter | None = None
) -> Registered:
    """Return the entry of a function that a worker can run.

    Raises:
        UsageError: a call with a job would not run the function, or would fail.

    """
    if not callable(function):
        raise UsageError(f"function {funcname!r}: {function!r:.100} is not callable")
    for call in (function, type(function).__call__):
        if inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call):
            raise UsageError(
                f"function {funcname!r} has a yield: calling it would return a generator and run nothing"
            )
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise UsageError(
            f"function {funcname!r} is called with one argument, the job, which it does not take: {error}"
        ) from None
    except ValueError:
        pass  # some builtins have no signature
    return Registered(function, policy, policy.timeout, _is_async(function), delay)


def declared_policy(
    *,
    backoff: Backoff | DelayAfter | None = None,
    backoff_for: Mapping[ErrorClass, Backoff] | None = None,
    retry_on: Iterable[ErrorClass] | None = None,
    discard_on: Iterable[ErrorClass] = (),
    **settings: Any,
) -> tuple[FunctionPolicy, DelayAfter | None]:
    """Return the settings that a worker declares, and the callable backoff among them; None: there is none.

    Raises:
        UsageError: a value is out of range, or there is no such setting.

    """
    delay = backoff if callable(backoff) else None
    retry = retry_policy(None if callable(backoff) else backoff, backoff_for, retry_on, discard_on)
    if unknown := sorted(set(settings) - {field.name for field in fields(FunctionPolicy)}):
        raise UsageError(f"{', '.join(unknown)} is not a setting of a function")
    policy = FunctionPolicy(**settings, renews=True, retry=None if retry is None else retry.text)
    policy.key_rule.check_together()
    return policy, delay


def _is_async(function: Function) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


#: Checks for return values whose code has not run, each with the name of such a value.
_UNDONE: Final = (
    (inspect.isgenerator, "a generator"),
    (inspect.isasyncgen, "an async generator"),
    (inspect.isawaitable, "an awaitable"),
)


def check_result(result: Any) -> None:
    """Make sure that a function has done its work, and does not return a generator or an awaitable.

    Raises:
        UsageError: it returned a generator, a coroutine or another awaitable, whose code has not run.

    """
    for is_undone, name in _UNDONE:
        if is_undone(result):
            if inspect.iscoroutine(result):
                result.close()  # prevents the warning that the coroutine was never awaited
            raise UsageError(
                f"the function returned {name}, whose code has not run: register an async def, await it or "
                "iterate over it"
            )


def setback_of(entry: Registered, job: Job, error: BaseException, worker: str) -> Setback:
    """Return the setback of a job whose function raised ``error``; ``worker``: the worker's name."""
    handle = job.handle
    match error:
        case Retry():
            return Setback(
                handle=handle,
                kind="rescheduled",
                error="Retry",
                message=error.reason,
                worker=worker,
                when=Offset(error.after),
            )
        case Discard():
            return Setback(
                handle=handle, kind="discarded", error="Discard", message=error.reason, worker=worker
            )
        case _:
            failed = failure(handle, error, worker)
            if entry.names_module:
                failed = replace(failed, error=failed.classes[1])
            return failed if entry.delay is None else _delayed(entry, failed, job.failcount + 1, error)


def _delayed(entry: Registered, failed: Setback, failures: int, error: BaseException) -> Setback:
    """Return a failure with the delay that the function's code computes, unless it is not to be retried."""
    assert entry.delay is not None
    policy = None if entry.policy.retry is None else stored_retry(entry.policy.retry)
    if policy is not None and policy.delay(error_names(failed), failures) is None:
        return failed
    try:
        return replace(failed, when=Offset(parse_delay(entry.delay(failures, error))))
    except Exception:
        _logger.exception("the backoff of a function failed, so the stored settings decide")
        return failed
