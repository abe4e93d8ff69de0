"""The one lifecycle of all roles: passes, waiting, back-off after errors, stop."""

import asyncio
import traceback
from contextlib import suppress
from typing import Protocol

from garivini import events
from garivini.backoff import Backoff
from garivini.errors import GariviniError


class Role(Protocol):
    """What a role supplies."""

    @property
    def name(self) -> str:
        """For logs."""

    async def run_pass(self) -> float:
        """Do one pass; return the seconds until the next is due."""


async def run_role(role: Role, *, stop: asyncio.Event, wake: asyncio.Event) -> None:
    """Let a role do its passes until ``stop`` is set.

    Args:
        role: what to run. After an error in a pass, which is reported, the next pass comes after a back-off:
            a defect in one role must not take the others with it.
        stop: ends it between two passes.
        wake: cuts the waiting short; cleared before each pass, so that what happens in it is not missed.

    """
    ending = asyncio.create_task(_pass_on(stop, wake))
    try:
        await _passes(role, stop, wake)
    finally:
        ending.cancel()


async def _passes(role: Role, stop: asyncio.Event, wake: asyncio.Event) -> None:
    backoff = Backoff(first=0.1, longest=2.0)
    loop = asyncio.get_running_loop()
    trouble: type[Exception] | None = None
    events.emit("role.started", role=role.name)
    while not stop.is_set():
        wake.clear()
        began = loop.time()
        try:
            delay = await role.run_pass()
        except Exception as error:
            delay = backoff.failed()
            # Said once for each kind of trouble, not at every try of an outage.
            if type(error) is not trouble:
                text = str(error) if isinstance(error, GariviniError) else traceback.format_exc()
                events.emit("role.error", role=role.name, error=text)
            trouble = type(error)
            # Not cut short by a wake-up: that would make every insert try what has just failed.
            await _wait(stop, delay)
            continue
        if trouble is not None:
            events.emit("role.recovered", role=role.name)
            trouble = None
        backoff.succeeded()
        await _wait(wake, delay - (loop.time() - began))
    events.emit("role.stopped", role=role.name)


async def _pass_on(stop: asyncio.Event, wake: asyncio.Event) -> None:
    """Let what is waited for between two passes be one event: a wait for two costs two tasks each time."""
    await stop.wait()
    wake.set()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Return when the event is set, or after so many seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
