"""The names of typed functions, and which functions can be jobs."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from garivini.errors import UsageError


def function_name(function: Callable[..., Any]) -> str:
    """Return ``module.function``, the name of a function unless it is given another.

    Raises:
        UsageError: the name of the main module is unknown.

    """
    module = function.__module__
    return f"{_main_name() if module == '__main__' else module}.{function.__name__}"


def _main_name() -> str:
    """Return the name under which a worker imports the module that is running as ``__main__``."""
    main = sys.modules["__main__"]
    if (spec := getattr(main, "__spec__", None)) is not None:
        return str(spec.name)
    if file := getattr(main, "__file__", None):
        return Path(file).stem
    raise UsageError("the main module has no name: move the function into a file, or give it name=")


def check_function(function: Callable[..., Any]) -> None:
    """Make sure that a worker can find a function by its name and run it.

    Raises:
        UsageError: it is a lambda, a method, a nested function, a generator or no function.

    """
    if not inspect.isfunction(function):
        raise UsageError(f"{function!r:.100} is not a function: decorate a def or an async def")
    name = function.__qualname__
    if function.__name__ == "<lambda>":
        raise UsageError("a lambda has no name: decorate a def")
    if "<locals>" in name:
        raise UsageError(f"{name} is defined in a function, and a worker cannot import it: move it outside")
    if "." in name:
        raise UsageError(f"{name} is a method, and a job has no object: decorate a function of the module")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(f"{name} has a yield: calling it would return a generator and run nothing")
