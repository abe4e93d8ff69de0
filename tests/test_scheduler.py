"""The scheduler of ``garivini run``: several of them, killed in mid-tick, on hosts with wrong clocks."""

import asyncio
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from msgspec.structs import asdict

from garivini import events
from garivini.databases import DatabaseSettings
from garivini.model.schedule import Schedule, StoredSchedule
from garivini.roles.scheduler import Scheduler
from garivini.store.database import Database
from tests.databases import MySQLRoles, PostgreSQLRoles, sqlite_url
from tests.processes import PATIENCE, Command, command, until
from tests.servers import free_port
from tests.system import Seen, system


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(DatabaseSettings(1, sqlite_url(tmp_path)))
    database.check()
    yield database
    database.close()


def read(database: Database, name: str = "s") -> StoredSchedule:
    (found,) = [entry for entry in database.schedules() if entry.name == name]
    return found


def funcnames(database: Database) -> list[str]:
    return [job.funcname for job in database.jobs(limit=100_000)]


@pytest.mark.slow
async def test_run_pass_handles_due_ticks_and_returns_the_seconds_until_the_next(database: Database) -> None:
    inserted: list[bool] = []
    scheduler = Scheduler(database, inserted=lambda: inserted.append(True))
    try:
        assert await scheduler.run_pass() == 5.0
        database.set_schedule("s", {"funcname": "f", "every": 1, "overlap": "allow"})
        for jobs in (1, 2, 3):
            while read(database).jobs < jobs:
                seconds = await scheduler.run_pass()
                assert 0 <= seconds <= 1
                await asyncio.sleep(seconds)
        assert set(funcnames(database)) == {"f"}
        assert inserted
    finally:
        scheduler.close()


async def test_run_pass_goes_on_after_a_schedule_that_fails(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        database.set_schedule(f"s{number}", {"funcname": f"f{number}", "every": 1})
    values = {"cron": "x", "every": None, "next_tick": 1, "declared": None, "override": None}
    with database.transaction() as run:
        run(
            "write_schedule",
            **{**asdict(Schedule(funcname="f", every=1)), **values, "name": "broken", "priority": 1},
        )
    with closing(sqlite3.connect(database.connections.engine.url.database or "")) as connection, connection:
        connection.execute("UPDATE schedule SET next_tick = strftime('%s', 'now') WHERE name <> 'broken'")
    tick = Database.tick

    def failing(self: Database, name: str) -> object:
        if name == "s3":
            raise RuntimeError("a defect")
        return tick(self, name)

    monkeypatch.setattr(Database, "tick", failing)
    scheduler = Scheduler(database, inserted=lambda: None)
    seen = Seen()
    unlisten = events.listen(seen)
    try:
        assert await scheduler.run_pass() <= 1
        await scheduler.run_pass()  # within the backoff
    finally:
        unlisten()
        scheduler.close()
    assert set(funcnames(database)) == {"f0", "f1", "f2", "f4"}
    failed = {fields["schedule"]: fields["error"] for fields in seen.of("schedule.failed")}
    assert failed.keys() == {"broken", "s3"}
    assert len(seen.of("schedule.failed")) == 2
    assert "cron expression" in failed["broken"]
    assert "RuntimeError: a defect" in failed["s3"]


@pytest.mark.slow
async def test_a_tick_is_dispatched_at_once_and_a_queued_one_when_the_job_has_ended(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        runs = asyncio.Semaphore(0)
        ended = asyncio.Event()

        async def f(_: object) -> None:
            runs.release()
            await ended.wait()

        queue.worker.function("f")(f)
        queue.start_worker()
        await queue.call(queue.database.set_schedule, "s", {"funcname": "f", "every": 1, "overlap": "queue"})
        queue.start_queue_runner()
        async with asyncio.timeout(PATIENCE):
            await runs.acquire()
            await queue.seen.until(lambda: len(queue.seen.of("schedule.ticked")) >= 3)
            assert runs.locked()  # one at a time
            ended.set()
            await runs.acquire()


# ---- processes

KINDS = pytest.mark.parametrize(
    "kind",
    [
        "sqlite",
        pytest.param("mariadb", marks=pytest.mark.servers),
        pytest.param("postgresql", marks=pytest.mark.servers),
    ],
)


def upgraded_url(kind: str, folder: Path, request: pytest.FixtureRequest, stack: ExitStack) -> str:
    """Return the URL of a database of a kind that has its tables."""
    match kind:
        case "sqlite":
            return sqlite_url(folder)
        case "postgresql":
            return stack.enter_context(PostgreSQLRoles(request.getfixturevalue("postgresql"))).runtime
        case _:
            return stack.enter_context(MySQLRoles(request.getfixturevalue("mariadb"))).runtime


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Starts a QueueRunner in a process of its own, whose clock may be wrong by some hours."""
    with ExitStack() as stack:

        def start_(url: str, hours: int = 0) -> Command:
            environment = {"GARIVINI_DB": url}
            if hours:
                (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
                environment |= {"LD_PRELOAD": str(library), "FAKETIME": f"{hours:+}h"}
                environment["FAKETIME_DONT_FAKE_MONOTONIC"] = "1"
            server = f"127.0.0.1:{free_port()}"
            started = stack.enter_context(
                command(tmp_path, "run", "queue-runner", "--job-server", server, "--verbose", **environment)
            )
            started.wait_for("scheduler of database 1")
            return started

        yield start_


@pytest.mark.slow
@KINDS
def test_several_schedulers_with_wrong_clocks_that_are_killed_insert_each_tick_once(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, start: Callable[..., Command]
) -> None:
    with ExitStack() as stack:
        url = upgraded_url(kind, tmp_path, request, stack)
        wrong = 0 if kind == "sqlite" else 1  # SQLite's clock is that of the process
        database = Database(DatabaseSettings(1, url))
        stack.callback(database.close)
        database.check()
        names = [f"s{number}" for number in range(20)]
        for name in names:
            database.set_schedule(name, {"funcname": name, "every": 1, "missed": "all", "overlap": "allow"})
        first = {entry.name: entry.next_tick for entry in database.schedules()}
        running = [start(url), start(url, hours=wrong), start(url, hours=-wrong)]
        for killed in range(3):
            jobs = read(database, names[0]).jobs
            until(lambda jobs=jobs: read(database, names[0]).jobs > jobs + 1)
            running[killed].process.send_signal(signal.SIGKILL)
            running[killed].process.wait(PATIENCE)
            running.append(start(url, hours=wrong * (killed - 1)))
        jobs = read(database, names[0]).jobs
        until(lambda: read(database, names[0]).jobs > jobs)
        for process in running[3:]:
            assert process.stop() == 0
        for entry in database.schedules():
            begin = first[entry.name]
            assert begin is not None
            assert entry.next_tick is not None
            assert (entry.jobs, entry.skipped) == (entry.next_tick - begin, 0)
            assert funcnames(database).count(entry.name) == entry.jobs
            assert entry.next_tick - time.time() < 60  # no clock but the database's


#: A scheduler that stops after it has inserted the job of a tick, before it commits.
_MID_TICK = """
import sys, time
from garivini.databases import DatabaseSettings
from garivini.store.database import Database
from garivini.store.schedules import tick

with Database(DatabaseSettings(1, sys.argv[1])).transaction() as run:
    ticked = tick(run, "s")
    print("inserted", len(ticked.jobids), flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
@KINDS
def test_a_scheduler_that_is_killed_between_insert_and_commit_leaves_the_tick_to_another(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "mid_tick.py").write_text(_MID_TICK)
    with ExitStack() as stack:
        url = upgraded_url(kind, tmp_path, request, stack)
        database = Database(DatabaseSettings(1, url))
        stack.callback(database.close)
        database.check()
        database.set_schedule("s", {"funcname": "f", "every": 86400, "overlap": "allow"})
        tick = read(database).next_tick
        assert tick is not None
        with database.transaction() as run:  # it is due
            run("pause_schedule", name="s", paused=0, next_tick=tick - 86400)
        killed = stack.enter_context(command(tmp_path, program=("mid_tick", url)))
        killed.wait_for("inserted 1")
        if database.locks_rows:
            assert database.tick("s") is None
        killed.process.send_signal(signal.SIGKILL)
        killed.process.wait(PATIENCE)
        until(lambda: database.tick("s") is not None)
        assert database.tick("s") is None
        assert funcnames(database) == ["f"]
        found = read(database)
        assert (found.jobs, found.skipped, found.last_tick, found.next_tick) == (1, 0, tick - 86400, tick)
