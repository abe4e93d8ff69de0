"""Schedules that the code of a worker declares."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from garivini import Client, Job, UsageError, Worker, events
from garivini.keeper.declared_schedules import DeclaredSchedules
from garivini.model.schedule import Schedule, StoredSchedule
from garivini.store.shards import Shards
from tests.databases import sqlite_url
from tests.processes import PATIENCE
from tests.system import Seen, system

HOURLY = Schedule(funcname="f", every=3600)


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[Shards]:
    """Two databases."""
    shards = Shards([sqlite_url(tmp_path, name) for name in ("one.db", "two.db")])
    yield shards
    shards.close()


def declared(shards: Shards, **schedules: Schedule) -> DeclaredSchedules:
    """Return what declares them, after its first step."""
    found = DeclaredSchedules(shards, schedules)
    assert found.step() == []
    return found


def read(shards: Shards) -> dict[str, StoredSchedule]:
    found = [entry for database in shards for entry in database.schedules()]
    by_name = {entry.name: entry for entry in found}
    assert len(found) == len(by_name)
    return by_name


def test_step_creates_schedules_in_their_homes_once(shards: Shards) -> None:
    names = [f"s{number}" for number in range(10)]
    for _ in range(2):
        declared(shards, **dict.fromkeys(names, HOURLY)).step()
    stored = read(shards)
    assert {entry.name: entry.dbid for entry in stored.values()} == {
        name: shards.home("", name).dbid for name in names
    }
    assert {entry.dbid for entry in stored.values()} == {1, 2}
    assert all(entry.definition == HOURLY and not entry.retired for entry in stored.values())


def test_step_finds_a_schedule_that_is_not_at_home(shards: Shards) -> None:
    (away,) = [database for database in shards if database is not shards.home("", "s")]
    away.declare_schedule("s", HOURLY)
    declared(shards, s=Schedule(funcname="g", every=60))
    assert (read(shards)["s"].dbid, read(shards)["s"].funcname) == (away.dbid, "g")


def test_step_leaves_what_an_operator_has_set(shards: Shards) -> None:
    declared(shards, s=HOURLY)
    shards.home("", "s").set_schedule("s", {"every": 5})
    declared(shards, s=Schedule(funcname="g", every=60))
    assert read(shards)["s"].definition == Schedule(funcname="g", every=5)


def test_two_versions_of_a_program_do_not_change_a_schedule_in_turn(shards: Shards) -> None:
    old = declared(shards, s=HOURLY)
    new = declared(shards, s=Schedule(funcname="g", every=60))
    for each in (old, new, old):
        assert each.step() == []
        assert read(shards)["s"].funcname == "g"


def test_step_does_not_create_again_what_an_operator_has_removed(shards: Shards) -> None:
    running = declared(shards, s=HOURLY)
    shards.home("", "s").remove_schedule("s")
    assert running.step() == []
    assert read(shards) == {}


def test_step_goes_on_after_a_schedule_that_fails(shards: Shards) -> None:
    database = shards.home("", "wrong")
    database.declare_schedule("wrong", HOURLY)
    with database.transaction() as run:
        (row,) = run("schedules")
        run("remove_schedule", name="wrong")
        values = dict(
            zip(
                "name funcname arg cron every zone flag priority missed missed_window overlap paused "
                "next_tick queued last_tick last_jobid jobs skipped declared".split(),
                row,
                strict=False,
            )
        )
        del values["last_jobid"]
        run("copy_schedule", **values, override='{"zone": "Nowhere"}')
    names = ["a", "b", "c", "d", "wrong"]
    running = DeclaredSchedules(shards, dict.fromkeys(names, Schedule(funcname="g", every=60)))
    (error,) = running.step()
    assert "time zone 'Nowhere'" in str(error)
    assert read(shards).keys() == set(names)
    database.set_schedule("wrong", {"zone": "UTC"})
    assert running.step() == []
    assert {entry.funcname for entry in read(shards).values()} == {"g"}


def test_step_creates_nothing_while_a_database_does_not_answer(tmp_path: Path) -> None:
    url, missing = sqlite_url(tmp_path, "one.db"), f"sqlite:///{tmp_path / 'two.db'}"
    shards = Shards([url, missing])
    shards[1].declare_schedule("known", HOURLY)
    running = DeclaredSchedules(shards, {"known": HOURLY, "new": HOURLY})
    assert len(running.step()) == 1
    (entry,) = shards[1].schedules()
    assert (entry.name, entry.retired) == ("known", False)
    sqlite_url(tmp_path, "two.db")
    assert running.step() == []
    assert read(shards).keys() == {"known", "new"}
    shards.close()


@pytest.mark.slow
async def test_start_goes_on_after_an_error(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[bool] = []
    step = DeclaredSchedules.step

    def failing(self: DeclaredSchedules) -> Any:
        steps.append(True)
        if len(steps) == 1:
            raise RuntimeError("a defect")
        return step(self)

    monkeypatch.setattr(DeclaredSchedules, "step", failing)
    running = DeclaredSchedules(shards, {"s": HOURLY})
    seen = Seen()
    unlisten = events.listen(seen)
    try:
        running.start()
        (error,) = await seen.wait("schedules.undeclared")
        async with asyncio.timeout(PATIENCE):
            while not await asyncio.to_thread(read, shards):
                await asyncio.sleep(0.05)
    finally:
        unlisten()
        running.stop()
    assert error == {"error": "a defect"}


# ---- Worker.schedule


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "either a cron expression or an interval"),
        ({"every": timedelta(seconds=1.5)}, "an interval is 1 to"),
        ({"cron": "x"}, "not a cron expression"),
        ({"every": 5, "overlap": "x"}, "overlap 'x' is unknown"),
        ({"every": 5, "arg": 5}, "an argument is bytes or str"),
    ],
)
def test_schedule_refuses_wrong_values(given: dict[str, Any], words: str) -> None:
    worker = Worker(Client("sqlite:///none.db"), ["127.0.0.1"])
    with pytest.raises(UsageError, match=words):
        worker.schedule("s", "f", **given)
    assert worker.schedules == {}


def test_schedule_refuses_a_name_twice() -> None:
    worker = Worker(Client("sqlite:///none.db"), ["127.0.0.1"])
    worker.schedule("s", "f", every=timedelta(hours=1), arg="ü")
    assert worker.schedules == {"s": Schedule(funcname="f", every=3600, arg="ü".encode())}
    with pytest.raises(UsageError, match="declared twice"):
        worker.schedule("s", "f", every=5)


@pytest.mark.slow
async def test_a_worker_declares_its_schedules_and_runs_their_jobs(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        ran: list[bytes] = []

        @queue.worker.function("f")
        async def f(job: Job) -> None:
            ran.append(job.arg)

        queue.worker.schedule("s", "f", every=1, arg=b"x")
        queue.start_queue_runner()
        queue.start_worker()
        await queue.seen.until(lambda: len(ran) >= 2)
        assert set(ran) == {b"x"}
