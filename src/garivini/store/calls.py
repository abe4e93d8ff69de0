"""Turns functions that run statements into calls of a database, repeated after a transient failure."""

import random
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

from garivini.errors import GariviniError
from garivini.store.connections import Connections
from garivini.store.statements import Statements

#: Seconds before each new try after a transient failure; each is varied at random by up to half.
_PAUSES: Final = (0.0, 0.01, 0.03, 0.1, 0.3)


class Connected(Protocol):
    """An object that has the connections to a database."""

    connections: Connections


_C = TypeVar("_C", bound=Connected)
_P = ParamSpec("_P")
_R = TypeVar("_R")


def in_transaction(
    function: Callable[Concatenate[Statements, _P], _R],
) -> Callable[Concatenate[Any, _P], _R]:
    """Return a method that calls a function in a transaction, and again after a transient failure."""

    @wraps(function)
    def call(self: Connected, /, *arguments: _P.args, **named: _P.kwargs) -> _R:
        tries = 0
        while True:
            try:
                with self.connections.transaction() as run:
                    return function(run, *arguments, **named)
            except GariviniError as error:
                if not _paused(error, tries):
                    raise
            tries += 1

    return call


def read_only(function: Callable[Concatenate[Statements, _P], _R]) -> Callable[Concatenate[Any, _P], _R]:
    """Return a method that calls a function outside of a transaction, and again after a transient failure."""

    @wraps(function)
    def call(self: Connected, /, *arguments: _P.args, **named: _P.kwargs) -> _R:
        tries = 0
        while True:
            try:
                with self.connections.reading() as run:
                    return function(run, *arguments, **named)
            except GariviniError as error:
                if not _paused(error, tries):
                    raise
            tries += 1

    return call


def retry_transient(method: Callable[Concatenate[_C, _P], _R]) -> Callable[Concatenate[_C, _P], _R]:
    """Return a method that is called again after a transient failure."""

    @wraps(method)
    def call(self: _C, /, *arguments: _P.args, **named: _P.kwargs) -> _R:
        tries = 0
        while True:
            try:
                return method(self, *arguments, **named)
            except GariviniError as error:
                # A caller's transaction is rolled back as a whole, and only the caller can begin it again.
                if named.get("connection") is not None or not _paused(error, tries):
                    raise
            tries += 1

    return call


def _paused(error: GariviniError, tries: int) -> bool:
    """Wait before the next try; return False if there is no further try."""
    if not error.transient or tries == len(_PAUSES):
        return False
    time.sleep(_PAUSES[tries] * random.uniform(0.5, 1.5))
    return True
