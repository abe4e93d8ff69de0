import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from msgspec.structs import replace

from garivini.errors import OutcomeUnknownError, RefusedError, UnreachableError, UsageError
from garivini.gearman import admin, aio, connection
from garivini.gearman.aio.client import _ClientConnection
from garivini.gearman.packets import REQUEST, RESPONSE, Type, encode
from garivini.gearman.protocol import (
    Created,
    JobStatus,
    Priority,
    Refused,
    Submission,
    Unknown,
    Unsent,
    Update,
)
from garivini.gearman.server import Server
from tests.gearman.peer import Peer
from tests.processes import PATIENCE
from tests.servers import free_port

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def lying_server(talk: Talk) -> AsyncIterator[str]:
    """A server that does as the test says."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def job(number: int, unique: bytes = b"") -> Submission:
    return Submission(b"f", b"%d" % number, unique)


class ForeignTransport(asyncio.BaseTransport):
    """As uvloop's is: it can all that a transport can, and is none of asyncio's ``Transport``."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.socket = socket.socket()

    def write(self, data: bytes) -> None:
        self.written += data

    def get_extra_info(self, name: str, default: object = None) -> socket.socket:
        return self.socket


async def test_a_connection_comes_up_on_the_transport_of_another_loop() -> None:
    found = _ClientConnection(10.0)
    found.echo()
    transport = ForeignTransport()
    found.connection_made(transport)
    await asyncio.sleep(0)
    assert transport.written == encode(REQUEST, Type.ECHO_REQ, b"")
    found.connection_lost(None)
    transport.socket.close()


async def test_a_pipelined_submit_has_one_result_a_job_in_order(gearman_server: str) -> None:
    client = aio.Client(gearman_server)
    jobs = [job(number) for number in range(5000)]
    jobs[17] = job(17, b"x" * 64)
    jobs[18] = Submission(b"two\nlines", b"")
    results = await client.submit(jobs)
    assert len(results) == 5000
    assert [index for index, result in enumerate(results) if not isinstance(result, Created)] == [17, 18]
    assert isinstance(results[17], Refused)
    status = (await client.functions())[b"f"]
    assert (status.total, status.running, status.workers, status.queued) == (4998, 0, 0, 4998)
    await client.close()


async def test_a_job_that_the_server_refuses_is_refused_alone(gearman_server: str) -> None:
    client = aio.Client(gearman_server)
    assert await client.command(b"create function f", block=False) == [b"OK"]
    assert await client.command(b"maxqueue f 3", block=False) == [b"OK"]
    results = await client.submit([job(number) for number in range(5)] + [Submission(b"g", b"")])
    kinds = [type(result) for result in results]
    assert kinds == [Created] * 3 + [Refused] * 2 + [Created]
    assert isinstance(results[3], Refused)
    assert results[3].code == b"QUEUE_ERROR"
    await client.close()


async def test_concurrent_submits_share_a_connection(gearman_server: str) -> None:
    client = aio.Client(gearman_server)
    batches = await asyncio.gather(
        *(client.submit([job(number) for number in range(size)]) for size in (1, 700, 2500, 3))
    )
    assert [len(batch) for batch in batches] == [1, 700, 2500, 3]
    assert all(isinstance(result, Created) for batch in batches for result in batch)
    await client.close()


async def test_what_was_under_way_is_unknown_and_the_rest_unsent_when_the_server_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(12)
        writer.write(encode(RESPONSE, Type.JOB_CREATED, b"H:1") + encode(RESPONSE, Type.ERROR, b"E", b"no"))
        await writer.drain()
        writer.close()

    async with lying_server(talk) as address:
        client = aio.Client(address)
        results = await client.submit([job(number) for number in range(6000)])
        assert results[:2] == [Created(b"H:1"), Refused(b"E", b"no")]
        kinds = [type(result) for result in results[2:]]
        unknown = kinds.count(Unknown)
        assert unknown > 0
        assert kinds == [Unknown] * unknown + [Unsent] * (5998 - unknown)
        assert unknown <= 2500
        await client.close()


@pytest.mark.slow
async def test_a_server_that_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_TICK", 0.01)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with lying_server(talk) as address:
        client = aio.Client(address, timeout=0.3)  # which is the time to connect, too
        assert await client.submit([job(1)]) == [Unknown()]
        with pytest.raises(UnreachableError, match="connection was lost"):
            await client.functions()
        with pytest.raises(OutcomeUnknownError):
            await client.run(job(1))
        await client.close()


async def test_an_idle_connection_is_asked_for_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a worker behind a dropped connection would wait for hours."""
    monkeypatch.setattr(connection, "_TICK", 0.01)
    asked = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            header = await reader.readexactly(12)
            await reader.readexactly(int.from_bytes(header[8:], "big"))
            asked.append(Type(int.from_bytes(header[4:8], "big")))
            if asked[-1] is Type.GRAB_JOB_UNIQ:
                writer.write(encode(RESPONSE, Type.NO_JOB))

    async with lying_server(talk) as address:
        worker = aio.Worker(address, [b"f"], lambda held: None, timeout=0.2)
        running = asyncio.create_task(worker.run())
        async with asyncio.timeout(PATIENCE):
            # Silent, given up, and connected to again.
            while asked.count(Type.CAN_DO) < 2:
                await asyncio.sleep(0.01)
        first = asked[: asked.index(Type.CAN_DO, 1)]
        assert first[:3] == [Type.CAN_DO, Type.GRAB_JOB_UNIQ, Type.PRE_SLEEP]
        assert Type.ECHO_REQ in first
        worker.abort()
        await running


async def test_nonsense_from_a_server_ends_the_connection_and_nothing_else() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async with lying_server(talk) as address:
        client = aio.Client(address)
        assert await client.submit([job(1)]) == [Unknown()]
        await client.close()


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Do as a proxy does whose server is down: accept, and close."""


async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Do as a server of another protocol does."""
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@asynccontextmanager
async def counting_server(talk: Talk) -> AsyncIterator[tuple[str, list[int]]]:
    """A server that does as the test says, and how many connections it has had."""
    connections = [0]

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections[0] += 1
        await talk(reader, writer)

    async with lying_server(count) as address:
        yield address, connections


@pytest.mark.slow
def test_a_worker_backs_off_from_what_accepts_and_does_not_answer(caplog: pytest.LogCaptureFixture) -> None:
    async def connections(talk: Talk, slots: int) -> int:
        async with counting_server(talk) as (address, count):
            worker = aio.Worker(address, [b"f"], lambda held: None, slots=slots)
            running = asyncio.create_task(worker.run())
            await asyncio.sleep(1.5)
            while count[0] < 2:
                await asyncio.sleep(0.01)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            return count[0]

    async def scenario() -> list[int]:
        cases = [(talk, slots) for talk in (hang_up, babble) for slots in (0, 1)]
        return await asyncio.gather(*(connections(*case) for case in cases))

    # Doubling from 0.05 to 0.1 s: at most 0.05, 0.1, 0.2, 0.4, 0.8. Without it there are 15 to 30.
    for count in asyncio.run(scenario()):
        assert 2 <= count <= 6
    assert caplog.text.count("gearman.unreachable") == 4
    assert "gearman.connected" not in caplog.text
    assert "gearman.lost" not in caplog.text


@pytest.mark.slow
def test_a_client_backs_off_from_what_accepts_and_does_not_answer() -> None:
    async def connections(talk: Talk) -> int:
        async with counting_server(talk) as (address, count):
            client = aio.Client(address)
            end = asyncio.get_running_loop().time() + 1.5
            while asyncio.get_running_loop().time() < end or count[0] < 2:
                with suppress(UnreachableError):
                    await client.functions()
                await asyncio.sleep(0.01)
            await client.close()
            return count[0]

    async def scenario() -> list[int]:
        return list(await asyncio.gather(connections(hang_up), connections(babble)))

    for count in asyncio.run(scenario()):
        assert 2 <= count <= 6


async def test_a_client_connects_again_at_once_after_a_connection_that_has_answered() -> None:
    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(12)
        writer.write(encode(RESPONSE, Type.ECHO_RES, b""))

    async with lying_server(answer_once) as address:
        client = aio.Client(address)
        for _ in range(5):
            await client.echo()
            while client.connected:
                await asyncio.sleep(0)
        await client.close()


async def test_a_server_that_is_not_there_is_unreachable_and_says_so() -> None:
    address = f"127.0.0.1:{free_port()}"
    client = aio.Client(address)
    with pytest.raises(UnreachableError, match=rf"{address} cannot be reached: Connection refused"):
        await client.submit([job(1)])
    # For a moment it is not even tried.
    with pytest.raises(UnreachableError, match="a moment ago"):
        await client.functions()


async def test_a_client_connects_again_after_the_server_has_been_restarted() -> None:
    async with Server(port=free_port()) as server:
        client = aio.Client(server.address)
        await client.echo()
    host, port = server.address.split(":")
    async with Server(host, int(port)):
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await client.echo()
                    break
                except UnreachableError:
                    await asyncio.sleep(0.02)
        await client.close()


async def test_a_foreground_job_returns_its_result_and_its_reports(gearman_server: str) -> None:
    def work(held: aio.Held) -> None:
        if held.job.data == b"fail":
            held.fail()
        else:
            held.complete(held.job.data.upper())

    worker = aio.Worker(gearman_server, [b"f"], work)
    running = asyncio.create_task(worker.run())
    client = aio.Client(gearman_server)
    updates: list[Update] = []
    assert await client.run(Submission(b"f", b"data"), on_update=updates.append) == b"DATA"
    with pytest.raises(RefusedError, match="the worker failed"):
        await client.run(Submission(b"f", b"fail"))
    with pytest.raises(UsageError):
        await client.run(Submission(b"", b""))
    await worker.drain()
    await running
    await client.close()


async def test_jobs_are_asked_for_by_their_uniques_in_one_trip(gearman_server: str) -> None:
    client = aio.Client(gearman_server)
    held = asyncio.Queue[aio.Held]()
    worker = aio.Worker(gearman_server, [b"f"], held.put_nowait)
    running = asyncio.create_task(worker.run())
    await client.submit([job(1, b"1:1:1")])
    first = await held.get()
    await client.submit([job(2, b"1:2:1")])
    statuses = await client.status([b"1:1:1", b"1:2:1", b"1:3:1"])
    assert [(status.known, status.running) for status in statuses] == [
        (True, True),
        (True, False),
        (False, False),
    ]
    first.complete()
    await held.get()
    assert [status.known for status in await client.status([b"1:1:1"])] == [False]
    worker.abort()
    await running
    await client.close()


async def test_a_worker_holds_as_many_jobs_as_it_has_slots(gearman_server: str) -> None:
    held = asyncio.Queue[aio.Held]()
    worker = aio.Worker(gearman_server, [b"f"], held.put_nowait, slots=3, client_id=b"me:1")
    running = asyncio.create_task(worker.run())
    client = aio.Client(gearman_server)
    await client.submit([job(number) for number in range(6)])
    first = [await held.get() for _ in range(3)]
    assert (await client.functions())[b"f"].running == 3
    (itself,) = [entry for entry in await client.workers() if entry.functions]
    assert (itself.client_id, itself.functions) == ("me:1", (b"f",))
    worker.slots = 4
    await held.get()
    worker.slots = 1
    for one in first:
        one.complete()
    await client.echo()
    assert held.empty()
    worker.abort()
    await running
    await client.close()


async def test_draining_waits_for_what_is_held_and_takes_no_more(gearman_server: str) -> None:
    held = asyncio.Queue[aio.Held]()
    worker = aio.Worker(gearman_server, [b"f"], held.put_nowait)
    running = asyncio.create_task(worker.run())
    client = aio.Client(gearman_server)
    await client.submit([job(number) for number in range(2)])
    first = await held.get()
    draining = asyncio.create_task(worker.drain())
    await client.echo()
    assert not draining.done()
    first.complete()
    await draining
    await running
    assert held.empty()
    async with asyncio.timeout(PATIENCE):
        # What the worker wrote last the server may read after this question.
        while (status := (await client.functions())[b"f"]).total > 1:
            await asyncio.sleep(0.01)
    assert (status.total, status.running) == (1, 0)
    await client.close()


async def test_a_worker_comes_back_after_a_restart_and_says_nothing_of_old_jobs() -> None:
    held = asyncio.Queue[aio.Held]()
    async with Server(port=free_port()) as server:
        worker = aio.Worker(server.address, [b"f"], held.put_nowait)
        running = asyncio.create_task(worker.run())
        client = aio.Client(server.address)
        await client.submit([job(1)])
        old = await held.get()
        await client.close()
    host, port = server.address.split(":")
    async with Server(host, int(port)):
        client = aio.Client(server.address)
        await client.submit([job(2)])
        new = await held.get()
        assert old.disconnected
        old.complete(b"nobody hears this")
        old.fail()
        assert (await client.functions())[b"f"].running == 1
        new.complete()
        await client.echo()
        worker.abort()
        await running
        await client.close()


async def test_options_and_administrative_lines_travel_on_the_same_connection(gearman_server: str) -> None:
    client = aio.Client(gearman_server)
    await client.option(b"exceptions")
    with pytest.raises(RefusedError, match="UNKNOWN_OPTION"):
        await client.option(b"no-such-option")
    with pytest.raises(RefusedError):
        await client.command(b"show no-such-thing", block=False)
    (version,) = await client.command(b"version", block=False)
    assert version.startswith(b"OK ")
    assert client.connected
    await client.close()
    assert not client.connected


async def test_a_foreground_jobs_reports_and_exception_reach_its_client(gearman_server: str) -> None:
    def work(held: aio.Held) -> None:
        held.report(Type.WORK_STATUS, b"1", b"4")
        held.report(Type.WORK_DATA, b"part")
        held.report(Type.WORK_WARNING, b"careful")
        held.exception(b"what went wrong")

    worker = aio.Worker(gearman_server, [b"f"], work)
    running = asyncio.create_task(worker.run())
    client = aio.Client(gearman_server)
    await client.option(b"exceptions")
    updates: list[Update] = []
    with pytest.raises(RefusedError, match="what went wrong"):
        await client.run(Submission(b"f", b""), on_update=updates.append)
    assert updates == [
        Update(Type.WORK_STATUS, [b"1", b"4"]),
        Update(Type.WORK_DATA, [b"part"]),
        Update(Type.WORK_WARNING, [b"careful"]),
    ]
    worker.abort()
    await running
    await client.close()


async def test_progress_is_asked_for_by_handle(gearman_server: str) -> None:
    held = asyncio.Queue[aio.Held]()
    worker = aio.Worker(gearman_server, [b"f"], held.put_nowait)
    running = asyncio.create_task(worker.run())
    client = aio.Client(gearman_server)
    (created,) = await client.submit([job(1)])
    assert isinstance(created, Created)
    one = await held.get()
    one.report(Type.WORK_STATUS, b"2", b"5")
    async with asyncio.timeout(PATIENCE):
        while (status := await client.status_of(created.handle)).denominator == 0:
            await asyncio.sleep(0.01)  # the report travels on another connection
    assert status == JobStatus(True, True, 2, 5)
    with pytest.raises(UsageError, match="at most 63"):
        await client.status_of(b"H" * 64)
    worker.abort()
    await running
    await client.close()


async def test_no_name_of_a_function_costs_others_their_connection(gearman_server: str) -> None:
    # gearmand shows the names raw, and a line of this one ends the list.
    with Peer(gearman_server) as worker:
        worker.can_do(b"a\n.\nb", b"f")
        client = aio.Client(gearman_server)
        for number in range(3):
            await client.functions()
            await client.workers()
            assert isinstance((await client.submit([job(number)]))[0], Created)
        assert client.generation == 1
        await client.close()


async def test_the_administrative_commands_answer_what_they_should(gearman_server: str) -> None:
    client = aio.Client(gearman_server)
    jobs = [job(1), replace(job(2), priority=Priority.HIGH), replace(job(3), priority=Priority.LOW)]
    created = await client.submit(jobs)
    waiting = admin.parse_priority_status(await client.command(b"prioritystatus"))[b"f"]
    assert waiting == (1, 1, 1, 0)
    held = admin.parse_jobs(await client.command(b"show jobs"))
    assert {one.handle for one in held} == {one.handle for one in created if isinstance(one, Created)}
    assert await client.command(admin.max_queue(b"f", 3), block=False) == [b"OK"]
    assert isinstance((await client.submit([job(4)]))[0], Refused)
    assert await client.command(admin.cancel_job(held[0].handle), block=False) == [b"OK"]
    with pytest.raises(RefusedError, match="UNKNOWN_JOB"):
        await client.command(admin.cancel_job(b"H:none:1"), block=False)
    with pytest.raises(UsageError):
        admin.cancel_job(b"two words")
    await client.close()
