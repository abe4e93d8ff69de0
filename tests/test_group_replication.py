"""A group of MySQL servers with a single primary, which changes by itself: nothing is lost. Real servers."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Final

import pytest

from garivini import AsyncClient
from garivini.databases import DatabaseSettings
from garivini.errors import ConflictError, OutcomeUnknownError
from garivini.model.new_jobs import new_job
from garivini.store.database import Database
from tests.group import Group, group, installed
from tests.processes import until
from tests.servers import embedded
from tests.system import System, system
from tests.test_failover import DROPPED, FOLLOWED, TRIES, Producer, start_everything, stored
from tests.test_misconfigurations import examine

pytestmark = [
    pytest.mark.servers,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(installed() is None, reason="MySQL is not installed: `make versions`"),
]

#: Producers beside one for each way to insert a job.
MORE: Final = 15


@pytest.fixture
def members() -> Iterator[Group]:
    with group() as members:
        yield members


class Load:
    """Producers and all roles, while the primary of a group changes."""

    def __init__(self, queue: System) -> None:
        self.runs: Counter[str] = Counter()
        self.producers: list[Producer] = []
        #: For each change: when it began and when a member took writes again (monotonic).
        self._changes: list[tuple[float, float]] = []
        self._followed: list[float] = []
        self._queue = queue

    async def start(self, stack: AsyncExitStack) -> None:
        self.producers = await start_everything(self._queue, self.runs, stack)
        client = await stack.enter_async_context(AsyncClient(self._queue.url, [self._queue.address]))

        async def insert(arg: str) -> None:
            await client.insert_job("f", arg)

        self.producers += [Producer(str(number), insert) for number in range(MORE)]
        self._running = [asyncio.create_task(producer.run()) for producer in self.producers]

    async def stores(self, jobs: int) -> None:
        """Wait until so many more are acknowledged."""
        await stored(self.producers, sum(len(producer.stored) for producer in self.producers) + jobs)

    async def survives(self, change: Callable[[], object]) -> None:
        """Change the primary, and wait until each producer stores again."""
        began = time.monotonic()
        await self._queue.call(change)
        changed = time.monotonic()
        self._changes.append((began, changed))
        for producer in self.producers:
            await producer.goes_on(1)
        self._followed.append(time.monotonic() - changed)

    async def end(self) -> None:
        for producer in self.producers:
            producer.stopped = True
        await asyncio.gather(*self._running)
        await self._queue.gone()

    def check(self) -> str:
        """Make sure that nothing is lost and errors are few; return a summary."""
        acknowledged = {arg for producer in self.producers for arg in producer.stored}
        assert acknowledged <= self.runs.keys()
        assert max(self._followed) < FOLLOWED
        errors = [error for producer in self.producers for error in producer.errors]
        outside = [error for at, error in errors if not any(a <= at <= b for a, b in self._changes)]
        # A call that began just before a change may fail in it.
        assert len(outside) <= len(self.producers) * len(self._changes), outside
        most = sum(1 + (b - a) // TRIES for a, b in self._changes)
        # A primary that leaves answers each commit by "unknown" until it is read-only.
        known = [[error for _, error in each.errors if not unknown(error)] for each in self.producers]
        assert max(map(len, known)) <= most
        assert [event for event in self._queue.seen.events if event[0] in DROPPED] == []
        twice = sum(runs > 1 for runs in self.runs.values())
        times = ", ".join(
            f"{b - a:.1f} s and {f:.1f} s" for (a, b), f in zip(self._changes, self._followed, strict=True)
        )
        return (
            f"{len(acknowledged)} acknowledged, 0 lost, {twice} run again, {len(errors)} errors, of which "
            f"{sum(unknown(error) for _, error in errors)} are unknown outcomes; "
            f"until a member took writes, and until all stored again: {times}"
        )


def unknown(error: Exception) -> bool:
    """Whether a job may be stored, also by an Injector."""
    return isinstance(error, OutcomeUnknownError) or "may have been stored" in str(error)


async def test_a_killed_primary_of_a_group_loses_no_acknowledged_job(
    members: Group, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with system(tmp_path, url=members.url) as queue, AsyncExitStack() as stack:
        load = Load(queue)
        await load.start(stack)
        await load.stores(500)
        await load.survives(members.kill_primary)
        await load.stores(500)
        await load.end()
    with capsys.disabled():
        print(f"\n{load.check()}")  # noqa: T201


@pytest.mark.soak
@pytest.mark.alone
@pytest.mark.timeout(1800)
async def test_a_group_whose_primary_is_changed_leaves_and_is_killed_loses_no_acknowledged_job(
    members: Group, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with system(tmp_path, url=members.url) as queue, AsyncExitStack() as stack:
        load = Load(queue)
        await load.start(stack)
        await load.stores(7_500)
        await load.survives(members.switch_over)
        await load.stores(7_500)
        left = members.primary
        await load.survives(members.leave)
        await load.stores(7_500)
        await queue.call(members.rejoin, left)
        await load.survives(members.kill_primary)
        await load.stores(7_500)
        await load.end()
    with capsys.disabled():
        print(f"\n{load.check()}")  # noqa: T201


@pytest.mark.soak
def test_doctor_finds_a_group_with_several_primaries_and_its_advice_ends_it(members: Group) -> None:
    first = members.primary
    with closing(Database(DatabaseSettings(1, members.url_of(first)))) as database:
        database.upgrade()
    with embedded() as address:

        def found() -> dict[str, str]:
            findings = examine(members.url_of(first), address)
            return {
                each["says"].partition(":")[0]: each["do"] for each in findings if "group" in each["says"]
            }

        assert found() == {}
        first.execute("SELECT group_replication_switch_to_multi_primary_mode()")
        first.execute("SET GLOBAL group_replication_consistency = EVENTUAL")
        advice = found()
        assert set(advice) == {
            "group_replication_single_primary_mode is OFF",
            "group_replication_consistency is EVENTUAL",
        }
        for text in advice.values():
            (order,) = re.findall("`([^`]+)`", text)
            first.execute(order)
        assert found() == {}


@pytest.mark.soak
def test_a_conflict_with_another_member_can_be_repeated(members: Group) -> None:
    """With several primaries, which are not supported for a queue: in a group with one, this is rare."""
    first, second, _ = members.members
    first.execute("SELECT group_replication_switch_to_multi_primary_mode()")
    with closing(Database(DatabaseSettings(1, members.url_of(first)))) as database:
        database.upgrade()
        (job,) = database.insert([new_job("f", b"")])
        change = "UPDATE job SET failcount = failcount + 1 WHERE jobid = %s"

        def seen() -> bool:
            tables = "SELECT 1 FROM information_schema.tables WHERE table_schema = %s AND table_name = 'job'"
            there = second.execute(tables, parameters=[members.name])
            return bool(there and second.execute("SELECT 1 FROM job", members.name))

        until(seen, "the job at the other member")

        def conflict() -> None:
            with database.transaction() as run:
                run("retry", jobids=[job.jobid])
                second.execute(change, members.name, [job.jobid])

        for _ in range(3):
            with pytest.raises(ConflictError) as raised:
                conflict()
            assert raised.value.transient
        assert database.retry(job.jobid)
        assert database.complete([job.jobid]) == {job.jobid}
