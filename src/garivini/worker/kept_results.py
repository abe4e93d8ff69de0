"""The results of functions whose jobs are kept after success."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from garivini.keeper.execution import Execution
from garivini.model.job import Job
from garivini.model.json_forms import to_json
from garivini.model.outcome import KeptResult
from garivini.worker.functions import Registered, check_result


def keeping(entry: Registered, monotonic: Callable[[], float]) -> Registered:
    """Return a function that measures its jobs and returns their results in the form in which they are kept.

    Only functions whose jobs are kept are wrapped, so the others have no cost.
    """
    function = entry.function
    if entry.is_async:

        @functools.wraps(function)
        async def keep_async(job: Job) -> KeptResult:
            began = monotonic()
            return _kept(await function(job), monotonic() - began)

        return replace(entry, function=keep_async)

    @functools.wraps(function)
    def keep(job: Job) -> KeptResult:
        began = monotonic()
        return _kept(function(job), monotonic() - began)

    return replace(entry, function=keep)


def take_result(execution: Execution, result: Any) -> None:
    """Accept the return value of a function: store it if the job is kept, otherwise only check it."""
    if isinstance(result, KeptResult):
        execution.result = result
    else:
        check_result(result)


def _kept(result: Any, seconds: float) -> KeptResult:
    check_result(result)
    try:
        return KeptResult(msgspec.json.encode(result, enc_hook=to_json), seconds)
    except Exception as error:  # the object cannot be encoded; the job has succeeded anyway
        name = type(result).__qualname__
        return KeptResult(None, seconds, f"the result, a {name}, cannot be written as JSON: {error}")
