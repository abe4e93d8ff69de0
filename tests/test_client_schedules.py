"""``client.schedules``, blocking and asynchronous."""

from collections.abc import Iterator
from datetime import timedelta
from inspect import signature
from pathlib import Path

import pytest

from garivini import AsyncClient, Client, ConflictError, UsageError
from garivini.client.schedules import AsyncSchedules, Schedules
from tests.databases import sqlite_url


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with Client([sqlite_url(tmp_path, name) for name in ("one.db", "two.db")]) as client:
        yield client


def test_schedules_are_set_read_and_removed(client: Client) -> None:
    names = ["a", "b", "c", "d"]
    for name in names:
        client.schedules.set(name, "f", every=timedelta(minutes=5), arg="ü")
    client.schedules.set("a", cron="0 3 * * *", zone="Europe/Berlin")
    found = client.schedules.get("a")
    assert found is not None
    assert (found.cron, found.every, found.zone, found.arg) == (
        "0 3 * * *",
        None,
        "Europe/Berlin",
        "ü".encode(),
    )
    assert {entry.dbid for entry in client.schedules.all()} == {1, 2}
    assert sorted(entry.name for entry in client.schedules.all()) == names
    client.schedules.remove("a")
    assert client.schedules.get("a") is None


def test_run_returns_the_job_and_respects_the_overlap(client: Client) -> None:
    client.schedules.set("s", "f", every=60)
    client.schedules.pause("s")
    inserted = client.schedules.run("s")
    job = client.get_job(inserted)
    assert job is not None
    assert job.funcname == "f"
    with pytest.raises(ConflictError, match="has not ended"):
        client.schedules.run("s")
    client.schedules.resume("s")
    found = client.schedules.get("s")
    assert found is not None
    assert (found.paused, found.last_jobid) == (False, inserted.jobid)


@pytest.mark.parametrize("call", ["pause", "resume", "run", "remove", "reset"])
def test_calls_of_a_schedule_that_does_not_exist(client: Client, call: str) -> None:
    with pytest.raises(UsageError, match="there is no schedule 's'"):
        getattr(client.schedules, call)("s")


def test_the_asynchronous_calls_are_the_same() -> None:
    def calls(kind: type) -> dict[str, str]:
        return {name: str(signature(call)) for name, call in vars(kind).items() if not name.startswith("_")}

    assert calls(AsyncSchedules) == calls(Schedules)


async def test_the_asynchronous_calls_reach_the_database(tmp_path: Path) -> None:
    async with AsyncClient(sqlite_url(tmp_path)) as client:
        await client.schedules.set("s", "f", every=60, overlap="allow")
        await client.schedules.pause("s")
        assert (await client.schedules.run("s")).jobid == 1
        await client.schedules.resume("s")
        found = await client.schedules.get("s")
        assert found is not None
        assert [found] == await client.schedules.all()
        with pytest.raises(UsageError, match="not declared"):
            await client.schedules.reset("s")
        await client.schedules.remove("s")
        assert await client.schedules.all() == []
