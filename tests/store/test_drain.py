"""Moving the jobs of a database to the others: none is lost, none runs twice, keys stay unique."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from garivini import Client, State, Unique
from garivini.errors import RefusedError
from garivini.model.job import Job, NewJob
from garivini.model.new_jobs import new_job
from garivini.model.outcome import Report, Setback
from garivini.model.when import Offset
from garivini.store import drain as drains
from garivini.store.database import Lane
from garivini.store.shards import Shards
from tests.databases import sqlite_url
from tests.sql_servers import MariaDBOrMySQL
from tests.system import upgraded

Opener = Callable[[], Client]


@pytest.fixture
def open_client(tmp_path: Path) -> Iterator[Opener]:
    urls = [sqlite_url(tmp_path, f"{name}.db") for name in ("one", "two", "three")]
    opened: list[Client] = []

    def open_client() -> Client:
        opened.append(Client(urls))
        return opened[-1]

    yield open_client
    for client in opened:
        client.close()


@pytest.fixture
def client(open_client: Opener) -> Client:
    return open_client()


def drain(shards: Shards, dbid: int = 2) -> int:
    """Drain a database as the command does, but for the waiting; return how many jobs moved."""
    source = shards[dbid]
    moved = drains.resume(source, [database for database in shards if database is not source])
    return moved + sum(drains.drain(source, lambda job: shards.target(job, without=[dbid])))


def of(client: Client, *dbids: int) -> list[Job]:
    return [job for job in client.list_jobs(limit=10_000) if job.dbid in dbids]


def keyed(client: Client, dbid: int, count: int = 1) -> list[str]:
    """Return unique keys of the function ``f`` that belong to this database."""
    keys = (f"key-{number}" for number in range(100_000))
    mine = (key for key in keys if client.shards.home("f", key).dbid == dbid)
    return [next(mine) for _ in range(count)]


def test_drain_moves_a_waiting_job_as_it_is(client: Client) -> None:
    (key,) = keyed(client, 2)
    at = client.insert_job("f", b"\xff\x00", 3600, key, "c", "controller", priority="high", partition="p")
    assert at.dbid == 2
    (before,) = of(client, 2)
    assert drain(client.shards) == 1
    (after,) = of(client, 1, 3)
    assert of(client, 2) == []
    keys = ("funcname", "uniqkey", "coalesce", "partition")
    for name in (*keys, "arg", "run_after", "flag", "priority", "created"):
        assert getattr(after, name) == getattr(before, name), name
    assert (after.state, after.attempt) == (State.WAITING, 0)
    assert client.shards.home("f", key, without=[2]).dbid == after.dbid


def test_drain_moves_the_time_after_which_a_job_expires(client: Client) -> None:
    keys = keyed(client, 2, 2)
    client.insert_job("f", "own", unique=keys[0], expires=9)
    client.insert_job("f", "none", unique=keys[1])
    assert drain(client.shards) == 2
    found: dict[int, int] = {}
    for dbid in (1, 3):
        with client.shards[dbid].reading() as run:
            found |= run("expiries", jobids=[job.jobid for job in of(client, dbid)] or [0])
    assert list(found.values()) == [9]


def test_drain_lets_a_successor_become_a_job_and_moves_it(client: Client) -> None:
    source = client.shards[2]
    (key,) = keyed(client, 2)
    unique = Unique(key, on_duplicate="one_more")
    client.insert_job("f", "first", unique=unique)
    (held,) = source.claim(Lane("f", State.WAITING, "normal", 0), limit=1, lease=60)
    assert client.insert_job("f", "second", unique=unique).queued
    assert drain(client.shards) == 0
    with pytest.raises(RefusedError):
        source.insert([new_job("f", b"")])
    assert client.complete_job(held)
    assert drain(client.shards) == 1
    (moved,) = of(client, 1, 3)
    assert (moved.arg, moved.uniqkey) == (b"second", key)
    assert of(client, 2) == []


def test_drain_deletes_the_reports_of_a_moved_job(client: Client) -> None:
    source = client.shards[2]
    ((jobid, _),) = source.insert([new_job("f", b"")])
    (taken,) = source.claim(Lane("f", State.WAITING, "normal", 0), limit=1, lease=60)
    source.report([Report(taken.handle, "data", b"x")])
    source.settle([Setback(handle=taken.handle, kind="failed")])
    assert drain(client.shards) == 1
    (after,) = of(client, 1, 3)
    assert source.reports(jobid) == []
    assert client.shards[after.dbid].reports(after.jobid) == []
    assert [record.kind for record in client.failures(after)] == ["failed"]


def test_settle_after_a_drain_records_a_failure_beside_those_before(client: Client) -> None:
    source = client.shards[2]
    source.insert([new_job("f", b"")])
    lane = Lane("f", State.WAITING, "normal", 0)

    def fail(shard: Any, message: str) -> Job:
        (taken,) = shard.claim(lane, limit=1, lease=60)
        assert shard.count_run(taken.handle) == taken.attempt
        when = Offset(0)
        (settled,) = shard.settle([Setback(handle=taken.handle, kind="failed", message=message, when=when)])
        assert settled.result == "applied"
        return cast(Job, taken)

    for number in range(1, 4):
        fail(source, f"before {number}")
    assert drain(client.shards) == 1
    (moved,) = of(client, 1, 3)
    assert (moved.attempt, moved.failcount, moved.runs) == (3, 3, 3)
    assert fail(client.shards[moved.dbid], "after").attempt == 4
    record = [(failure.attempt, failure.message) for failure in client.failures(moved)]
    assert record == [(1, "before 1"), (2, "before 2"), (3, "before 3"), (4, "after")]


def test_drain_moves_what_was_left_out_of_a_record_with_it(client: Client) -> None:
    source = client.shards[2]
    (inserted,) = source.insert([new_job("f", b"")])
    for _ in range(60):
        (taken,) = source.claim(Lane("f", State.WAITING, "normal", 0), limit=1, lease=60)
        source.settle([Setback(handle=taken.handle, kind="rescheduled", when=Offset(0))])
    before = source.record(inserted.jobid)
    assert drain(client.shards) == 1
    (moved,) = of(client, 1, 3)
    shard = client.shards[moved.dbid]
    assert shard.record(moved.jobid) == before
    assert shard.omitted_failures(moved.jobid) == 10


def test_drain_moves_a_job_that_was_put_off_with_its_time(client: Client) -> None:
    source = client.shards[2]
    source.insert(_new(2))
    source.claim(Lane("f", State.WAITING, "normal", 0), limit=2, lease=60)
    with source.connections.engine.begin() as connection:
        for change in ("2000000000 WHERE jobid = 1", "2147483647 WHERE jobid = 2"):
            connection.exec_driver_sql(f"UPDATE job SET run_after = {change}")
    assert drain(client.shards) == 2
    assert of(client, 2) == []
    found = {(job.arg, job.state, job.run_after, job.attempt) for job in of(client, 1, 3)}
    assert found == {(b"0", State.WAITING, 2_000_000_000, 1), (b"1", State.DEAD, 2_147_483_647, 1)}


def test_drain_moves_and_spreads_many_jobs(client: Client) -> None:
    client.shards[2].insert(_new(1000))
    assert drain(client.shards) == 1000
    assert of(client, 2) == []
    assert Counter(job.arg for job in of(client, 1, 3)) == Counter(b"%d" % n for n in range(1000))
    assert all(of(client, dbid) for dbid in (1, 3))


def _new(count: int) -> list[NewJob]:
    return [new_job("f", b"%d" % number) for number in range(count)]


def test_drain_moves_a_dead_job_with_its_record(client: Client) -> None:
    source = client.shards[2]
    (inserted,) = source.insert(_new(1))
    client.cancel_job((inserted.jobid, 2), "no more")
    assert drain(client.shards) == 1
    (after,) = of(client, 1, 3)
    assert after.state is State.DEAD
    record = client.failures((after.jobid, after.dbid))
    assert [(one.kind, one.message) for one in record] == [("cancelled", "no more")]
    assert client.retry_job((after.jobid, after.dbid))


def test_drain_moves_the_failures_of_a_job_that_backs_off(client: Client) -> None:
    (inserted,) = client.shards[2].insert(_new(1))
    client.failed_job((inserted.jobid, 2), "broken pipe")
    (before,) = of(client, 2)
    drain(client.shards)
    (after,) = of(client, 1, 3)
    assert (after.failcount, after.run_after) == (1, before.run_after)
    assert [one.message for one in client.failures((after.jobid, after.dbid))] == ["broken pipe"]


def test_drain_leaves_a_leased_job_to_its_end(client: Client) -> None:
    source = client.shards[2]
    source.insert(_new(1))
    (lane,) = source.lanes().lanes
    (held,) = source.claim(lane, limit=1, lease=60)
    assert drain(client.shards) == 0
    assert [job.jobid for job in of(client, 2)] == [held.jobid]
    source.complete([held.jobid])
    assert of(client, 1, 2, 3) == []


def test_insert_avoids_a_database_until_its_drain_is_stopped(client: Client) -> None:
    drain(client.shards)
    with pytest.raises(RefusedError, match="takes no jobs: it is being drained"):
        client.shards[2].insert(_new(1))
    assert {client.insert_job("f").dbid for _ in range(40)} == {1, 3}
    (key,) = keyed(client, 2)
    assert client.insert_job("f", unique=key).dbid == client.shards.home("f", key, without=[2]).dbid
    drains.stop(client.shards[2])
    assert client.shards[2].insert(_new(1))[0].dbid == 2


def test_insert_of_a_key_that_is_live_in_the_drained_database_answers_that_job(client: Client) -> None:
    (key,) = keyed(client, 2)
    first = client.insert_job("f", unique=key)
    source = client.shards[2]
    (lane,) = source.lanes().lanes
    source.claim(lane, limit=1, lease=60)
    drain(client.shards)
    again = client.insert_job("f", unique=key)
    assert (again.jobid, again.dbid, again.new) == (first.jobid, 2, False)


@pytest.mark.parametrize("step", ["_hold", "_park", "_leave", "_settle"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_drain_finishes_one_that_died_at_any_step(
    client: Client, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    client.shards[2].insert(_new(20))
    original = getattr(drains, step)

    def dies(*arguments: Any) -> Any:
        if when == "after":
            original(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(drains, step, dies)
        with pytest.raises(KeyboardInterrupt):
            drain(client.shards)
    drain(client.shards)
    everywhere = of(client, 1, 2, 3)
    runnable = [job for job in everywhere if job.state is not State.DEAD]
    assert Counter(job.arg for job in runnable) == Counter(b"%d" % number for number in range(20))
    assert len(everywhere) == 20
    # What was leased for a move that did not come about waits for its lease, as after any crash.
    assert {job.state for job in of(client, 2)} <= {State.LEASED}


def test_drain_does_not_move_a_job_that_was_claimed_between_its_steps(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = client.shards[2]
    source.insert(_new(1))
    park = drains._park

    def slow(*arguments: Any) -> Any:
        copies = park(*arguments)
        with source.transaction() as run:  # the lease ran out meanwhile, and another has claimed the job
            run("hold", jobid=1, attempt=0, run_after=0, seconds=0)
        (row,) = of(client, 2)
        source.settle([Setback(handle=row.handle, kind="rescheduled")])
        return copies

    monkeypatch.setattr(drains, "_park", slow)
    moved = next(drains.drain(source, lambda job: client.shards[1]))
    assert moved == 0
    assert of(client, 1, 3) == []
    assert len(of(client, 2)) == 1


def test_insert_keeps_keys_unique_while_a_database_is_drained(client: Client, open_client: Opener) -> None:
    keys = [f"key-{number}" for number in range(60)]
    stop = threading.Event()
    errors: list[BaseException] = []

    def insert(mine: Client) -> None:
        try:
            while not stop.is_set():
                for key in keys:
                    mine.insert_job("f", unique=key)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=insert, args=(open_client(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        drain(client.shards)
        drain(client.shards)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert Counter(job.uniqkey for job in of(client, 1, 2, 3)) == Counter(keys)
    assert of(client, 2) == []


@pytest.mark.servers
def test_drain_on_a_server_with_a_binary_log_names_the_setting_that_its_trigger_needs() -> None:
    with (
        MariaDBOrMySQL("log-bin=binlog", "server-id=1") as server,
        closing(upgraded(server.create_database())) as database,
    ):
        database.insert([new_job("f", b"")])
        with pytest.raises(RefusedError, match="SET GLOBAL log_bin_trust_function_creators = 1"):
            list(drains.drain(database, lambda _: database))
        database.insert([new_job("f", b"")])  # nothing has changed
        server.execute("SET GLOBAL log_bin_trust_function_creators = 1")
        with database.transaction() as run:
            run("refuse_inserts")
        with pytest.raises(RefusedError, match="it is being drained"):
            database.insert([new_job("f", b"")])
        drains.stop(database)
        database.insert([new_job("f", b"")])
