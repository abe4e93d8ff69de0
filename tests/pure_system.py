"""The roles of pure Gearman with a stock worker, and callers that inject, for tests of servers that fail."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from garivini.gearman import aio
from garivini.model.payload import decode_payload
from tests.system import System
from tests.test_failover import Producer
from tests.test_injector import Caller

#: The function of the stock worker.
FUNCTION = "stock"


async def start_pure(
    queue: System, runs: Counter[str], stack: AsyncExitStack, callers: int
) -> list[Producer]:
    """Start QueueRunner, Controller, Injector and a stock worker; return producers that inject.

    Args:
        queue: whose roles are started.
        runs: counts the runs of each job by its argument.
        stack: ends the worker and the callers.
        callers: how many clients inject, each one call at a time.

    """
    await queue.call(queue.client.close)  # of what it has used, an idle connection would stay
    queue.start_queue_runner()
    queue.start_controller()
    queue.start_injector()

    def run_call(call: aio.Held) -> None:
        runs[decode_payload(call.job.data).arg.decode()] += 1
        call.complete()

    worker = aio.Worker(queue.address, [FUNCTION.encode()], run_call, slots=100)
    running = asyncio.create_task(worker.run())
    stack.push_async_callback(asyncio.wait, [running])
    stack.callback(worker.abort)
    return [
        Producer(f"caller {number}", injecting(await stack.enter_async_context(Caller(queue.address))))
        for number in range(callers)
    ]


def injecting(caller: Caller) -> Callable[[str], Awaitable[None]]:
    """Return what injects a job with an argument, and returns when it is stored."""

    async def insert(arg: str) -> None:
        await caller.inject(FUNCTION, arg=arg)

    return insert
