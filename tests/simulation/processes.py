"""Processes on the virtual loop: they can be killed and stand still, and their threads run in lockstep.

Blocking code (a keeper thread, a ``def`` function) runs as it is, in a greenlet of its own, which has a stack
as a thread does: one that would block parks instead, and the loop resumes it at the time when its sleep, its
event or its database answers. So the order of everything is the loop's, and repeats. Threads of the operating
system would do the same, and take twice the time.
"""

import asyncio
import itertools
import random
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, ClassVar, Final, TypeVar, cast

from greenlet import getcurrent, greenlet  # type: ignore[import-untyped]

from garivini.clock import Clock
from tests.simulation.loop import VirtualExecutor, VirtualLoop

_R = TypeVar("_R")

#: Seconds that a wait takes at least, so that time passes where code would spin.
_LEAST: Final = 0.0001


class KilledError(BaseException):
    """Ends a thread of a process that was killed."""


class _Carrier:
    """A greenlet that carries one simulated thread after the other."""

    idle: ClassVar[list["_Carrier"]] = []
    #: All of them: one that is parked at the end of a simulation stays so, and runs none of its code.
    _made: ClassVar[list["_Carrier"]] = []

    def __init__(self) -> None:
        self.work: Callable[[], None] = lambda: None
        self._here = greenlet(self._carry)
        self._loop = getcurrent()
        _Carrier._made.append(self)

    def _carry(self) -> None:
        while True:
            self.work()
            self.back()

    def go(self) -> None:
        """Let it run until it comes back. Called by the loop, which blocking code must not find running."""
        self._loop, running = getcurrent(), asyncio.get_running_loop()
        asyncio._set_running_loop(None)
        self._here.switch()
        asyncio._set_running_loop(running)

    def back(self) -> None:
        """Let the loop run. Called in it."""
        self._loop.switch()


class Process:
    """Something that can be killed, or stand still for a while.

    ``lock_step``: the thread that runs now, of whatever process.
    """

    def __init__(self, loop: VirtualLoop, name: str) -> None:
        self.loop = loop
        self.name = name
        self.alive = True
        self.wakes_at = 0.0
        self.threads: set[Thread] = set()
        #: Called when it is killed.
        self.at_death: list[Callable[[], None]] = []

    @property
    def frozen(self) -> bool:
        return self.loop.time() < self.wakes_at

    def freeze(self, seconds: float) -> None:
        """Let it stand still for so long."""
        self.wakes_at = max(self.wakes_at, self.loop.time() + seconds)

    def kill(self) -> None:
        """End it at once: none of its code runs any more."""
        if not self.alive:
            return
        self.alive = False
        for thread in list(self.threads):
            if thread is not Thread.running:
                self.loop.call_soon(thread.resume, thread.turn)
        for call in self.at_death:
            call()

    def when_awake(self, call: Callable[..., None], *arguments: Any) -> None:
        """Call it in this process: now, or when it moves again; never if it is killed."""
        if self.frozen:
            self.loop.call_at(self.wakes_at, self.when_awake, call, *arguments)
        elif self.alive:
            call(*arguments)

    async def sleep(self, seconds: float) -> None:
        """Let a coroutine of this process sleep; it sleeps on while the process stands still."""
        if seconds > 0:
            await asyncio.sleep(seconds)
        while self.frozen:
            await asyncio.sleep(self.wakes_at - self.loop.time())
        if not self.alive:
            await self.never()

    async def never(self) -> None:
        """Wait for what does not come any more."""
        await self.loop.create_future()


class Thread:
    """Stands in for ``threading.Thread``, and runs in lockstep with the loop."""

    #: The one that runs now.
    running: "Thread | None" = None

    def __init__(
        self,
        target: Callable[[], object],
        name: str = "",
        *,
        process: Process,
        at_end: Callable[[], None] | None = None,
    ) -> None:
        self.process = process
        self.name = name
        self.alive = False
        #: Counts its parkings, so that only what it waits for now resumes it.
        self.turn = 0
        self.error: BaseException | None = None
        self._target = target
        self._at_end = at_end
        self._joining: list[Callable[[], None]] = []
        self._carrier: _Carrier | None = None

    def start(self) -> None:
        self.alive = True
        self.process.threads.add(self)
        self.process.loop.call_soon(self.resume, self.turn)

    def join(self, timeout: float | None = None) -> None:
        """Wait, in another thread of the simulation, until it has ended, for however long that takes."""
        caller = current_thread()
        while self.alive:
            self._joining.append(caller.waker())
            caller.park()

    def waker(self) -> Callable[[], None]:
        """Return what ends the parking that comes next."""
        turn = self.turn + 1
        return lambda: cast(None, self.process.loop.call_soon(self.resume, turn))

    def sleep(self, seconds: float) -> None:
        self.process.loop.call_later(max(seconds, _LEAST), self.resume, self.turn + 1)
        self.park()

    def park(self) -> None:
        """Give way to the loop until something resumes this thread. Called in it."""
        self.turn += 1
        carrier = self._carrier
        assert carrier is not None
        carrier.back()
        if not self.process.alive:
            raise KilledError

    def resume(self, turn: int) -> None:
        """Let it run until it parks or ends. Called by the loop."""
        if turn != self.turn or not self.alive:
            return
        if self.process.alive and self.process.frozen:
            self.process.loop.call_at(self.process.wakes_at, self.resume, turn)
            return
        if self._carrier is None:
            if not self.process.alive:
                self._end()
                return
            self._carrier = _Carrier.idle.pop() if _Carrier.idle else _Carrier()
            self._carrier.work = self._run
        carrier = self._carrier
        assert Thread.running is None, "one thread resumes another"
        Thread.running = self
        carrier.go()
        Thread.running = None
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def _run(self) -> None:
        try:
            self._target()
        except KilledError:
            pass
        except BaseException as error:
            self.error = error
        carrier = self._carrier
        assert carrier is not None
        _Carrier.idle.append(carrier)
        self._end()

    def _end(self) -> None:
        self.alive = False
        self.process.threads.discard(self)
        for wake in self._joining:
            wake()
        if self._at_end is not None and self.process.alive:
            self._at_end()


def current_thread() -> Thread:
    """Return the thread of the simulation that runs now."""
    assert Thread.running is not None, "this blocks the loop"
    return Thread.running


def clock_of(process: Process, source: random.Random) -> Clock:
    """Return the clock of a process: the loop's time, threads of the simulation, and its chance."""

    def monotonic() -> float:
        # Code that takes the death of its process for an error of a job comes no further than this.
        if Thread.running is not None and not Thread.running.process.alive:
            raise KilledError
        return process.loop.time()

    return Clock(
        monotonic=monotonic,
        sleep=lambda seconds: current_thread().sleep(seconds),
        event=cast(Any, Event),
        queue=cast(Any, Queue),
        thread=lambda run, name: cast(Any, Thread(run, name, process=process)),
        uniform=source.uniform,
    )


class Event:
    """Stands in for ``threading.Event``."""

    def __init__(self) -> None:
        self._set = False
        self._wakers: list[Callable[[], None]] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        for wake in self._wakers:
            wake()
        self._wakers.clear()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        thread = current_thread()
        if not self._set:
            self._wakers.append(thread.waker())
            if timeout is None:
                thread.park()
            else:
                thread.sleep(timeout)
        return self._set


class Queue:
    """Stands in for ``queue.SimpleQueue``."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._added = Event()

    def put(self, item: Any) -> None:
        self._items.append(item)
        self._added.set()

    def get(self) -> Any:
        while not self._items:
            self._added.clear()
            self._added.wait()
        return self._items.popleft()


class Threads(VirtualExecutor):
    """Runs each call in a simulated thread of its own."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def start(self, work: Callable[[], _R]) -> asyncio.Future[_R]:
        future: asyncio.Future[_R] = self._process.loop.create_future()

        def run() -> None:
            try:
                result = work()
            except Exception as error:
                settle(future, None, error)
            else:
                settle(future, result, None)

        Thread(run, process=self._process).start()
        return future


def settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    """Give a future its result or error, if anybody still waits for it."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


class MainThread:
    """The loop of a process that has a loop: its callbacks, one at a time, and none while one blocks.

    Stands in for what the process takes for its running loop.
    """

    def __init__(self, process: Process, blocking: Callable[[Callable[..., None]], bool]) -> None:
        """``blocking``: whether a callback may block, and so must run in a simulated thread."""
        self._process = process
        self._loop = process.loop
        self._blocking = blocking
        self._ready: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._busy = False
        self._turn_due = False

    def call_soon(self, call: Callable[..., None], *arguments: Any) -> None:
        self._ready.append((call, arguments))
        self._go_on()

    def call_soon_threadsafe(self, call: Callable[..., None], *arguments: Any) -> None:
        self.call_soon(call, *arguments)

    def call_later(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        self._loop.call_later(seconds, self.call_soon, call, *arguments)

    def create_task(self, coroutine: Coroutine[Any, Any, _R]) -> asyncio.Task[_R]:
        return self._loop.create_task(coroutine)

    def is_closed(self) -> bool:
        return False

    async def run_in_executor(self, executor: None, call: Callable[[], _R]) -> _R | None:
        if not self._process.alive:
            return None
        return await self._loop.run_in_executor(Threads(self._process), call)

    def _go_on(self) -> None:
        if not self._turn_due and not self._busy and self._ready:
            self._turn_due = True
            self._loop.call_soon(self._process.when_awake, self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        for _ in range(len(self._ready)):
            call, arguments = self._ready.popleft()
            if self._blocking(call):
                self._busy = True
                Thread(partial(call, *arguments), process=self._process, at_end=self._free).start()
                return
            call(*arguments)
            if not self._process.alive:
                return
        self._go_on()

    def _free(self) -> None:
        self._busy = False
        self._go_on()


def counter() -> Callable[[], int]:
    """Return what gives 1, 2, 3 and so on."""
    return itertools.count(1).__next__
