"""The homes of jobs of functions with rules: the rules hold over several databases together."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from garivini import AsyncClient, Client, Job, UnreachableError, UsageError, Worker
from garivini.model.new_jobs import new_job
from garivini.model.policy import FunctionPolicy
from garivini.roles import queue_runners
from garivini.roles.queue_runner import QueueRunnerSettings
from garivini.store.database import Database
from garivini.store.drain import drain
from garivini.store.homes import home_of
from tests.databases import sqlite_url
from tests.processes import PATIENCE
from tests.servers import embedded
from tests.sql_servers import MariaDB, PostgreSQL

ALL = (1, 2, 3)
#: One rule each that applies to all jobs of a function.
RULES = [{"max_running": 1}, {"rate": "10/s"}, {"fair": True}, {"max_running": 5, "partition_max_running": 1}]


@pytest.fixture
def databases(tmp_path: Path) -> list[str]:
    """The URLs of three databases."""
    return [sqlite_url(tmp_path, f"{name}.db") for name in "abc"]


@pytest.fixture
def client(databases: list[str]) -> Iterator[Client]:
    with Client(databases) as client:
        yield client


def rule(client: Client, funcname: str = "f", **settings: Any) -> None:
    """Set a rule in all databases, as ``functions set`` does."""
    for database in client.shards:
        database.set_function(funcname, FunctionPolicy(**settings))


def places(client: Client, funcname: str = "f") -> Counter[int]:
    """Return the number of jobs of a function by database."""
    return Counter({it.dbid: count for it in client.shards if (count := len(it.jobs(funcname=funcname)))})


@pytest.mark.parametrize("settings", RULES, ids=lambda settings: "+".join(settings))
def test_insert_puts_all_jobs_of_a_function_with_a_rule_into_its_home(
    client: Client, settings: dict[str, Any]
) -> None:
    rule(client, **settings)
    client.insert_jobs(
        [{"funcname": "f", "partition": f"p{n}", "unique": f"k{n}" if n % 2 else None} for n in range(30)]
    )
    for _ in range(5):
        client.insert_job("f")
    assert places(client) == {home_of(ALL, "f", ""): 35}


@pytest.mark.parametrize("settings", [{}, {"retention": 60}], ids=["none", "no rule"])
def test_insert_spreads_the_jobs_of_a_plain_function(client: Client, settings: dict[str, Any]) -> None:
    rule(client, **settings)
    rule(client, "ruled", max_running=1)
    for _ in range(30):
        client.insert_job("f")
    assert set(places(client)) == set(ALL)


def test_insert_puts_each_partition_into_its_home_if_all_rules_are_of_partitions(client: Client) -> None:
    rule(client, partition_max_running=1)
    names = [f"p{number % 10}" for number in range(40)]
    answers = client.insert_jobs([{"funcname": "f", "partition": name} for name in names])
    assert [answer.dbid for answer in answers] == [home_of(ALL, "f", name) for name in names]
    assert set(places(client)) == set(ALL)


def test_insert_refuses_a_unique_key_if_all_rules_are_of_partitions(client: Client) -> None:
    rule(client, partition_max_running=1)
    with pytest.raises(UsageError, match="rules of partitions only"):
        client.insert_jobs([["f", None, None, b""], ["f", "key", None, b""]])
    assert not places(client)


def test_insert_accepts_a_unique_key_if_another_rule_gives_all_jobs_one_home(client: Client) -> None:
    rule(client, partition_max_running=1, max_running=10_000)
    assert client.insert_job("f", unique="key").dbid == home_of(ALL, "f", "")


def test_insert_knows_a_rule_that_only_one_database_has(client: Client) -> None:
    client.shards[3].set_function("f", FunctionPolicy(max_running=1))
    for _ in range(10):
        client.insert_job("f")
    assert places(client) == {home_of(ALL, "f", ""): 10}


def test_insert_of_plain_jobs_reads_the_rules_of_each_database_once(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    functions, reads = Database.functions, Counter[int]()

    def counted(database: Database) -> dict[str, FunctionPolicy]:
        reads[database.dbid] += 1
        return functions(database)

    monkeypatch.setattr(Database, "functions", counted)
    for number in range(50):
        client.insert_job("f", unique=f"k{number}" if number % 2 else None)
    assert reads == dict.fromkeys(ALL, 1)


def test_insert_into_a_home_that_is_down_fails_and_others_go_on(tmp_path: Path) -> None:
    paths = {dbid: tmp_path / f"{dbid}" for dbid in ALL}
    for path in paths.values():
        path.mkdir()
    urls = [sqlite_url(path) for path in paths.values()]
    home = home_of(ALL, "f", "")
    with Client(urls) as client:
        rule(client, max_running=1)
    paths[home].rename(tmp_path / "away")
    with Client(urls) as client:
        with pytest.raises(UnreachableError):
            client.insert_job("f")
        assert {client.insert_job("plain").dbid for _ in range(20)} == set(ALL) - {home}
        (tmp_path / "away").rename(paths[home])
        assert client.insert_job("f").dbid == home


def test_insert_joins_only_a_connection_to_the_home(client: Client, databases: list[str]) -> None:
    rule(client, max_running=1)
    home = home_of(ALL, "f", "")
    for dbid, url in enumerate(databases, 1):
        engine = create_engine(url)
        with engine.begin() as connection:
            client.insert_job("plain", connection=connection)
            if dbid == home:
                client.insert_job("f", connection=connection)
            else:
                with pytest.raises(UsageError, match="with its rules belongs to another database"):
                    client.insert_job("f", connection=connection)
        engine.dispose()
    assert places(client) == {home: 1}


def test_drain_moves_the_jobs_of_a_function_with_a_rule_to_its_next_home(client: Client) -> None:
    rule(client, max_running=1)
    home = home_of(ALL, "f", "")
    client.insert_jobs([["f", None, None, b""]] * 10)
    left = [dbid for dbid in ALL if dbid != home]
    assert sum(drain(client.shards[home], lambda job: client.shards.target(job, without=[home]))) == 10
    assert places(client) == {home_of(left, "f", ""): 10}
    assert client.insert_job("f").dbid == home_of(left, "f", "")


async def test_async_insert_puts_jobs_of_a_function_with_a_rule_into_its_home(
    client: Client, databases: list[str]
) -> None:
    rule(client, max_running=1)
    async with AsyncClient(databases) as aio:
        for _ in range(2):  # at first no rule is known yet
            found = await asyncio.gather(*(aio.insert_job("f") for _ in range(10)))
            assert {answer.dbid for answer in found} == {home_of(ALL, "f", "")}


def test_home_of_job_of_one_database_is_unknown_for_jobs_without_a_key(tmp_path: Path) -> None:
    with Client(sqlite_url(tmp_path)) as client:
        rule(client, max_running=1)
        client.insert_job("f")
        assert client.shards.home_of_job(new_job("f", b"")) is None


@pytest.fixture
def mixed(tmp_path: Path, mariadb: MariaDB, postgresql: PostgreSQL) -> Iterator[list[str]]:
    """The URLs of a database of each kind."""
    urls = [sqlite_url(tmp_path), mariadb.create_database(), postgresql.create_database()]
    with Client(urls) as client:
        for database in client.shards:
            database.upgrade()
    yield urls
    mariadb.drop_database(urls[1])
    postgresql.drop_database(urls[2])


class Gauge:
    """Counts how many jobs of a function run at the same time."""

    def __init__(self) -> None:
        self.running = self.most = self.ran = 0

    def worker(self, client: Client, address: str) -> Worker:
        """Return a worker of this function, and of one whose jobs have follow-ups of it."""
        worker = Worker(client, [address])
        worker.function("f")(self.run)

        @worker.function("first")
        def first(job: Job) -> None:
            job.insert_job("f")

        return worker

    async def run(self, job: Job) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.02)
        self.running -= 1
        self.ran += 1


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.parametrize("count", [2, 3])
async def test_a_limit_holds_over_all_databases_also_for_follow_ups(mixed: list[str], count: int) -> None:
    urls, gauge, stop = mixed[:count], Gauge(), asyncio.Event()
    clients = [Client(urls) for _ in range(4)]
    with embedded() as address:
        inserting = [Client(urls, [address]) for _ in range(3)]
        await asyncio.to_thread(rule, clients[0], max_running=3)
        roles: list[asyncio.Task[Any]] = []
        for each in clients[:2]:
            roles.append(asyncio.create_task(gauge.worker(each, address).serve(stop)))
        for each in clients[2:]:
            serving = queue_runners.serve(list(each.shards), [address], QueueRunnerSettings(), stop=stop)
            roles.append(asyncio.create_task(serving))
        for funcname in ("f", "first"):
            jobs = [[funcname, None, None, b""]] * 10
            await asyncio.gather(*(asyncio.to_thread(each.insert_jobs, jobs) for each in inserting))
        async with asyncio.timeout(PATIENCE):
            while gauge.ran < 60:
                await asyncio.sleep(0.02)
        stop.set()
        await asyncio.gather(*roles)
    for each in (*clients, *inserting):
        each.close()
    assert (gauge.ran, gauge.most) == (60, 3)
