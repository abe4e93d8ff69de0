"""Unique keys with rules and jobs that expire, as programs use them."""

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from garivini import AsyncClient, Client, DuplicateJobError, Inserted, State, Unique, UsageError, Worker
from garivini.model.policy import POLICIES_AGE, FunctionPolicy
from garivini.roles import key_upkeep
from garivini.store.database import Lane
from tests.commands import run
from tests.databases import sqlite_url
from tests.processes import command, until
from tests.servers import free_port
from tests.system import system
from tests.test_injector import Caller, counted
from tests.test_queue_runner import queued, runner


@pytest.fixture
def url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path)


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


def arguments(client: Client) -> list[bytes]:
    return [job.arg for job in client.list_jobs()]


def test_insert_job_takes_a_key_with_rules(client: Client) -> None:
    key = Unique("k", on_duplicate="debounce", max_delay=timedelta(minutes=5))
    assert key.rule.max_delay == 300
    first = client.insert_job("f", "1", 60, key)
    again = client.insert_job("f", "2", 60, uniqkey=key)  # type: ignore[arg-type]  # either name takes it
    assert (again.jobid, again.new, again.replaced, again.queued) == (first.jobid, False, True, False)
    client.insert_jobs([{"funcname": "f", "arg": "3", "unique": key, "expires": 7}, ["f", key, None, "4"]])
    assert arguments(client) == [b"4"]


def test_insert_jobs_that_raises_inserts_nothing(client: Client) -> None:
    first = client.insert_job("f", "1", unique="k")
    with pytest.raises(DuplicateJobError) as caught:
        client.insert_jobs([["f", None, None, "2"], ["f", Unique("k", on_duplicate="raise"), None, "3"]])
    assert caught.value.existing == Inserted(first.jobid, 1, new=False)
    assert arguments(client) == [b"1"]


@pytest.mark.parametrize("expires", [0, -1, timedelta(0), "soon"])
def test_insert_job_refuses_a_wrong_time_to_expire(client: Client, expires: Any) -> None:
    with pytest.raises(UsageError):
        client.insert_job("f", expires=expires)


def test_insert_job_in_the_transaction_of_the_caller_follows_the_rules(client: Client, url: str) -> None:
    key = Unique("k", on_duplicate="one_more", scope="while_live")
    client.insert_job("f", "1", unique=key)
    with create_engine(url).connect() as connection:
        with connection.begin() as begun:
            assert client.insert_job("f", "2", unique=key, connection=connection).replaced
            begun.rollback()
        assert arguments(client) == [b"1"]
        with connection.begin():
            client.insert_job("f", "3", unique=key, expires=9, connection=connection)
    assert arguments(client) == [b"3"]


def test_insert_job_with_several_databases_keeps_the_rules_at_home(tmp_path: Path) -> None:
    with Client([sqlite_url(tmp_path, "a.db"), sqlite_url(tmp_path, "b.db")]) as client:
        keys = [Unique(f"k{number}", on_duplicate="replace") for number in range(8)]
        for round_ in range(3):
            client.insert_jobs([["f", key, None, f"{round_}"] for key in keys])
        assert len(client.list_jobs()) == 8
        assert set(arguments(client)) == {b"2"}
        assert {job.dbid for job in client.list_jobs()} == {1, 2}


async def test_async_insert_job_raises_for_one_caller_alone(url: str) -> None:
    async with AsyncClient(url) as client:
        key = Unique("k0", on_duplicate="raise")
        await client.insert_job("f", "first", unique=key)
        answers = await asyncio.gather(
            *(client.insert_job("f", str(number), unique=f"k{number}") for number in range(1, 4)),
            client.insert_job("f", "again", unique=key),
            *(client.insert_job("f", str(number), unique=f"k{number}") for number in range(4, 7)),
            return_exceptions=True,
        )
        assert [isinstance(it, DuplicateJobError) for it in answers] == [False] * 3 + [True] + [False] * 3
        assert len(await client.list_jobs()) == 7


def test_insert_job_reads_the_rules_of_functions_again_after_some_seconds(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("garivini.store.key_rules.time.monotonic", lambda: now)
    (database,) = client.shards
    client.insert_job("f", "1", unique="k")
    database.set_function("f", FunctionPolicy(on_duplicate="replace"))
    assert not client.insert_job("f", "2", unique="k").replaced
    now += POLICIES_AGE
    assert client.insert_job("f", "3", unique="k").replaced


def test_a_worker_declares_rules_of_keys(client: Client) -> None:
    worker = Worker(client, "127.0.0.1:4730")
    decorate = worker.function(
        "f", on_duplicate="debounce", max_delay=9, unique_scope="while_live", expires=5
    )
    decorate(lambda job: None)
    policy = worker.functions["f"].policy
    assert (policy.on_duplicate, policy.max_delay, policy.unique_scope, policy.expires) == (
        "debounce",
        9,
        "while_live",
        5,
    )
    with pytest.raises(UsageError, match="window"):
        worker.function("g", on_duplicate="replace", unique_window=9)


@pytest.mark.slow
def test_run_declares_rules_of_keys_in_the_settings_file(client: Client, url: str, tmp_path: Path) -> None:
    (tmp_path / "garivini.toml").write_text(
        '[functions.f]\nunique_scope = "while_live"\nunique_window = 9\non_duplicate = "raise"\n'
        "max_delay = 8\nexpires = 7\n"
    )
    (database,) = client.shards
    with command(
        tmp_path, "run", "queue-runner", "--job-server", f"127.0.0.1:{free_port()}", GARIVINI_DB=url
    ):
        until(lambda: "f" in database.functions())
    assert database.functions()["f"] == FunctionPolicy(
        unique_scope="while_live", unique_window=9, on_duplicate="raise", max_delay=8, expires=7
    )
    shown = run("functions", "show", "f", "-o", "json", GARIVINI_DB=url).stdout
    values = {entry["setting"]: entry["value"] for entry in json.loads(shown)}
    assert (values["on_duplicate"], values["unique_window"], values["expires"]) == ("raise", 9, 7)


async def test_an_injector_follows_the_rules_of_the_function(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        await queue.call(queue.database.set_function, "f", FunctionPolicy(on_duplicate="one_more"))
        queue.start_injector()
        await counted(queue)
        async with Caller(queue.address) as caller:
            first = await caller.inject("f", arg="1", unique="k")
            assert await caller.inject("f", arg="2", unique="k") == (*first[:2], True)
        assert await queue.call(queue.database.complete, [first[0]]) == {first[0]}
        (job,) = await queue.call(queue.database.jobs)
        assert (job.arg, job.state) == (b"2", State.WAITING)


async def test_a_queue_runner_discards_expired_jobs_and_submits_none(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        await queue.call(queue.database.set_function, "f", FunctionPolicy(expires=60))
        late = await queue.call(queue.client.insert_jobs, [["f", None, None, ""]] * 3)
        own = await queue.call(queue.client.insert_job, "g", expires=60)
        with queue.database.transaction() as statements:
            statements("put_all_at", jobids=[at.jobid for at in (*late, own)], run_after=1000)
        await queue.call(queue.client.insert_job, "f")
        queue_runner, servers = runner(queue)
        await queue_runner.run_pass()
        assert await queued(queue, b"f") == 1
        assert await queued(queue, b"g") == 0
        states = [job.state for job in await queue.call(queue.database.jobs)]
        assert states == [State.DEAD] * 4 + [State.LEASED]
        dead = queue.seen.of("job.dead")
        assert {entry["jobid"] for entry in dead} == {at.jobid for at in (*late, own)}
        assert {entry["error"] for entry in dead} == {"Expired"}
        queue_runner.close()
        await servers.close()


async def test_a_queue_runner_promotes_a_successor_that_a_stranger_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_upkeep, "SUCCESSOR_INTERVAL", 0.0)
    async with system(tmp_path) as queue:
        await queue.call(queue.database.set_function, "f", FunctionPolicy(on_duplicate="one_more"))
        key = Unique("k", on_duplicate="one_more")
        first = await queue.call(queue.client.insert_job, "f", "1", unique=key)
        await queue.call(queue.database.claim, Lane("f", State.WAITING, "normal", 0), limit=1, lease=60)
        assert (await queue.call(queue.client.insert_job, "f", "2", unique=key)).queued
        with queue.database.transaction() as statements:
            statements("complete_one", jobid=first.jobid)
        queue_runner, servers = runner(queue)
        await queue.call(queue.database.functions)
        await queue_runner.run_pass()
        (job,) = await queue.call(queue.database.jobs)
        assert job.arg == b"2"
        queue_runner.close()
        await servers.close()
