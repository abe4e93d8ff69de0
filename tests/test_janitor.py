"""The janitor: when it deletes what, and what it reports. The deletions are in ``tests/store``."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from garivini import events
from garivini.databases import DatabaseSettings
from garivini.errors import ConflictError
from garivini.model.job import Handle
from garivini.model.new_jobs import new_job
from garivini.model.outcome import Setback, Success
from garivini.model.policy import FunctionPolicy
from garivini.model.state import State
from garivini.model.unique import Unique
from garivini.model.when import Never
from garivini.roles.batch_upkeep import FORGET_INTERVAL, IDLE_INTERVAL
from garivini.roles.janitor import DEAD_INTERVAL, DEAD_JOBS, INTERVAL, Janitor
from garivini.store.database import Database, Lane
from tests.databases import sqlite_url
from tests.system import system
from tests.test_queue_runner import runner

#: The calls about unique keys and jobs that expire.
KEYS = ["promote_successors", "forget_keys", "discard_late"]
#: The calls about batches, which have intervals of their own.
BATCHES = ["forget_batches", "open_batches", "count_ended_members"]


class Office:
    """A janitor with a clock, the calls that it makes, and the events that it emits."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.now = 1000.0
        self.calls: list[str] = []
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.janitor = Janitor(database, self.call, lambda: self.now)

    async def call(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        self.calls.append(call.__name__)
        return call(*arguments, **named)

    async def later(self, seconds: float) -> list[str]:
        """Let the janitor run once, this much later; return the calls that it made."""
        self.now += seconds
        self.calls.clear()
        await self.janitor.run()
        return [call for call in self.calls if call not in BATCHES]

    @property
    def batch_calls(self) -> list[str]:
        """The calls of the last run about batches."""
        return [call for call in self.calls if call in BATCHES]


def execute(directory: Path, *statements: str) -> None:
    with closing(sqlite3.connect(directory / "jobs.db")) as connection, connection:
        for statement in statements:
            connection.execute(statement)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    office = Office(Database(DatabaseSettings(1, sqlite_url(tmp_path))))
    unlisten = events.listen(lambda name, fields: office.seen.append((name, dict(fields))))
    yield office
    unlisten()
    office.database.close()


async def test_idle_it_makes_one_call_a_minute_and_two_more_an_hour(office: Office) -> None:
    assert await office.later(0) == []
    assert await office.later(INTERVAL - 1) == []
    all_calls = ["forget_finished", "forget_dead", "forget_partitions", *KEYS]
    assert await office.later(1) == all_calls
    minutes = [await office.later(INTERVAL) for _ in range(int(DEAD_INTERVAL / INTERVAL))]
    minute = ["forget_finished", *KEYS]
    assert minutes == [minute] * (len(minutes) - 1) + [all_calls]
    assert office.seen == []


async def test_it_looks_for_open_batches_each_ten_seconds_and_each_second_while_there_is_one(
    office: Office,
) -> None:
    seen = []
    for seconds in (0, IDLE_INTERVAL - 0.1, 0.1, 1, IDLE_INTERVAL - 1):
        await office.later(seconds)
        seen.append(office.batch_calls)
    assert seen == [[], [], ["open_batches"], [], ["open_batches"]]
    office.database.create_batch("7" * 16, "", None, None)
    await office.later(IDLE_INTERVAL)
    assert office.batch_calls == ["open_batches", "count_ended_members"]
    await office.later(1)
    assert office.batch_calls == ["open_batches", "count_ended_members"]
    office.database.seal_batch("7" * 16)
    await office.later(1)
    assert office.batch_calls == ["open_batches"]
    await office.later(FORGET_INTERVAL)
    assert office.batch_calls == ["forget_batches", "open_batches"]


async def test_it_goes_on_until_all_is_deleted_and_reports_how_many_once_a_minute(
    office: Office, tmp_path: Path
) -> None:
    database = office.database
    database.set_function("f", FunctionPolicy(dead_retention=1))
    inserted = database.insert([new_job("f", b"")] * (DEAD_JOBS + 2))
    handles = [Handle(job.jobid, 1) for job in inserted]
    database.settle([Setback(handle=handle, kind="discarded") for handle in handles[1:]])
    database.finish([Success(handles[0].jobid, None, retention=1)])
    execute(tmp_path, "UPDATE failure SET failed_at = 1", "UPDATE finished SET expires = 1")
    await office.later(0)
    assert await office.later(INTERVAL) == ["forget_finished", "forget_dead", "forget_partitions", *KEYS]
    assert len(database.jobs()) == 1
    assert await office.later(0.01) == ["forget_dead"]
    assert database.jobs() == []
    assert await office.later(0.01) == []
    await office.later(INTERVAL)
    assert office.seen == [
        ("jobs.pruned", {"dbid": 1, "kept": 1, "dead": DEAD_JOBS}),
        ("jobs.pruned", {"dbid": 1, "kept": 0, "dead": 1}),
    ]


async def test_a_locked_record_is_reported_and_left_for_the_next_minute(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object, **__: object) -> None:
        raise ConflictError("locked")

    monkeypatch.setattr(office.database, "forget_finished", locked)
    await office.later(0)
    assert await office.later(INTERVAL) == ["locked"]
    assert office.seen == [("dispatch.failed", {"dbid": 1, "error": "locked"})]
    assert await office.later(INTERVAL - 1) == ["forget_dead", "forget_partitions", *KEYS]
    assert await office.later(1) == ["locked"]


async def test_it_promotes_successors_each_second_while_there_are_some(
    office: Office, tmp_path: Path
) -> None:
    database = office.database
    key = Unique("k", on_duplicate="one_more")
    for arg in (b"first", b"second", b"third"):
        database.insert([new_job("f", arg, uniqkey=key)])
        database.claim(Lane("f", State.WAITING, "normal", 0), limit=1, lease=60)
    await office.later(0)
    assert "promote_successors" in await office.later(INTERVAL)
    assert await office.later(0.9) == []
    assert await office.later(0.1) == ["promote_successors"]
    execute(tmp_path, "DELETE FROM job")
    assert await office.later(1) == ["promote_successors"]
    assert [job.arg for job in database.jobs()] == [b"third"]
    assert await office.later(1) == ["promote_successors"]
    assert await office.later(1) == []


async def test_it_promotes_successors_within_a_second_if_a_function_has_the_rule(
    office: Office, tmp_path: Path
) -> None:
    office.database.set_function("f", FunctionPolicy(on_duplicate="one_more"))
    office.database.functions()  # as a pass of the QueueRunner does
    assert await office.later(0) == ["promote_successors"]
    assert await office.later(0.5) == []
    assert await office.later(0.5) == ["promote_successors"]


async def test_it_discards_expired_jobs_of_a_paused_function(office: Office, tmp_path: Path) -> None:
    database = office.database
    (job,) = database.insert([new_job("f", b"")])
    database.set_function("f", FunctionPolicy(expires=5))
    database.pause("f", Never())
    execute(tmp_path, "UPDATE job SET run_after = run_after - 6")
    await office.later(0)
    await office.later(INTERVAL)
    found = database.get(job.jobid)
    assert found is not None
    assert found.state is State.DEAD
    assert [name for name, _ in office.seen] == ["job.dead"]


async def test_a_queue_runner_has_one(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        await queue.call(queue.database.set_function, "f", FunctionPolicy(dead_retention=1))
        job = await queue.call(queue.client.insert_job, "f")
        await queue.call(queue.client.cancel_job, job)
        execute(tmp_path, "UPDATE failure SET failed_at = 1")
        queue_runner, servers = runner(queue)
        await queue_runner.run_pass()
        assert await queue.call(queue.database.get, job.jobid) is not None
        queue_runner._janitor._dead_at -= INTERVAL
        await queue_runner.run_pass()
        assert await queue.call(queue.database.get, job.jobid) is None
        assert queue.seen.of("jobs.pruned") == [{"dbid": 1, "kept": 0, "dead": 1}]
        await servers.close()
