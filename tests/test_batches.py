"""Batches through whole systems: clients, workers, QueueRunners and commands."""

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from garivini import AsyncClient, Client, Discard, Job, UsageError
from garivini.cli import cli
from garivini.roles import batch_upkeep
from tests.databases import sqlite_url
from tests.system import System, system


def register(whole: System, ran: list[str]) -> None:
    @whole.worker.function("member")
    def member(job: Job) -> None:
        ran.append("member")
        if job.arg == b"discard":
            raise Discard("told to")

    @whole.worker.function("grow")
    def grow(job: Job) -> None:
        batch = whole.client.open_batch(job.headers["batch"])
        batch.insert_jobs([["member", None, None, b""]] * 3)

    for name in ("completed", "succeeded"):

        @whole.worker.function(name)
        def end(job: Job) -> None:
            ran.append(f"{job.funcname} {job.arg.decode()} {job.headers['batch']}")


async def test_a_batch_inserts_its_jobs_once_after_all_members(tmp_path: Path) -> None:
    async with system(tmp_path) as whole:
        ran: list[str] = []
        register(whole, ran)
        whole.start_worker()
        whole.start_queue_runner()

        def insert() -> str:
            done, succeeded = {"funcname": "completed", "arg": "c"}, ["succeeded", None, None, "s"]
            with whole.client.batch("nightly", on_complete=done, on_success=succeeded) as batch:
                batch.insert_jobs([["member", None, None, b"%d" % number] for number in range(50)])
                batch.insert_job("grow")
            return batch.id

        batch = await whole.call(insert)
        await whole.gone()
        assert ran[:53] == ["member"] * 53
        assert sorted(ran[53:]) == [f"completed c {batch}", f"succeeded s {batch}"]
        status = await whole.call(whole.client.get_batch, batch)
        assert status is not None
        assert (status.members, status.pending, status.succeeded, status.failed) == (54, 0, 54, 0)


async def test_a_batch_with_a_dead_member_has_not_succeeded(tmp_path: Path) -> None:
    async with system(tmp_path) as whole:
        ran: list[str] = []
        register(whole, ran)
        whole.start_worker()
        whole.start_queue_runner()

        def insert() -> str:
            done, succeeded = {"funcname": "completed"}, {"funcname": "succeeded"}
            with whole.client.batch(on_complete=done, on_success=succeeded) as batch:
                batch.insert_jobs([["member", None, None, arg] for arg in (b"", b"discard")])
            return batch.id

        batch = await whole.call(insert)
        await whole.seen.until(lambda: len(ran) == 3)
        await whole.gone(1)
        assert ran[2:] == [f"completed  {batch}"]


async def test_a_queue_runner_finds_members_that_another_program_has_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_upkeep, "IDLE_INTERVAL", 0.05)
    monkeypatch.setattr(batch_upkeep, "INTERVAL", 0.05)
    async with system(tmp_path) as whole:
        ran: list[str] = []
        register(whole, ran)

        def insert() -> None:
            with whole.client.batch(on_complete={"funcname": "completed"}) as batch:
                batch.insert_jobs([["foreign", None, None, b""]] * 5)
            with whole.database.transaction() as run:
                run("complete", jobids=[job.jobid for job in whole.database.jobs()])

        await whole.call(insert)
        whole.start_worker()
        whole.start_queue_runner()
        await whole.seen.until(lambda: bool(ran))
        await whole.gone()
        assert len(ran) == 1


async def test_async_batch_seals_itself(tmp_path: Path) -> None:
    async with AsyncClient(sqlite_url(tmp_path)) as client:
        async with client.batch("x", on_complete={"funcname": "done"}) as batch:
            await asyncio.gather(*(batch.insert_job("f", b"%d" % number) for number in range(10)))
            await batch.insert_jobs([["f", None, None, b""]])
        status = await client.get_batch(batch.id)
        assert status is not None
        assert (status.name, status.members, status.pending, status.sealed) == ("x", 11, 11, True)
        assert [it.id for it in await client.list_batches()] == [batch.id]
        assert await client.cancel_batch(batch.id, "no") == 11
        assert [job.funcname for job in await client.list_jobs(state="waiting")] == ["done"]


async def test_an_async_batch_without_a_with_is_created_once(tmp_path: Path) -> None:
    async with AsyncClient([sqlite_url(tmp_path, f"{number}.db") for number in range(3)]) as client:
        batch = client.batch("x")
        await asyncio.gather(*(batch.insert_job("f") for _ in range(8)))
        status = await batch.seal()
        assert (status.members, status.sealed) == (8, True)


def test_a_batch_whose_body_raises_stays_open(tmp_path: Path) -> None:
    with Client(sqlite_url(tmp_path)) as client:
        batch = client.batch(on_complete={"funcname": "done"})

        def body() -> None:
            with batch:
                batch.insert_job("f")
                raise KeyError

        with pytest.raises(KeyError):
            body()
        status = batch.status()
        assert status is not None
        assert not status.sealed
        assert batch.seal().sealed


def test_a_batch_of_a_session_exists_only_after_its_commit(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    engine = create_engine(url)
    with Client(url) as client, Session(engine) as session:
        client.list_jobs()
        for end in (session.rollback, session.commit):
            with client.batch(on_complete={"funcname": "done"}, connection=session) as batch:
                batch.insert_job("f")
            end()
            assert (client.get_batch(batch.id) is not None) is (end == session.commit)
            assert len(client.list_jobs()) == (end == session.commit)
    engine.dispose()


def test_batch_refuses_wrong_values(tmp_path: Path) -> None:
    with Client(sqlite_url(tmp_path)) as client:
        with pytest.raises(UsageError, match="name of a batch"):
            client.batch("x" * 201)
        with pytest.raises(UsageError, match="has no funcname"):
            client.batch(on_complete={"arg": "x"})
        with pytest.raises(UsageError, match="at most 65536 bytes"):
            client.batch(on_success={"funcname": "f", "arg": b"x" * 70_000})
        for wrong in ("", "1", "1:xyz", "x:6a0c1f2e9b3d4c5a", "1:6a0c1f2e9b3d4c5'"):
            with pytest.raises(UsageError, match="not the id of a batch"):
                client.get_batch(wrong)
        with pytest.raises(UsageError, match="there is no batch"):
            client.open_batch("1:6a0c1f2e9b3d4c5a").seal()


def test_a_member_with_a_key_of_another_database_is_refused(tmp_path: Path) -> None:
    urls = [sqlite_url(tmp_path, f"{number}.db") for number in range(3)]
    with Client(urls) as client, client.batch() as batch:
        jobs = [["f", str(number), None, b""] for number in range(50)]
        with pytest.raises(UsageError, match="belongs to another database than batch"):
            batch.insert_jobs(jobs)
        dbid = batch.id.partition(":")[0]
        assert {str(job.dbid) for job in client.list_jobs(limit=1000)} <= {dbid}


def test_commands_list_show_and_cancel_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GARIVINI_DB", sqlite_url(tmp_path))
    with Client() as client, client.batch("[red]night\n") as batch:
        batch.insert_jobs([["f", None, None, b""]] * 2)
    run = CliRunner().invoke
    assert batch.id in run(cli, ["batches", "list"]).output
    (listed,) = json.loads(run(cli, ["batches", "list", "-o", "json"]).output)
    assert (listed["id"], listed["pending"], listed["name"]) == (batch.id, 2, "[red]night\n")
    assert "sealed" in run(cli, ["batches", "show", batch.id]).output
    assert run(cli, ["batches", "cancel", batch.id, "--reason", "no"]).output == "2 cancelled\n"
    assert "ended" in run(cli, ["batches", "show", batch.id]).output
    assert run(cli, ["batches", "show", "1:0000000000000000"]).exit_code != 0
