"""Direct dispatch: what an insert submits by itself, what it leaves to a QueueRunner, and waking one."""

import asyncio
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import create_engine

from garivini import AsyncClient, Client, events
from garivini.errors import UnreachableError, UsageError
from garivini.gearman.blocking import Client as GearmanClient
from garivini.gearman.packets import Type
from garivini.gearman.protocol import Refused, Submission
from garivini.model.job import Job
from garivini.model.payload import decode_payload
from garivini.model.policy import FunctionPolicy
from garivini.model.state import State
from garivini.store.database import Database
from tests import servers
from tests.databases import sqlite_url
from tests.gearman.peer import Peer
from tests.system import System, system


@pytest.fixture
def address() -> Iterator[str]:
    with servers.embedded() as address:
        yield address


@pytest.fixture
def client(tmp_path: Path, address: str) -> Iterator[Client]:
    with Client(sqlite_url(tmp_path), address) as client:
        yield client


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time by which a client judges what it knows of servers."""
    now = SimpleNamespace(seconds=1000.0)
    for module in ("client.direct", "client.server_pool", "store.key_calls"):
        clock = SimpleNamespace(monotonic=lambda: now.seconds)
        monkeypatch.setattr(f"garivini.{module}.time", clock)
    return now


@pytest.fixture
def seen() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    unlisten = events.listen(lambda name, fields: found.append((name, fields)))
    yield found
    unlisten()


def waiting(address: str, function: str = "f") -> int:
    """Return how many jobs of a function a server holds."""
    with GearmanClient(address) as gearman:
        status = gearman.functions().get(function.encode())
    return status.total if status else 0


def wakes(address: str) -> int:
    return waiting(address, "garivini_wake")


def grabbed(address: str, function: str = "f") -> tuple[bytes, Job]:
    """Take one job as a worker; return its unique and what its payload carries."""
    with Peer(address) as worker:
        worker.send(Type.CAN_DO, function.encode()).send(Type.GRAB_JOB_UNIQ)
        kind, _, _, unique, payload = worker.hear()
        assert kind == "JOB_ASSIGN_UNIQ"
        return unique, decode_payload(payload)


def rows(client: Client) -> list[tuple[State, int | None]]:
    return [(job.state, job.attempt) for job in client.list_jobs()]


LEASED = (State.LEASED, 1)
LEFT = (State.WAITING, 0)


# ---- what is submitted


def test_an_insert_submits_the_job_as_a_queue_runner_would(client: Client, address: str) -> None:
    answer = client.insert_job("f", b"\xff\0", coalesce="c", priority="high")
    unique, job = grabbed(address)
    assert unique == b"1:%d:1" % answer.jobid
    row = client.get_job(answer)
    assert row is not None
    assert (row.state, row.attempt, row.run_after) == (State.LEASED, 1, job.lease_end)
    assert job == Job(
        jobid=answer.jobid,
        dbid=1,
        funcname="f",
        arg=b"\xff\0",
        coalesce="c",
        priority="high",
        run_after=row.created,
        attempt=1,
        lease=60,
        created=row.created,
        lease_end=row.created + 61,
    )
    assert wakes(address) == 0


def test_jobs_in_bulk_are_submitted_as_well(client: Client, address: str) -> None:
    client.insert_jobs(["f", None, None, b"%d" % number] for number in range(300))
    assert waiting(address) == 300
    assert rows(client)[:3] == [LEASED] * 3
    assert wakes(address) == 0


def test_a_job_of_flag_controller_goes_to_a_controller(client: Client, address: str) -> None:
    client.insert_job("f", flag="controller")
    assert (waiting(address), waiting(address, "run_queued_job")) == (0, 1)
    assert grabbed(address, "run_queued_job")[1].funcname == "f"


def test_what_is_set_for_a_function_holds_from_its_first_job_on(client: Client, address: str) -> None:
    (database,) = client.shards
    database.set_function("f", FunctionPolicy(lease=500, envelope="latin-1"))
    client.insert_job("f", "ä")
    _, job = grabbed(address)
    assert (job.lease, job.arg) == (500, "ä".encode())
    assert job.lease_end - job.run_after == 501


def test_jobs_of_each_database_are_submitted_with_its_id(tmp_path: Path, address: str) -> None:
    with Client({3: sqlite_url(tmp_path, "a.db"), 5: sqlite_url(tmp_path, "b.db")}, address) as client:
        answers = client.insert_jobs(["f", f"k{number}", None, b""] for number in range(20))
        assert {answer.dbid for answer in answers} == {3, 5}
        with GearmanClient(address) as gearman:
            uniques = gearman.command(b"show unique jobs")
        assert sorted(uniques) == sorted(b"%d:%d:1" % (dbid, jobid) for jobid, dbid in answers)


def test_a_job_goes_to_a_server_where_its_function_has_a_worker(tmp_path: Path, address: str) -> None:
    with servers.embedded() as second, Peer(second) as worker:
        worker.send(Type.CAN_DO, b"f").send(Type.ECHO_REQ, b"").hear()
        with Client(sqlite_url(tmp_path), [address, second]) as client:
            client.insert_jobs(["f", None, None, b""] for _ in range(20))
        assert (waiting(address), waiting(second)) == (0, 20)


def test_an_async_client_submits_too(tmp_path: Path, address: str) -> None:
    async def insert() -> None:
        async with AsyncClient(sqlite_url(tmp_path), address) as client:
            await asyncio.gather(*(client.insert_job("f") for _ in range(10)))
            await client.insert_job("f", dispatch=False)
            await client.insert_jobs([["f", None, None, b""]])

    asyncio.run(insert())
    assert waiting(address) == 11


def test_threads_submit_each_job_once(client: Client, address: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: client.insert_job("f"), range(200)))
    with GearmanClient(address) as gearman:
        uniques = gearman.command(b"show unique jobs")
    assert sorted(uniques) == sorted(b"1:%d:1" % answer.jobid for answer in answers)


def test_a_job_runs_without_any_queue_runner(tmp_path: Path) -> None:
    async def scenario(queue: System) -> None:
        ran: list[tuple[int, int | None]] = []
        queue.worker.function("f")(lambda job: ran.append((job.jobid, job.attempt)))
        queue.start_worker()
        await queue.seen.wait("gearman.connected")
        with Client(queue.url, queue.address) as client:
            answer = await queue.call(client.insert_job, "f")
            while await queue.call(client.get_job, answer):
                await asyncio.sleep(0.01)
        assert ran == [(answer.jobid, 1)]

    async def run() -> None:
        async with system(tmp_path) as queue:
            await scenario(queue)

    asyncio.run(run())


# ---- what is left to a QueueRunner


def test_what_is_not_to_be_submitted_waits_and_wakes_a_queue_runner(client: Client, address: str) -> None:
    client.insert_job("f", dispatch=False)
    client.insert_jobs([["f", None, None, b""]], dispatch=False)
    assert rows(client) == [LEFT, LEFT]
    assert (waiting(address), wakes(address)) == (0, 1)


def test_only_what_is_new_and_due_is_submitted(client: Client, address: str) -> None:
    client.insert_job("f", run_after=60, unique="k")
    client.insert_job("f", unique="k")
    client.insert_jobs([])
    assert (waiting(address), wakes(address)) == (0, 0)
    client.insert_job("g", unique="k")
    client.insert_job("g", unique="k")
    assert waiting(address, "g") == 1


def test_a_job_in_a_callers_transaction_is_left_due(tmp_path: Path, address: str) -> None:
    url = sqlite_url(tmp_path)
    engine = create_engine(url)
    with Client(url, address) as client, engine.begin() as connection:
        client.insert_job("f", connection=connection)
    engine.dispose()
    assert (rows(client), waiting(address)) == ([LEFT], 0)


def test_no_more_than_the_room_of_a_function_is_submitted(
    tmp_path: Path, address: str, now: SimpleNamespace
) -> None:
    with Client(sqlite_url(tmp_path), address, watermark=3) as client:
        client.insert_jobs(["f", None, None, b""] for _ in range(5))
        client.insert_job("g")
        assert (waiting(address), waiting(address, "g"), wakes(address)) == (3, 1, 1)
        assert rows(client) == [LEASED] * 3 + [LEFT] * 2 + [LEASED]
        for _ in range(3):
            grabbed(address)  # and gone with its worker's connection: it waits again
        with Peer(address) as worker:
            worker.send(Type.CAN_DO, b"f").send(Type.GRAB_JOB).hear()
            client.insert_job("f")
            assert waiting(address) == 3  # the room is known for a second
            now.seconds += 1
            client.insert_job("f")
            assert waiting(address) == 4  # one of them is running


def test_a_pile_that_waits_for_controllers_leaves_room_for_other_jobs(tmp_path: Path, address: str) -> None:
    with Client(sqlite_url(tmp_path), address, watermark=3) as client:
        client.insert_jobs((["f", None, None, b""] for _ in range(5)), flag="controller")
        client.insert_job("f")
        assert (waiting(address, "run_queued_job"), waiting(address)) == (3, 1)


def test_without_a_watermark_all_is_submitted(tmp_path: Path, address: str) -> None:
    with Client(sqlite_url(tmp_path), address, watermark=0) as client:
        client.insert_jobs(["f", None, None, b""] for _ in range(4000))
        assert waiting(address) == 4000
        client.insert_jobs(["f", None, None, b""] for _ in range(4001))
        assert waiting(address) == 4000  # a long list is left to a QueueRunner
    with pytest.raises(UsageError, match="a watermark is 0"):
        Client("sqlite:///jobs.db", address, watermark=-1)


def test_what_a_worker_with_the_raw_argument_could_not_complete_is_left(client: Client, address: str) -> None:
    (database,) = client.shards
    database.set_function("f", FunctionPolicy(envelope="raw"))
    client.insert_job("f")
    assert rows(client) == [LEFT]  # for a QueueRunner, which puts it aside with the reason
    assert wakes(address) == 1


def test_large_arguments_beyond_what_fits_a_batch_are_left(client: Client, address: str) -> None:
    client.insert_jobs(["f", None, None, b"x" * 3_000_000] for _ in range(3))
    assert rows(client) == [LEASED, LEASED, LEFT]


# ---- faults


def test_what_a_server_refuses_waits_again_at_once(client: Client, address: str) -> None:
    with GearmanClient(address) as gearman:
        gearman.command(b"maxqueue f 2", block=False)
    client.insert_jobs(["f", None, None, b""] for _ in range(5))
    assert waiting(address) == 2
    assert rows(client) == [LEASED] * 2 + [(State.WAITING, 1)] * 3
    assert all(job.run_after <= job.created for job in client.list_jobs(state="waiting"))
    assert wakes(address) == 1
    client.insert_job("f")
    assert rows(client)[-1] == LEFT  # it is known to be full


def test_insert_leaves_a_job_that_cannot_travel_to_a_queue_runner(
    client: Client, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(gearman: GearmanClient, jobs: Sequence[Submission]) -> list[Refused]:
        return [Refused(b"USAGE", b"it cannot travel") for _ in jobs]

    woken: list[bool] = []
    monkeypatch.setattr(GearmanClient, "submit", refuse)
    monkeypatch.setattr(client, "wake", lambda: woken.append(True))
    client.insert_job("f")
    assert rows(client) == [(State.WAITING, 1)]
    assert woken == [True]


def test_a_lost_answer_ends_the_lease_so_that_servers_are_asked(
    tmp_path: Path, seen: list[tuple[str, dict[str, Any]]]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(100) == b"status\r\n"
                connection.sendall(b".\n")
                connection.recv(65536)  # the submit, and no answer

        done = thread.submit(serve)
        with Client(sqlite_url(tmp_path), f"127.0.0.1:{listener.getsockname()[1]}") as client:
            answer = client.insert_job("f")
            done.result()
            job = client.get_job(answer)
            assert job is not None
            assert (job.state, job.attempt) == LEASED
            assert job.run_after - job.created < 10
    assert ("jobs.unknown", {"dbid": 1, "jobs": 1}) in seen


def test_a_client_that_stood_still_after_its_commit_submits_nothing(
    client: Client, address: str, now: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = Database.insert

    def slow(database: Database, *arguments: Any) -> Any:
        answers = insert(database, *arguments)
        now.seconds += 4
        return answers

    monkeypatch.setattr(Database, "insert", slow)
    client.insert_job("f")
    assert (waiting(address), rows(client)) == (0, [(State.WAITING, 1)])
    assert wakes(address) == 1


def test_what_takes_long_before_the_insert_keeps_nothing_from_being_submitted(
    client: Client, address: str, now: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Database.functions

    def slow(database: Database) -> Any:
        now.seconds += 4
        return read(database)

    monkeypatch.setattr(Database, "functions", slow)
    client.insert_job("f")
    assert waiting(address) == 1


def test_settings_that_took_too_long_to_read_leave_jobs_to_a_queue_runner(
    client: Client, address: str, now: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Database.functions

    def slow(database: Database) -> Any:
        found = read(database)
        now.seconds += 6
        return found

    monkeypatch.setattr(Database, "functions", slow)
    client.insert_job("f")
    assert waiting(address) == 0
    (job,) = client.list_jobs()
    assert job.state is State.WAITING


def test_a_database_that_fails_after_the_commit_fails_no_insert(
    client: Client, address: str, monkeypatch: pytest.MonkeyPatch, seen: list[tuple[str, dict[str, Any]]]
) -> None:
    with GearmanClient(address) as gearman:
        gearman.command(b"maxqueue f 1", block=False)

    def fail(database: Database, jobs: Any) -> None:
        raise UnreachableError("it is gone")

    monkeypatch.setattr(Database, "release", fail)
    assert len(client.insert_jobs(["f", None, None, b""] for _ in range(2))) == 2
    assert ("dispatch.failed", {"dbid": 1, "error": "it is gone"}) in seen


# ---- servers that are away


class Connections:
    """Counts the connections that a client tries to open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tried = 0
        connect = socket.create_connection

        def counted(*arguments: Any, **options: Any) -> socket.socket:
            self.tried += 1
            return connect(*arguments, **options)

        seen = SimpleNamespace(**{**vars(socket), "create_connection": counted})
        monkeypatch.setattr("garivini.gearman.blocking.socket", seen)


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> Connections:
    return Connections(monkeypatch)


def test_one_connection_serves_all_inserts(client: Client, connections: Connections) -> None:
    for _ in range(5):
        client.insert_job("f")
    client.insert_job("f", dispatch=False)
    assert connections.tried == 1


def test_the_second_server_is_used_where_the_first_is_away(tmp_path: Path, address: str) -> None:
    with Client(sqlite_url(tmp_path), f"127.0.0.1:{servers.free_port()},{address}") as client:
        client.insert_jobs(["f", None, None, b""] for _ in range(10))
        client.insert_job("f", dispatch=False)
    assert (waiting(address), wakes(address)) == (10, 1)


def test_without_a_server_inserts_go_on_and_do_not_try_it_each_time(
    tmp_path: Path, connections: Connections, now: SimpleNamespace
) -> None:
    with Client(sqlite_url(tmp_path), f"127.0.0.1:{servers.free_port()}") as client:
        for _ in range(10):
            client.insert_job("f")
        client.wake()
        assert connections.tried == 1
        now.seconds += 1
        client.insert_jobs(["f", None, None, ""] for _ in range(10))
        client.wake()
        assert connections.tried == 2
        assert rows(client) == [LEFT] * 20


def test_a_server_that_comes_back_is_used_again(tmp_path: Path, now: SimpleNamespace) -> None:
    port = servers.free_port()
    with Client(sqlite_url(tmp_path), f"127.0.0.1:{port}") as client:
        client.insert_job("f")
        with servers.embedded(port) as address:
            now.seconds += 20
            client.insert_job("f")
            assert waiting(address) == 1


def test_a_server_that_does_not_answer_holds_up_one_insert_and_not_each(
    tmp_path: Path, connections: Connections, now: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("garivini.client.server_pool.ServerPool.TIMEOUT", 0.02)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with Client(sqlite_url(tmp_path), address) as client:
            for _ in range(5):
                client.insert_job("f")
            assert connections.tried == 1
            assert rows(client) == [LEFT] * 5


def test_a_client_without_servers_submits_nothing_and_wakes_nobody(
    tmp_path: Path, connections: Connections
) -> None:
    with closing(Client(sqlite_url(tmp_path))) as client:
        client.insert_job("f")
        client.wake()
        assert rows(client) == [LEFT]
    assert connections.tried == 0


# ---- waking


def test_a_queue_runner_is_woken_once_however_many_jobs_are_left(client: Client, address: str) -> None:
    for _ in range(3):
        client.insert_job("f", dispatch=False)
    assert wakes(address) == 1


def test_a_retried_job_wakes_a_queue_runner(client: Client, address: str) -> None:
    client.retry_job(client.insert_job("f", run_after=60))
    assert wakes(address) == 1
