"""A primary that changes under Injector and Controller: they follow, and lose nothing. Real pairs."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.pairs import PAIRS, SYNCHRONOUS, Pair
from tests.processes import until
from tests.pure_system import start_pure
from tests.system import system
from tests.test_failover import DROPPED, FOLLOWED, JOBS, TRIES, sessions, stored

pytestmark = [pytest.mark.slow, pytest.mark.servers, pytest.mark.timeout(900)]

#: Clients that inject at the same time. The Injector stores what they send with one connection.
CALLERS = 10


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with PAIRS[request.param]() as pair:
        yield pair


@pytest.fixture(params=SYNCHRONOUS)
def synchronous(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with SYNCHRONOUS[request.param]() as pair:
        yield pair


@pytest.mark.parametrize("hosts", ["one address", "both hosts"])
async def test_injector_and_controller_follow_a_switchover(pair: Pair, tmp_path: Path, hosts: str) -> None:
    runs: Counter[str] = Counter()
    url = pair.url if hosts == "one address" else pair.url_of_both()
    async with system(tmp_path, url=url) as queue, AsyncExitStack() as stack:
        producers = await start_pure(queue, runs, stack, CALLERS)
        running = [asyncio.create_task(producer.run()) for producer in producers]
        await stored(producers, 200)
        began = time.monotonic()
        await queue.call(pair.switch_over)
        switched = time.monotonic()
        await queue.call(until, lambda: sessions(pair.standby, pair.user) == 0, "the old primary's clients")
        for producer in producers:
            await producer.goes_on(1)
        assert time.monotonic() - switched < FOLLOWED
        await stored(producers, sum(len(producer.stored) for producer in producers) + 100)
        for producer in producers:
            producer.stopped = True
        await asyncio.gather(*running)
        await queue.gone()
        assert {arg for producer in producers for arg in producer.stored} <= runs.keys()
        errors = [producer.errors for producer in producers]
        assert [error for each in errors for at, error in each if at > switched] == []
        assert max(map(len, errors)) <= 1 + (switched - began) // TRIES
        if switched - began < TRIES:
            assert queue.seen.of("role.error") == []
        assert [event for event in queue.seen.events if event[0] in DROPPED] == []


@JOBS
async def test_injector_and_controller_lose_no_acknowledged_job_when_the_primary_is_killed(
    synchronous: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], jobs: int
) -> None:
    """With both hosts in the URL, nothing else leads to the new primary."""
    runs: Counter[str] = Counter()
    async with system(tmp_path, url=synchronous.url_of_both()) as queue, AsyncExitStack() as stack:
        producers = await start_pure(queue, runs, stack, CALLERS)
        running = [asyncio.create_task(producer.run()) for producer in producers]
        await stored(producers, jobs // 2)
        began = time.monotonic()

        def fail() -> None:
            synchronous.primary.kill()
            synchronous.fail_over()

        await queue.call(fail)
        promoted = time.monotonic()
        for producer in producers:
            await producer.goes_on(1)
        followed = time.monotonic() - promoted
        await stored(producers, jobs)
        for producer in producers:
            producer.stopped = True
        await asyncio.gather(*running)
        await queue.gone()
    acknowledged = {arg for producer in producers for arg in producer.stored}
    errors = [producer.errors for producer in producers]
    with capsys.disabled():
        twice = sum(number > 1 for number in runs.values())
        print(f"\n{len(acknowledged)} acknowledged, {len(acknowledged - runs.keys())} lost,")  # noqa: T201
        print(f"{twice} run again, {sum(map(len, errors))} errors, followed in {followed:.1f} s")  # noqa: T201
    assert acknowledged <= runs.keys()
    assert followed < FOLLOWED
    assert [error for each in errors for at, error in each if at > promoted] == []
    assert max(map(len, errors)) <= 1 + (promoted - began) // TRIES
    assert [event for event in queue.seen.events if event[0] in DROPPED] == []
