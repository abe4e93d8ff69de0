"""MariaDB in a real Galera cluster: one node is written to, and what the others do must not harm."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pymysql
import pytest
from sqlalchemy import create_engine, make_url

from garivini import Client, GariviniError
from garivini.databases import DatabaseSettings
from garivini.errors import ConflictError, OutcomeUnknownError
from garivini.model.new_jobs import new_job
from garivini.store.database import Database
from tests.galera import Node, cluster
from tests.processes import PATIENCE
from tests.proxy import Proxy
from tests.pure_system import start_pure
from tests.servers import embedded
from tests.system import system, upgraded
from tests.test_failover import DROPPED, FOLLOWED, TRIES, stored
from tests.test_misconfigurations import examine

# A cluster takes a quarter of a minute to start, and most of it is waiting for the group.
pytestmark = [pytest.mark.servers, pytest.mark.soak, pytest.mark.alone, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    with cluster(3) as nodes:
        yield nodes


@pytest.fixture
def url(nodes: list[Node]) -> Iterator[str]:
    """The URL of a database with tables, by the first node."""
    with nodes[0].database() as url:
        upgraded(url).close()
        for node in nodes[1:]:
            node.until_seen("SELECT 1 FROM garivini_version", make_url(url).database or "")
        yield url


def at(url: str, port: int) -> str:
    return make_url(url).set(port=port).render_as_string(hide_password=False)


@pytest.mark.parametrize("kind", ["url", "engine"])
def test_insert_answers_with_its_id_while_another_node_changes_the_table(
    nodes: list[Node], url: str, kind: str
) -> None:
    name = make_url(url).database or ""
    engine = create_engine(url.replace("mysql:", "mysql+pymysql:"))
    stored: list[int] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def insert(database: Database) -> None:
        try:
            while not done.is_set():
                with suppress(ConflictError):  # nothing is stored after several tries
                    stored.extend(answer.jobid for answer in database.insert([new_job("f", b"")]))
        except BaseException as error:
            errors.append(error)

    before = int(nodes[0].status("wsrep_local_cert_failures"))
    with closing(Database(DatabaseSettings(1, url if kind == "url" else engine))) as database:
        threads = [threading.Thread(target=insert, args=(database,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + PATIENCE
        while int(nodes[0].status("wsrep_local_cert_failures")) < before + 5 and not errors:
            assert time.monotonic() < deadline, "no insert has met a change"
            nodes[1].execute("ALTER TABLE job COMMENT = 'changed'", name)
            nodes[1].execute("ALTER TABLE job COMMENT = ''", name)
        done.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert errors == []
        rows = nodes[0].execute("SELECT jobid FROM job", name)
        assert sorted(stored) == sorted(jobid for (jobid,) in rows)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT @@SESSION.wsrep_retry_autocommit").scalar() == 1
    engine.dispose()


def test_insert_of_many_gives_each_its_own_id_while_nodes_leave_and_join(nodes: list[Node], url: str) -> None:
    done = threading.Event()
    args: dict[int, bytes] = {}
    errors: list[BaseException] = []

    def insert() -> None:
        number = 0
        try:
            while not done.is_set():
                jobs = [new_job("f", b"%d" % (number + position)) for position in range(50)]
                number += len(jobs)
                answers = database.insert(jobs)
                args.update((answer.jobid, job.arg) for answer, job in zip(answers, jobs, strict=True))
        except BaseException as error:
            errors.append(error)

    with closing(Database(DatabaseSettings(1, url))) as database:
        thread = threading.Thread(target=insert)
        thread.start()
        nodes[2].stop()
        nodes[0].until("wsrep_cluster_size", "2")
        nodes[2].start()
        nodes[0].until("wsrep_cluster_size", "3")
        done.set()
        thread.join(PATIENCE)
    assert errors == []
    rows = nodes[0].execute("SELECT jobid, arg FROM job", make_url(url).database or "")
    assert args == dict(rows)
    nodes[2].until("wsrep_local_state_comment", "Synced")


def test_a_conflict_at_the_commit_can_be_repeated_and_leaves_the_connection_usable(
    nodes: list[Node], url: str
) -> None:
    with closing(Database(DatabaseSettings(1, url))) as one:
        (job,) = one.insert([new_job("f", b"")])
        nodes[1].until_seen("SELECT 1 FROM job", make_url(url).database or "")
        change = "UPDATE job SET failcount = failcount + 1 WHERE jobid = %s"

        def conflict() -> None:
            with one.transaction() as run:
                run("retry", jobids=[job.jobid])
                nodes[1].execute(change, make_url(url).database or "", [job.jobid])

        for _ in range(3):
            with pytest.raises(ConflictError) as raised:
                conflict()
            assert raised.value.transient
        assert one.retry(job.jobid)
        assert one.complete([job.jobid]) == {job.jobid}


def test_a_session_of_a_caller_in_which_the_server_runs_an_insert_again_is_an_unknown_outcome(
    nodes: list[Node], url: str
) -> None:
    name = make_url(url).database or ""
    with closing(Database(DatabaseSettings(1, url))) as database:
        database.check()
        target = make_url(url)
        own = pymysql.connect(
            host="127.0.0.1",
            port=target.port or 0,
            user=target.username,
            password=target.password or "",
            database=name,
            autocommit=True,
        )
        unknown = stored = 0
        done = threading.Event()

        def change() -> None:
            while not done.is_set():
                nodes[1].execute("ALTER TABLE job COMMENT = 'changed'", name)
                nodes[1].execute("ALTER TABLE job COMMENT = ''", name)

        thread = threading.Thread(target=change)
        thread.start()
        deadline = time.monotonic() + PATIENCE
        while not unknown and time.monotonic() < deadline:
            try:
                database.insert([new_job("f", b"")], connection=own)
            except OutcomeUnknownError:
                unknown += 1
            except ConflictError:
                continue  # the second run has met a change, too
            else:
                stored += 1
        done.set()
        thread.join(PATIENCE)
        own.close()
        assert unknown == 1
        assert len(database.jobs(limit=100_000)) == stored + 1


def test_several_writers_are_found_by_doctor_and_reported_by_the_queue_runner(
    nodes: list[Node], url: str, tmp_path: Path
) -> None:
    turn = [0]

    class Balancer(Proxy):
        """Leads each connection to the next node."""

        async def _serve(self, *streams: Any) -> None:
            turn[0] += 1
            self.point_to(f"127.0.0.1:{nodes[turn[0] % 2].port}")
            await super()._serve(*streams)

    with Balancer(f"127.0.0.1:{nodes[0].port}") as balancer, embedded() as address:
        through = at(url, int(balancer.address.rpartition(":")[2]))
        says = [finding["says"] for finding in examine(through, address)]
        assert any("several nodes of a Galera cluster: node1, node2" in text for text in says)
        assert not any("Galera" in finding["says"] for finding in examine(url, address))

        async def run() -> None:
            async with system(tmp_path, through) as whole:
                whole.start_queue_runner()
                (event,) = await whole.seen.wait("database.several_nodes")
                assert event == {"dbid": 1, "nodes": "node1, node2"}

        asyncio.run(run())


async def test_a_writer_that_is_killed_under_load_loses_no_acknowledged_job(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    jobs = 30_000
    with cluster(3) as nodes, Proxy(f"127.0.0.1:{nodes[0].port}") as proxy:
        url = at(nodes[0].create_database(), int(proxy.address.rpartition(":")[2]))
        runs = Counter[int]()
        acknowledged: list[int] = []
        killed = threading.Event()

        def insert() -> None:
            with Client(url) as client:
                while len(acknowledged) < jobs:
                    try:
                        batch = client.insert_jobs([("f", None, None, b"")] * 10)
                    except GariviniError:
                        time.sleep(0.01)  # as long as no node is a writer
                    else:
                        acknowledged.extend(answer.jobid for answer in batch)
                        if len(acknowledged) > jobs // 3:
                            killed.set()

        async with system(tmp_path, url) as whole:

            @whole.worker.function("f")
            async def f(job: Any) -> None:
                runs[job.jobid] += 1

            whole.start_worker()
            whole.start_queue_runner()
            threads = [threading.Thread(target=insert) for _ in range(4)]
            for thread in threads:
                thread.start()
            await whole.call(killed.wait, PATIENCE * 3)
            proxy.point_to(f"127.0.0.1:{nodes[1].port}")
            await whole.call(nodes[0].kill)
            for thread in threads:
                await whole.call(thread.join)
            await whole.gone()
        lost = [jobid for jobid in acknowledged if not runs[jobid]]
        twice = [jobid for jobid, count in runs.items() if count > 1]
        assert lost == []
        record_property("acknowledged", len(acknowledged))
        record_property("run twice", len(twice))
        with embedded() as address:
            direct = at(url, nodes[1].port)
            found = {finding["says"].partition(":")[0] for finding in examine(direct, address)}
            assert "wsrep_cluster_size is 2" in found


async def test_two_queue_runners_an_injector_and_a_controller_survive_a_writer_that_is_killed(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    jobs = 30_000
    runs = Counter[str]()
    with cluster(3) as nodes, Proxy(f"127.0.0.1:{nodes[0].port}") as proxy:
        url = at(nodes[0].create_database(), int(proxy.address.rpartition(":")[2]))
        async with system(tmp_path, url) as queue, AsyncExitStack() as stack:
            producers = await start_pure(queue, runs, stack, callers=20)
            queue.start_queue_runner()
            running = [asyncio.create_task(producer.run()) for producer in producers]
            await stored(producers, jobs // 3)
            began = time.monotonic()
            await queue.call(nodes[0].kill)
            proxy.point_to(f"127.0.0.1:{nodes[1].port}")
            # The rest of the cluster takes no statement until it has noticed the loss.
            await queue.call(nodes[1].until, "wsrep_cluster_size", "2")
            await queue.call(nodes[1].until, "wsrep_ready", "ON")
            ready = time.monotonic()
            for producer in producers:
                await producer.goes_on(1)
            followed = time.monotonic() - ready
            await stored(producers, jobs)
            for producer in producers:
                producer.stopped = True
            await asyncio.gather(*running)
            await queue.gone()
    acknowledged = {arg for producer in producers for arg in producer.stored}
    errors = [producer.errors for producer in producers]
    record_property("acknowledged", len(acknowledged))
    record_property("run twice", sum(number > 1 for number in runs.values()))
    record_property("errors", sum(map(len, errors)))
    assert acknowledged <= runs.keys()
    assert followed < FOLLOWED
    assert [error for each in errors for at, error in each if at > ready] == []
    assert max(map(len, errors)) <= 1 + (ready - began) // TRIES
    assert [event for event in queue.seen.events if event[0] in DROPPED] == []
