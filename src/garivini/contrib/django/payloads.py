"""The arguments of tasks as they are stored: a JSON object by parameter, which other languages can read."""

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from garivini.errors import UsageError

#: The key of this backend in the headers of a job.
HEADER: Final = "django"
_Kind = inspect.Parameter


def signature_of(task: Any) -> inspect.Signature:
    """Return the signature of a task's function, without the context."""
    found = inspect.signature(task.func)
    parameters = list(found.parameters.values())
    return found.replace(parameters=parameters[1:]) if task.takes_context else found


def is_by_name(signature: inspect.Signature) -> bool:
    """Whether all arguments can be stored by name, so that other languages can insert and run the task."""
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    return not kinds & {_Kind.VAR_POSITIONAL, _Kind.POSITIONAL_ONLY}


def encode(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """Return arguments, which are JSON values, as they are stored.

    Raises:
        TypeError: the function cannot be called with them.
        UsageError: a number is not finite.

    """
    signature = signature_of(task)
    bound = signature.bind(*args, **kwargs)
    stored: Mapping[str, Any] = {"args": list(args), "kwargs": dict(kwargs)}
    if is_by_name(signature):
        stored = dict(zip(signature.parameters, args, strict=False)) | dict(kwargs)
    del bound
    try:
        return json.dumps(stored, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as error:
        raise UsageError(f"the arguments of {task.module_path} are not JSON: {error}") from None


def decode(task: Any, arg: bytes, positional: int) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of a job.

    Args:
        task: the task.
        arg: the argument of the job.
        positional: how many arguments were positional.

    Raises:
        UsageError: the argument is not of this form.

    """
    signature = signature_of(task)
    try:
        stored = json.loads(arg or b"{}")
        if is_by_name(signature):
            named = dict(stored)
            return [named.pop(name) for name in list(signature.parameters)[:positional]], named
        return list(stored["args"]), dict(stored["kwargs"])
    except (ValueError, TypeError, LookupError) as error:
        raise UsageError(f"the argument of the job is not that of {task.module_path}: {error!r}") from None
