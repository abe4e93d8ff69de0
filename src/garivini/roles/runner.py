"""The lifecycle that all roles share: start, serve until stopped, drain for a limited time, close."""

import asyncio
import traceback
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from garivini import events
from garivini.backoff import Backoff
from garivini.clock import SYSTEM_CLOCK, Clock
from garivini.errors import GariviniError
from garivini.events import throttle
from garivini.gearman.aio import Worker


class Role(Protocol):
    """A role, for all databases. ``run_role`` calls each of its methods at most once, in this order."""

    @property
    def links(self) -> Sequence[Worker]:
        """The connections on which Gearman servers send jobs to the role, one per server."""

    @property
    def drain_timeout(self) -> float:
        """Maximum seconds that ``drain`` may take."""

    async def start(self) -> Iterable[asyncio.Task[None]]:
        """Start the loops of the role and return them. If a loop ends before the stop, the role ends."""

    async def drain(self) -> None:
        """Accept no more work, and return when everything that was accepted is done."""

    async def give_up(self) -> None:
        """Report the work that ``drain`` has not done in time, and leave it to others as soon as possible."""

    async def close(self) -> None:
        """Close connections and end threads. Also called after an error."""


async def run_role(role: Role, stop: asyncio.Event) -> None:
    """Run a role until ``stop`` is set, then drain it. Return when it is closed.

    Raises:
        Exception: one of its loops has failed, which is a defect.

    """
    throttle.install()
    stopping = asyncio.create_task(stop.wait())
    tasks: list[asyncio.Task[Any]] = [stopping]
    try:
        loops = await role.start()
        tasks += loops
        links = [asyncio.create_task(link.run()) for link in role.links]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        tasks += links
        for loop in loops:
            if loop.done():
                loop.result()  # a role cannot continue without one of its loops
        try:
            async with asyncio.timeout(role.drain_timeout):
                await role.drain()
        except TimeoutError:
            await role.give_up()
    finally:
        for link in role.links:
            link.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await role.close()
        throttle.emit_held()


class Passes(Protocol):
    """A loop of passes, such as that of a QueueRunner."""

    @property
    def name(self) -> str:
        """Return the name for the log."""

    async def run_pass(self) -> float:
        """Do one pass; return the seconds until the next one is due."""


async def run_passes(
    passes: Passes,
    *,
    stop: asyncio.Event,
    wake: asyncio.Event,
    clock: Clock = SYSTEM_CLOCK,
) -> None:
    """Run pass after pass until ``stop`` is set.

    Args:
        passes: the loop. If a pass fails, the error is reported and the next pass comes after a backoff,
            because a defect in one loop must not end the others.
        stop: ends the loop between two passes.
        wake: starts the next pass immediately. The event is cleared before each pass, so that nothing is
            missed that happens during the pass.
        clock: gives the time, and the jitter of the backoff.

    """
    stopping = asyncio.create_task(_wake_to_stop(stop, wake))
    try:
        await _run_passes(passes, stop, wake, clock)
    finally:
        stopping.cancel()


async def _run_passes(passes: Passes, stop: asyncio.Event, wake: asyncio.Event, clock: Clock) -> None:
    backoff = Backoff(first=0.1, longest=2.0, uniform=clock.uniform)
    failing: type[Exception] | None = None
    events.emit("role.started", role=passes.name)
    while not stop.is_set():
        wake.clear()
        began = clock.monotonic()
        try:
            delay = await passes.run_pass()
        except Exception as error:
            delay = backoff.failed()
            # Reported once per kind of error, not at every try of an outage.
            if type(error) is not failing:
                text = str(error) if isinstance(error, GariviniError) else traceback.format_exc()
                events.emit("role.error", role=passes.name, error=text)
            failing = type(error)
            # A wake-up does not end this wait. Otherwise every insert would retry the failing pass.
            await _wait(stop, delay)
            continue
        if failing is not None:
            events.emit("role.recovered", role=passes.name)
            failing = None
        backoff.succeeded()
        await _wait(wake, delay - (clock.monotonic() - began))
    events.emit("role.stopped", role=passes.name)


async def _wake_to_stop(stop: asyncio.Event, wake: asyncio.Event) -> None:
    """Set ``wake`` on a stop, so that a pause waits for one event: two events would cost two tasks."""
    await stop.wait()
    wake.set()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Return when the event is set, or after the given number of seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
