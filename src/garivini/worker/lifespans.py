"""Code that runs at the start and the end of each worker process."""

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Any, TypeAlias

from garivini.errors import UsageError

#: A generator function with one ``yield``.
LifespanFunction: TypeAlias = Callable[[], Iterator[Any]] | Callable[[], AsyncIterator[Any]]


class Lifespans:
    """The registered generator functions, entered in their order and left in the reverse order."""

    def __init__(self) -> None:
        self._functions: list[Callable[[], Iterator[Any]]] = []
        self._async_functions: list[Callable[[], AsyncIterator[Any]]] = []

    def add(self, function: LifespanFunction) -> None:
        """Register a generator function.

        Raises:
            UsageError: it is none.

        """
        found: Any = function
        if inspect.isasyncgenfunction(found):
            self._async_functions.append(found)
        elif inspect.isgeneratorfunction(found):
            self._functions.append(found)
        else:
            raise UsageError(f"a lifespan is a def or async def with one yield, not {function!r:.100}")

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Run the ``def`` functions around the body."""
        with ExitStack() as stack:
            for function in self._functions:
                stack.enter_context(contextmanager(function)())
            yield

    @asynccontextmanager
    async def entered_async(self) -> AsyncIterator[None]:
        """Run the ``async def`` functions around the body."""
        async with AsyncExitStack() as stack:
            for function in self._async_functions:
                await stack.enter_async_context(asynccontextmanager(function)())
            yield
