"""``garivini.testing``: queues in memory, assertions, drains, and the plugin for pytest."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from garivini import Client, Discard, Garivini, Job, Retry, UsageError, Worker
from garivini.testing import TestQueue, inline, manual, run_job
from garivini.testing.clocks import TIMES
from tests.databases import sqlite_url

ran: list[object] = []
app = Garivini()


@app.job(retention=60, unique=["name"], partition="name")
def greet(name: str, times: int = 1) -> str:
    ran.append(name)
    return name * times


@app.job
async def greet_later(name: str) -> None:
    await asyncio.sleep(0)
    ran.append(name)


@app.job(max_attempts=2, backoff=[60])
def fail(reason: str) -> None:
    raise ValueError(reason)


@app.job
def again() -> None:
    raise Retry(30, "not yet")


@app.job
def never() -> None:
    raise Discard("no")


@app.job(takes_job=True)
def chain(job: Job, left: int) -> None:
    ran.append(left)
    job.log(f"{left} left")
    if left:
        chain.follow_up(left - 1)


@pytest.fixture
def queue() -> Iterator[TestQueue]:
    ran.clear()
    with manual(app) as queue:
        yield queue


def test_manual_keeps_jobs_until_drain_runs_them(queue: TestQueue) -> None:
    ref = greet.insert("ada", 2)
    assert not ran
    assert queue.drain() == {"succeeded": 1}
    assert (ran, ref.wait(0)) == (["ada"], "adaada")


async def test_manual_takes_asynchronous_inserts(queue: TestQueue) -> None:
    await asyncio.gather(*(greet_later.insert_async(str(number)) for number in range(5)))
    assert (await asyncio.to_thread(queue.drain)) == {"succeeded": 5}
    assert sorted(map(str, ran)) == ["0", "1", "2", "3", "4"]


def test_assert_inserted_compares_arguments_and_options(queue: TestQueue) -> None:
    greet.options(run_after=60, priority="high", headers={"a": 1}).insert("ada", 3)
    queue.assert_inserted(greet)
    queue.assert_inserted(greet, name="ada", run_after=60, priority="high", partition="ada", headers={"a": 1})
    queue.refute_inserted(greet, name="bob")
    queue.refute_inserted(greet_later)
    with pytest.raises(AssertionError, match=r"no job .*greet\(name='bob'\) was inserted; of this.*\n.*ada"):
        queue.assert_inserted(greet, name="bob")
    with pytest.raises(AssertionError, match=r"a job was inserted: .*ada"):
        queue.refute_inserted(greet, times=3)
    with pytest.raises(UsageError, match="no parameter nam"):
        queue.assert_inserted(greet, nam="ada")


def test_assert_inserted_sees_jobs_that_have_run_and_no_duplicates(queue: TestQueue) -> None:
    assert [greet.insert("ada").new for _ in range(2)] == [True, False]
    queue.drain()
    queue.assert_inserted(greet, name="ada")
    assert len(queue.inserted) == 1


def test_drain_counts_each_outcome(queue: TestQueue) -> None:
    for function in (again, never):
        function.insert()
    fail.insert("x")
    assert queue.drain() == {"rescheduled": 1, "discarded": 1, "failed": 1}


def test_drain_with_scheduled_runs_retries_until_the_job_is_dead(queue: TestQueue) -> None:
    ref = fail.insert("x")
    assert queue.drain(with_scheduled=True) == {"failed": 2}
    assert (job := ref.job()) is not None
    assert (job.failcount, job.state.name) == (2, "DEAD")


def test_drain_of_a_job_that_never_ends_is_an_error(
    queue: TestQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("garivini.testing.queue.MAX_RUNS", 20)
    again.insert()
    with pytest.raises(UsageError, match="after 20 runs"):
        queue.drain(with_scheduled=True)


def test_drain_raises_an_error_if_it_is_told_to(queue: TestQueue) -> None:
    fail.insert("broken")
    with pytest.raises(ValueError, match="broken"):
        queue.drain(raises=True)


def test_drain_runs_follow_ups_unless_it_is_told_not_to(queue: TestQueue) -> None:
    chain.insert(3)
    assert queue.drain(with_recursion=False) == {"succeeded": 1}
    assert queue.drain() == {"succeeded": 3}
    assert ran == [3, 2, 1, 0]
    queue.assert_inserted(chain, left=0)


def test_travel_makes_later_jobs_due(queue: TestQueue) -> None:
    greet.options(run_after=3600).insert("ada")
    queue.travel(3590)
    assert queue.drain() == {}
    queue.travel(20)
    assert queue.drain() == {"succeeded": 1}


def test_travel_knows_each_column_with_a_time(tmp_path: Path) -> None:
    """A new column has to be added here or there."""
    others = {
        "job": "jobid funcname arg uniqkey coalesce flag failcount priority attempt state crashes runs"
        " expires has_successor partition headers bundle",
        "failure": "jobid attempt kind error message trace worker",
        "function": "funcname lease deadline renews envelope max_failures retention max_running retry timeout"
        " declared override dead_retention rate burst cancels unique_scope unique_window on_duplicate"
        " max_delay expires partition_max_running partition_rate partition_burst fair cancel_grace"
        " coalesce_max coalesce_wait",
        "garivini_database": "dbid",
        "garivini_version": "version_num",
        "report": "jobid attempt number kind body",
        "finished": "jobid funcname uniqkey attempt failcount worker result seconds",
        "schedule": "name funcname arg cron every zone flag priority missed missed_window overlap paused"
        " last_jobid jobs skipped declared override",
        "successor": "jobid funcname uniqkey coalesce arg flag priority partition expires headers",
        "recent_key": "funcname uniqkey jobid",
        "turn": "jobid funcname priority partition",
        "turn_partition": "funcname priority partition",
        "partition_rate": "funcname partition",
        "outbox": "target id funcname uniqkey coalesce partition arg flag priority expires rule headers",
        "arrived": "id mover",
        "batch": "batchid name members pending failed sealed on_complete on_success",
        "batch_member": "jobid batchid",
    }
    connection = sqlite3.connect(sqlite_url(tmp_path).removeprefix("sqlite:///"))
    names = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    )
    real = {
        name: {row[1] for row in connection.execute(f'PRAGMA table_info("{name}")')}
        for (name,) in names.fetchall()
    }
    connection.close()
    assert {name: set(text.split()) | set(TIMES.get(name, ())) for name, text in others.items()} == real


def test_inline_runs_a_job_at_its_insert_and_raises_its_error() -> None:
    ran.clear()
    with inline(app) as queue:
        greet.options(run_after=60).insert("ada")
        chain.insert(1)
        asyncio.run(in_a_loop())
        assert ran == ["ada", 1, 0, "loop"]
        with pytest.raises(ValueError, match="broken"):
            fail.insert("broken")
        queue.assert_inserted(greet, name="ada")


async def test_async_client_is_one_per_loop(queue: TestQueue) -> None:
    assert queue.async_client is queue.async_client
    first = queue.async_client
    others = await asyncio.to_thread(asyncio.run, client_of(queue))
    assert others is not first


async def client_of(queue: TestQueue) -> object:
    return queue.async_client


async def in_a_loop() -> None:
    await greet_later.insert_async("loop")


def test_inline_runs_a_job_of_a_session_at_its_commit() -> None:
    ran.clear()
    engine = create_engine("sqlite://")
    with inline(app), Session(engine) as session:
        greet.options(connection=session).insert("ada")
        assert not ran
        session.commit()
        assert ran == ["ada"]
    engine.dispose()


def test_a_rollback_of_a_session_deletes_its_jobs(queue: TestQueue) -> None:
    engine = create_engine("sqlite://")
    with Session(engine) as session:
        session.connection()
        greet.options(connection=session).insert("ada")
        session.rollback()
        with session.begin_nested() as nested:
            greet.options(connection=session).insert("bob")
            nested.rollback()
        greet.options(connection=session).insert("eve")
        session.commit()
    engine.dispose()
    queue.refute_inserted(greet, name="ada")
    queue.refute_inserted(greet, name="bob")
    assert queue.drain() == {"succeeded": 1}
    assert ran == ["eve"]


def test_run_job_returns_the_result_and_raises_the_error() -> None:
    assert run_job(greet, "ada", times=2) == "adaada"
    with pytest.raises(ValueError, match="x"):
        run_job(fail, "x")


def test_manual_of_a_worker_runs_its_functions(tmp_path: Path) -> None:
    worker = Worker(Client(sqlite_url(tmp_path)), ["127.0.0.1:1"])
    seen: list[bytes] = []

    @worker.function("hello")
    def hello(job: Job) -> None:
        seen.append(job.arg)

    with manual(worker) as queue:
        queue.client.insert_job("hello", "ada")
        queue.assert_inserted("hello", arg="ada")
        assert queue.drain() == {"succeeded": 1}
    assert seen == [b"ada"]


def test_queues_are_separate() -> None:
    with manual(app), manual(app) as second:
        greet.insert("ada")
        assert len(second.inserted) == 1
    with manual(app) as third:
        assert third.client.list_jobs() == []


TESTS = """
import pytest
from shop import sign_up, welcome


def test_sign_up_inserts(garivini_queue):
    sign_up("ada")
    garivini_queue.assert_inserted(welcome, name="ada")
    assert garivini_queue.drain() == {"succeeded": 1}


def test_inline(garivini_inline, capsys):
    sign_up("bob")
    assert capsys.readouterr().out == "bob\\n"


@pytest.mark.parametrize("number", range(1000))
def test_many(garivini_queue, number):
    sign_up("ada")
    garivini_queue.drain()
"""
SHOP = """
from garivini import Garivini

app = Garivini()


@app.job
def welcome(name: str) -> None:
    print(name)


def sign_up(name: str) -> None:
    welcome.insert(name)
"""


@pytest.mark.slow
def test_the_plugin_gives_a_queue_to_each_of_a_thousand_tests(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "test_shop.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\ngarivini_app = shop:app\npythonpath = .\n")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "1002 passed" in run.stdout, run.stdout + run.stderr


def test_the_plugin_imports_little_until_a_fixture_is_used() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import garivini.testing.plugin;"
        " print(sorted(name for name in set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "['garivini', 'garivini.testing', 'garivini.testing.plugin']"
