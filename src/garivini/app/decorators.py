"""The types of the decorators that ``Garivini.job`` returns: what each kind of function becomes."""

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from garivini.app.job_functions import (
    AsyncJobFunction,
    AsyncJobFunctionWithJob,
    DefJobFunction,
    DefJobFunctionWithJob,
)
from garivini.model.job import Job

_P = ParamSpec("_P")
_R = TypeVar("_R")


class JobDecorator(Protocol):
    """Makes a function a typed function."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # the first that fits is meant
        self, function: Callable[_P, Coroutine[Any, Any, _R]], /
    ) -> AsyncJobFunction[_P, _R]: ...
    @overload
    def __call__(self, function: Callable[_P, _R], /) -> DefJobFunction[_P, _R]: ...


class JobDecoratorWithJob(Protocol):
    """Makes a function whose first parameter is the job a typed function."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[Concatenate[Job, _P], Coroutine[Any, Any, _R]], /
    ) -> AsyncJobFunctionWithJob[_P, _R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Job, _P], _R], /) -> DefJobFunctionWithJob[_P, _R]: ...
