"""An event loop whose time is a number: where nothing is ready it jumps to the next timer."""

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import Context
from functools import partial
from typing import Any, TypeVar

_T = TypeVar("_T")


class NothingLeftError(Exception):
    """Nothing is ready and no timer is set: whoever waits would wait for ever."""


class _Jump:
    """Takes the place of the selector: instead of waiting, it lets the time pass."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise NothingLeftError
        if timeout > 0:
            self._loop.jump()
        return []


class VirtualExecutor(Executor):
    """Runs work on the virtual loop; its future is the loop's own."""

    def start(self, work: Callable[[], _T]) -> asyncio.Future[_T]:
        raise NotImplementedError


class _Timer(asyncio.TimerHandle):
    """A timer that comes after those which were set before it for the same moment."""

    def __init__(self, number: int, when: float, *rest: Any) -> None:
        super().__init__(when, *rest)
        self._number = number

    def __lt__(self, other: object) -> bool:
        mine: float = self._when  # type: ignore[attr-defined]
        its: float = other._when  # type: ignore[attr-defined]
        return mine < its or (mine == its and self._number < other._number)  # type: ignore[attr-defined]


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs callbacks and timers in an order that depends on nothing but the program.

    It has no sockets, no signals and no threads of its own.
    """

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        # Its checks forbid what threads in lockstep may do.
        self.set_debug(False)
        self._now = start
        self._timers = 0
        self._selector = _Jump(self)
        # Timers of one moment, which the loop would call in one go only if they were due within its clock's
        # resolution.
        self._clock_resolution = 1e-9
        # Held here, so that a task that waits for nothing more is not collected at a moment of the
        # collector's choice.
        self._made: list[asyncio.Task[Any]] = []

    def time(self) -> float:
        return self._now

    def jump(self) -> None:
        """Let it be the time of the next timer."""
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0].cancelled():
            heapq.heappop(timers)._scheduled = False  # type: ignore[attr-defined]
        if timers:
            self._now = max(self._now, timers[0].when())

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        self._timers += 1
        timer = _Timer(self._timers, when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def create_task(self, coro: Coroutine[Any, Any, _T], **options: Any) -> asyncio.Task[_T]:  # type: ignore[override]
        task: asyncio.Task[_T] = super().create_task(coro, **options)
        self._made.append(task)
        return task

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., _T], *args: Any
    ) -> asyncio.Future[_T]:
        assert isinstance(executor, VirtualExecutor), "this loop has no threads"
        return executor.start(partial(func, *args))

    def run(self, main: Coroutine[Any, Any, _T]) -> _T:
        """Run ``main`` to its end, then end whatever still runs."""
        try:
            return self.run_until_complete(main)
        finally:
            left = [task for task in self._made if not task.done()]
            for task in left:
                task.cancel()
            if left:
                self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._made.clear()
            self.close()

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass
