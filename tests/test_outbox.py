"""Follow-ups whose unique key has its home in another database than their job."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from garivini import Client, Job, OutcomeUnknownError, UsageError, Worker
from garivini.model.job import NewJob
from garivini.model.new_jobs import new_job
from garivini.model.outcome import Success
from garivini.roles import queue_runners
from garivini.roles.outbox import Outbox
from garivini.roles.queue_runner import QueueRunnerSettings
from garivini.store import inserts, outbox
from garivini.store.database import Database
from garivini.store.outbox_moves import OutboxMoves
from tests.databases import sqlite_url
from tests.processes import PATIENCE
from tests.servers import embedded


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """A client of three databases."""
    with Client([sqlite_url(tmp_path, f"{name}.db") for name in "abc"]) as client:
        yield client


@pytest.fixture
def moves(client: Client) -> OutboxMoves:
    return OutboxMoves(client.shards[1], {database.dbid: database for database in client.shards})


def homed(client: Client, dbid: int, count: int = 1) -> list[NewJob]:
    """Return follow-ups whose home is this database."""
    keys = (f"k{number}" for number in range(1000))
    found = [key for key in keys if client.shards.home("next", key).dbid == dbid][:count]
    return [replace(new_job("next", key.encode(), uniqkey=key), home=dbid) for key in found]


def put_out(client: Client, *follow_ups: NewJob) -> None:
    source = client.shards[1]
    (answer,) = source.insert([new_job("f", b"")])
    source.finish([Success(answer.jobid, 1)], follow_ups={answer.jobid: follow_ups})


def keys(database: Database) -> list[str]:
    return sorted(job.uniqkey or "" for job in database.jobs(limit=1000))


def test_move_inserts_follow_ups_into_their_home_once(client: Client, moves: OutboxMoves) -> None:
    new = homed(client, 2, 5)
    put_out(client, *new)
    moved = moves.move(2)
    assert (moved.jobs, moved.errors) == (5, [])
    assert moves.move(2) == (0, None, [])
    assert keys(client.shards[2]) == sorted(it.uniqkey or "" for it in new)
    assert keys(client.shards[1]) == []


def test_move_that_is_interrupted_is_repeated_without_a_second_job(
    client: Client, moves: OutboxMoves, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_out(client, *homed(client, 2))
    with monkeypatch.context() as patch:
        patch.setattr(Database, "leave_outbox", _fail)
        with pytest.raises(OutcomeUnknownError):
            moves.move(2)
    (job,) = client.shards[2].jobs()
    client.complete_job(job)  # it runs and ends meanwhile
    assert moves.move(2).jobs == 1
    assert client.shards[2].jobs() == []
    assert client.shards[1].outbox_targets() == []


def _fail(*_: Any) -> None:
    raise OutcomeUnknownError("as planned")


@pytest.mark.parametrize("name", ["sqlite", "mariadb", "postgresql"])
def test_move_by_two_at_the_same_time_inserts_each_once(urls: Callable[[str], str], name: str) -> None:
    with Client(urls(name)) as client, ThreadPoolExecutor(2) as threads:
        target = client.shards[1]
        target.complete([job.jobid for job in target.jobs(limit=1000)])
        for round_ in range(5):
            new = [new_job("next", b"", uniqkey=f"{round_}-{number}") for number in range(20)]
            page = [outbox.Outgoing(f"id-{it.uniqkey}", it) for it in new]
            for done in [threads.submit(target.receive, page) for _ in range(2)]:
                done.result(PATIENCE)
        assert len(target.jobs(limit=1000)) == 100


def test_move_leaves_what_cannot_be_stored_and_moves_the_rest(
    client: Client, moves: OutboxMoves, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = homed(client, 2, 6)
    put_out(client, *new)
    bad = new[3].uniqkey
    receive = inserts.insert

    def refuse(run: Any, jobs: list[NewJob], sizes: list[int]) -> Any:
        if any(job.uniqkey == bad for job in jobs):
            raise UsageError("as planned")
        return receive(run, jobs, sizes)

    monkeypatch.setattr(outbox, "insert", refuse)
    moved = moves.move(2)
    assert (moved.jobs, [str(error) for error in moved.errors]) == (5, ["as planned"])
    (left,) = client.shards[1].outgoing(2)
    assert left.job.uniqkey == bad


def test_move_sends_follow_ups_for_a_drained_database_to_their_new_home(
    client: Client, moves: OutboxMoves
) -> None:
    live, *new = homed(client, 2, 12)
    client.insert_job("next", "live", unique=live.uniqkey)
    put_out(client, live, *new)
    with client.shards[2].transaction() as run:
        run("refuse_inserts")
    moves.move(2)
    targets = client.shards[1].outbox_targets()
    assert set(targets) == {1, 3}  # the new home may be the database of the outbox itself
    for target in targets:
        moves.move(target)
    assert client.shards[1].outbox_targets() == []
    moved = [*keys(client.shards[1]), *keys(client.shards[3])]
    assert sorted(moved) == sorted(it.uniqkey or "" for it in new)
    assert keys(client.shards[2]) == [live.uniqkey]


def test_move_to_an_unknown_database_is_refused(client: Client, moves: OutboxMoves) -> None:
    put_out(client, replace(homed(client, 2)[0], home=9))
    with pytest.raises(UsageError, match="wait for database 9"):
        moves.move(9)


async def test_a_pass_moves_to_the_databases_that_answer(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_out(client, *homed(client, 2), *homed(client, 3))
    receive = Database.receive

    def hang(self: Database, *arguments: Any) -> Any:
        return _fail() if self.dbid == 2 else receive(self, *arguments)

    monkeypatch.setattr(Database, "receive", hang)
    arrived: list[int] = []
    role = Outbox(client.shards[1], list(client.shards), moved=arrived.append)
    for _ in range(2):
        assert await role.run_pass() > 0
    assert arrived == [3]
    assert client.shards[1].outbox_targets() == [2]
    role.close()


@pytest.mark.slow
async def test_a_worker_of_several_databases_inserts_each_follow_up_in_its_home(tmp_path: Path) -> None:
    urls = [sqlite_url(tmp_path, f"{name}.db") for name in "ab"]
    ran: list[tuple[int, bytes]] = []
    with embedded() as address, Client(urls) as client, Client(urls) as other:
        worker = Worker(client, [address])

        @worker.function("f")
        def follow(job: Job) -> None:
            for number in range(20):
                job.insert_job("next", b"%d" % number, unique=f"k{number}")

        @worker.function("next")
        def next_one(job: Job) -> None:
            assert client.shards.home("next", job.uniqkey or "").dbid == job.dbid
            ran.append((job.dbid, job.arg))

        stop = asyncio.Event()
        databases = list(other.shards)
        roles = [
            asyncio.create_task(worker.serve(stop)),
            asyncio.create_task(queue_runners.serve(databases, [address], QueueRunnerSettings(), stop=stop)),
        ]
        await asyncio.to_thread(client.insert_job, "f")
        async with asyncio.timeout(PATIENCE):
            while len(ran) < 20:
                await asyncio.sleep(0.02)
        stop.set()
        await asyncio.gather(*roles)
    assert sorted(int(arg) for _, arg in ran) == list(range(20))
    assert {dbid for dbid, _ in ran} == {1, 2}
