"""The calls of an Injector that wait to be stored, in batches."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from garivini.gearman.aio import Held
from garivini.model.job import NewJob
from garivini.model.pacing import BATCH_BYTES, BatchGate
from garivini.store.chunks import CHUNK


class InjectCall(msgspec.Struct, frozen=True):
    """A call of ``inject_jobs`` that is accepted and not answered."""

    held: Held
    jobs: list[NewJob]
    #: Whether it is answered by an array.
    many: bool
    #: Whether its jobs may belong to several databases, of which one may store its part while another fails.
    spread: bool
    #: Bytes of its payload.
    size: int


@dataclass(slots=True)
class Stream:
    """Calls that wait to be stored in the same place."""

    thread: ThreadPoolExecutor
    #: Returns the monotonic time.
    monotonic: Callable[[], float]
    calls: deque[InjectCall] = field(default_factory=deque)
    #: The task that stores the calls; None if there are none.
    storing: asyncio.Task[None] | None = None
    gate: BatchGate = field(default_factory=BatchGate)
    #: Set when enough calls wait for the next batch.
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, call: InjectCall) -> None:
        """Add a call."""
        self.calls.append(call)
        if not self.gate.waits(len(self.calls), self.monotonic()):
            self.enough.set()

    async def gather(self) -> None:
        """Wait until callers that have just been answered have called again."""
        while self.gate.waits(len(self.calls), now := self.monotonic()):
            self.enough.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.gate.until - now):
                    await self.enough.wait()

    def next_batch(self) -> list[InjectCall]:
        """Remove and return the next calls to store. A spread call, which may fail in part, comes alone."""
        batch: list[InjectCall] = []
        jobs = size = 0
        while self.calls:
            call = self.calls[0]
            jobs += len(call.jobs)
            size += call.size
            if batch and (call.spread or batch[0].spread or jobs > CHUNK or size > BATCH_BYTES):
                break
            batch.append(self.calls.popleft())
        return batch
