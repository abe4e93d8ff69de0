"""Where the embedded server means to do better than gearmand, and what only it has."""

import asyncio
import re
import socket
from collections.abc import Callable
from contextlib import suppress

import pytest

from garivini.errors import RefusedError, UsageError
from garivini.gearman.admin import escape, parse_priority_status, parse_status, parse_workers, unescape
from garivini.gearman.packets import Type
from garivini.gearman.server import Server
from tests import servers
from tests.gearman.peer import Peer

Connect = Callable[[], Peer]


# ---- no job is lost or done twice


@pytest.mark.parametrize("first", [Type.SUBMIT_JOB, Type.SUBMIT_JOB_BG])
def test_a_background_job_outlives_the_foreground_client_that_shares_it(
    embedded_peer: Connect, first: Type
) -> None:
    # gearmand drops the job with the last foreground client, though the other submitter has its handle.
    foreground, background = embedded_peer().called(b"foreground"), embedded_peer()
    submits = [(foreground, Type.SUBMIT_JOB), (background, Type.SUBMIT_JOB_BG)]
    if first is Type.SUBMIT_JOB_BG:
        submits.reverse()
    handle, again = (peer.submit(kind, b"f", b"u") for peer, kind in submits)
    assert handle == again
    foreground.close()
    background.until_gone(b"foreground")
    assert embedded_peer().can_do(b"f").grab()[0] == handle


@pytest.mark.parametrize("request_fields", [(Type.CANT_DO, b"f"), (Type.RESET_ABILITIES,)])
def test_a_running_job_stays_with_its_worker_when_the_ability_goes(
    embedded_peer: Connect, request_fields: tuple[Type, *tuple[bytes, ...]]
) -> None:
    # gearmand queues it again at once, so it runs twice.
    client, worker, other = embedded_peer(), embedded_peer().can_do(b"f"), embedded_peer().can_do(b"f")
    handle = client.submit(Type.SUBMIT_JOB, b"f")
    worker.grab()
    worker.send(*request_fields).settle()
    assert other.grab() == (b"", b"")
    worker.send(Type.WORK_COMPLETE, handle, b"once")
    assert client.hear() == ("WORK_COMPLETE", handle, b"once")


def test_a_unique_of_64_bytes_is_refused(embedded_peer: Connect) -> None:
    # gearmand takes it, cuts it, and puts a NUL byte before the payload.
    client = embedded_peer()
    assert client.ask(Type.SUBMIT_JOB_BG, b"f", b"u" * 64, b"d")[:2] == ("ERROR", b"ARGUMENT_TOO_LARGE")
    assert client.status(b"f")[0] == 0


def test_the_client_of_a_dropped_function_hears_a_failure(embedded_peer: Connect) -> None:
    # gearmand tells nobody: the client waits for ever, and the handle stays known.
    client, admin = embedded_peer(), embedded_peer()
    handle = client.submit(Type.SUBMIT_JOB, b"f", b"u")
    assert admin.line(b"drop function f") == b"OK"
    assert client.hear() == ("WORK_FAIL", handle)
    assert admin.lines(b"show jobs") == []
    assert client.submit(Type.SUBMIT_JOB, b"f", b"u") != handle


def test_a_handle_is_the_host_and_a_number(embedded_peer: Connect) -> None:
    # Clients take it apart: pecl-gearman's tests do.
    handle = embedded_peer().submit(Type.SUBMIT_JOB_BG, b"f").decode()
    assert re.fullmatch(rf"H:{re.escape(socket.gethostname())}:\d+", handle)


def test_handles_differ_from_those_before_a_restart() -> None:
    # gearmand counts from 1 again, so a late answer can end another job.
    handles = set()
    for _ in range(2):
        with servers.embedded() as address, Peer(address) as client:
            handles.add(client.submit(Type.SUBMIT_JOB_BG, b"f"))
    assert len(handles) == 2


def test_dead_workers_can_be_forgiven_for_ever() -> None:
    with servers.embedded(job_retries=0) as address, Peer(address) as client:
        handle = client.submit(Type.SUBMIT_JOB_BG, b"f")
        for _ in range(10):
            with Peer(address) as worker:
                assert worker.can_do(b"f").grab()[0] == handle
            client.until(lambda admin: admin.status(b"f") == (1, 0, 0))


def test_a_dead_workers_jobs_keep_their_order_and_begin_anew(embedded_peer: Connect) -> None:
    # gearmand turns the order round, and shows the dead worker's progress.
    client, worker = embedded_peer(), embedded_peer().can_do(b"f")
    handles = [client.submit(Type.SUBMIT_JOB_BG, b"f") for _ in range(4)]
    for handle in handles:
        worker.grab()
        worker.send(Type.WORK_STATUS, handle, b"1", b"2")
    worker.settle().close()
    client.until(lambda admin: admin.status(b"f") == (4, 0, 0))
    assert client.ask(Type.GET_STATUS, handles[0])[2:] == (b"1", b"0", b"0", b"0")
    heir = embedded_peer().can_do(b"f")
    assert [heir.grab()[0] for _ in handles] == handles


# ---- who is served when


def test_priority_holds_over_all_functions_of_a_worker(embedded_peer: Connect) -> None:
    # gearmand before 2.0 empties one function before it looks at the urgent jobs of the next.
    client, worker = embedded_peer(), embedded_peer().can_do(b"f", b"g")
    jobs = [
        (Type.SUBMIT_JOB_LOW_BG, b"f"),
        (Type.SUBMIT_JOB_BG, b"g"),
        (Type.SUBMIT_JOB_HIGH_BG, b"f"),
        (Type.SUBMIT_JOB_HIGH_BG, b"g"),
    ]
    low, normal, high_f, high_g = (client.submit(*job) for job in jobs)
    assert [worker.grab()[0] for _ in jobs] == [high_f, high_g, normal, low]


@pytest.mark.parametrize("kind", [Type.SUBMIT_JOB_HIGH_BG, Type.SUBMIT_JOB_BG, Type.SUBMIT_JOB_LOW_BG])
def test_functions_of_a_worker_take_turns_within_a_priority(embedded_peer: Connect, kind: Type) -> None:
    client, worker = embedded_peer(), embedded_peer().can_do(b"f", b"g", b"h")
    for number in range(300):
        client.submit(kind, b"f", b"", b"f%d" % number)
    for function in (b"g", b"h", b"g"):
        client.submit(kind, function, b"", function)
    got = [worker.grab()[1] for _ in range(6)]
    assert sorted(got[:3]) == [b"f0", b"g", b"h"]
    assert sorted(got[3:]) == [b"f1", b"f2", b"g"]


def test_a_function_that_gets_a_job_now_and_then_has_its_turn_each_time(embedded_peer: Connect) -> None:
    client, worker = embedded_peer(), embedded_peer().can_do(b"f", b"g", b"idle")
    for _ in range(100):
        client.submit(Type.SUBMIT_JOB_BG, b"f")
    for _ in range(20):
        rare = client.submit(Type.SUBMIT_JOB_BG, b"g")
        assert rare in {worker.grab()[0], worker.grab()[0]}


def test_turns_are_each_workers_own(embedded_peer: Connect) -> None:
    client = embedded_peer()
    workers = [embedded_peer().can_do(b"f", b"g") for _ in range(3)]
    for function in (b"f", b"g"):
        for _ in range(6):
            client.submit(Type.SUBMIT_JOB_BG, function, b"", function)
    for worker in workers:
        assert {worker.grab()[1], worker.grab()[1]} == {b"f", b"g"}


def test_a_worker_that_registers_twice_counts_once(embedded_peer: Connect) -> None:
    # gearmand counts it twice, and a status that is watched for idle workers is wrong.
    worker = embedded_peer().can_do(b"f", b"f")
    assert worker.status(b"f") == (0, 0, 1)
    worker.send(Type.CANT_DO, b"f").settle()
    assert worker.status(b"f") == (0, 0, 0)


def test_a_sleeper_that_learns_a_function_is_woken_for_its_jobs(embedded_peer: Connect) -> None:
    # gearmand lets it sleep until the next submit.
    client, worker = embedded_peer(), embedded_peer().can_do(b"f").send(Type.PRE_SLEEP)
    first = client.submit(Type.SUBMIT_JOB_BG, b"g")
    worker.settle()
    assert worker.ask(Type.CAN_DO, b"g") == ("NOOP",)
    assert worker.grab()[0] == first
    worker.send(Type.PRE_SLEEP).can_do(b"h")
    client.submit(Type.SUBMIT_JOB_BG, b"h")
    assert worker.hear() == ("NOOP",)


def test_a_worker_that_sleeps_on_after_a_wake_up_is_woken_again(embedded_peer: Connect) -> None:
    # gearmand wakes it no more until it has grabbed: its job waits for hours if no other worker is there.
    client, sleeper, busy = embedded_peer(), embedded_peer().can_do(b"f"), embedded_peer().can_do(b"f")
    sleeper.send(Type.PRE_SLEEP).settle()
    client.submit(Type.SUBMIT_JOB_BG, b"f")
    assert sleeper.hear() == ("NOOP",)
    busy.grab()
    sleeper.send(Type.PRE_SLEEP).settle()
    client.submit(Type.SUBMIT_JOB_BG, b"f")
    assert sleeper.hear() == ("NOOP",)


def test_a_worker_does_not_hear_of_functions_it_gave_up(embedded_peer: Connect) -> None:
    client, worker = embedded_peer(), embedded_peer().can_do(b"f", b"g").send(Type.PRE_SLEEP)
    worker.send(Type.CANT_DO, b"f").settle()
    client.submit(Type.SUBMIT_JOB_BG, b"f")
    worker.settle()
    client.submit(Type.SUBMIT_JOB_BG, b"g")
    assert worker.hear() == ("NOOP",)


# ---- every request has an answer


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Type.SUBMIT_JOB_EPOCH, [b"f", b"u", b"1", b"d"]),
        (Type.SUBMIT_JOB_SCHED, [b"f", b"u", b"0", b"0", b"0", b"0", b"0", b"d"]),
        (Type.SUBMIT_REDUCE_JOB, [b"f", b"u", b"r", b"d"]),
        (Type.SUBMIT_REDUCE_JOB_BACKGROUND, [b"f", b"u", b"r", b"d"]),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    embedded_peer: Connect, kind: Type, fields: list[bytes]
) -> None:
    client = embedded_peer()
    name, code, text = client.ask(kind, *fields)
    assert (name, code) == ("ERROR", b"NOT_SUPPORTED")
    assert kind.name.encode() in text
    client.settle()


@pytest.mark.parametrize("handle", [b"x" * 64, b"x" * 1000, b"a\0b"])
def test_status_of_an_impossible_handle_is_unknown(embedded_peer: Connect, handle: bytes) -> None:
    # gearmand closes the connection without a word. A NUL must not shift the fields of the answer.
    client = embedded_peer()
    name, _, *rest = client.ask(Type.GET_STATUS, handle)
    assert (name, rest) == ("STATUS_RES", [b"0"] * 4)
    name, _, *rest = client.ask(Type.GET_STATUS_UNIQUE, handle)
    assert (name, rest) == ("STATUS_RES_UNIQUE", [b"0"] * 5)


@pytest.mark.parametrize("name", [b"x" * 8001, b"x" * 100_000])
def test_a_function_name_that_no_server_takes_is_refused(embedded_peer: Connect, name: bytes) -> None:
    both = embedded_peer()
    assert both.ask(Type.SUBMIT_JOB_BG, name, b"", b"")[:2] == ("ERROR", b"INVALID_FUNCTION")
    assert both.ask(Type.CAN_DO, name)[:2] == ("ERROR", b"INVALID_FUNCTION")
    assert both.ask(Type.CAN_DO, b"a\0b")[:2] == ("ERROR", b"INVALID_FUNCTION")
    assert both.lines(b"status") == []


#: What gearmand shows raw: each would end a line, forge one, or be taken for another's name.
STRANGE = [
    b"a\nb",
    b"a\r",
    b"\n",
    b"f\t9\t9\t9\ng",
    b"x\n.\ny",
    b"a\\x0ab",
    b"\\x5c",
    b".",
    b"a b",
    b"a\tb",
    b"",
]


def test_function_names_cannot_forge_a_line_of_status_or_workers(embedded_peer: Connect) -> None:
    admin, worker = embedded_peer(), embedded_peer().can_do(*STRANGE)
    client = embedded_peer()
    for number, name in enumerate(STRANGE):
        for _ in range(number + 1):
            client.submit(Type.SUBMIT_JOB_BG, name)
    shown = parse_status(admin.lines(b"status"))
    assert {name: status.total for name, status in shown.items()} == {
        name: number + 1 for number, name in enumerate(STRANGE)
    }
    assert set(parse_priority_status(admin.lines(b"prioritystatus"))) == set(STRANGE)
    worker.called(b"worker")
    (line,) = (line for line in admin.lines(b"workers") if b" worker :" in line)
    assert set(parse_workers([line])[0].functions) == set(STRANGE) - {b""}


def test_a_unique_cannot_end_the_list_of_uniques(embedded_peer: Connect) -> None:
    admin = embedded_peer()
    for unique in (b".", b"a\nb"):
        admin.submit(Type.SUBMIT_JOB_BG, b"f", unique)
    assert [unescape(line) for line in admin.lines(b"show unique jobs")] == [b".", b"a\nb"]


@pytest.mark.parametrize("name", [b"a b", b"a\nb", b"a\\x20b"])
def test_a_function_is_created_limited_and_dropped_by_its_escaped_name(
    embedded_peer: Connect, name: bytes
) -> None:
    admin = embedded_peer()
    shown = escape(name, word=True)
    assert admin.line(b"create function " + shown) == b"OK"
    assert admin.line(b"maxqueue " + shown + b" 1") == b"OK"
    admin.submit(Type.SUBMIT_JOB_BG, name)
    assert admin.ask(Type.SUBMIT_JOB_BG, name, b"", b"")[:2] == ("ERROR", b"QUEUE_ERROR")
    assert admin.line(b"drop function " + shown) == b"OK"
    assert admin.lines(b"status") == []


def test_a_client_id_cannot_forge_a_line_of_workers(embedded_peer: Connect) -> None:
    peer = embedded_peer().called(b"a b\n1 ::1 x : f\n." + b"y" * 200)
    (line,) = (line for line in peer.lines(b"workers"))
    assert line.split(b" ")[2:] == [b"a_b_1_::1_x_:_f_." + b"y" * 110, b":"]


def test_progress_that_is_no_number_counts_as_zero(embedded_peer: Connect) -> None:
    client, worker = embedded_peer(), embedded_peer().can_do(b"f")
    handle = client.submit(Type.SUBMIT_JOB_BG, b"f")
    worker.grab()
    worker.send(Type.WORK_STATUS, handle, b"half", b"9" * 5000).settle()
    assert client.ask(Type.GET_STATUS, handle) == ("STATUS_RES", handle, b"1", b"1", b"0", b"0")


# ---- administrative lines


def test_a_cancelled_job_is_gone_at_once(embedded_peer: Connect) -> None:
    # gearmand counts it, and knows its handle, until a worker comes to it in the queue.
    client = embedded_peer()
    handle = client.submit(Type.SUBMIT_JOB_BG, b"f", b"u")
    assert client.line(b"cancel job " + handle) == b"OK"
    assert client.status(b"f") == (0, 0, 0)
    assert client.ask(Type.GET_STATUS, handle)[2] == b"0"
    assert client.submit(Type.SUBMIT_JOB_BG, b"f", b"u") != handle


def test_a_limit_may_be_set_before_the_first_job(embedded_peer: Connect) -> None:
    # gearmand says OK and forgets it.
    client = embedded_peer()
    assert client.line(b"maxqueue f 1") == b"OK"
    client.submit(Type.SUBMIT_JOB_BG, b"f")
    assert client.ask(Type.SUBMIT_JOB_BG, b"f", b"", b"")[:2] == ("ERROR", b"QUEUE_ERROR")


@pytest.mark.parametrize(
    "text", [b"maxqueue f x", b"maxqueue f 1 2", b"create function a\\x00b", b"cancel job"]
)
def test_a_command_with_a_wrong_argument_does_nothing(embedded_peer: Connect, text: bytes) -> None:
    admin = embedded_peer()
    assert admin.line(text).startswith(b"ERR ")
    assert admin.lines(b"status") == []


def test_a_bare_newline_ends_a_command(embedded_peer: Connect) -> None:
    # gearmand cuts two bytes whatever they are, and makes a function of another name.
    admin = embedded_peer()
    assert admin.raw(b"create function long\n").text() == b"OK"
    assert admin.lines(b"status") == [b"long\t0\t0\t0"]


# ---- the server itself


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.1", "example.com", "127.0.0.1.example.com"])
def test_it_listens_on_no_address_that_other_machines_can_reach(host: str) -> None:
    with pytest.raises(UsageError, match="no authentication"):
        Server(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost"])
def test_it_listens_on_loopback_addresses(host: str) -> None:
    with servers.embedded(host=host) as address, Peer(address) as client:
        assert address.startswith("127.")
        client.settle()


def test_an_ipv6_address_is_written_with_brackets() -> None:
    assert Server("::1", 4730).address == "[::1]:4730"


@pytest.mark.parametrize("wrong", [{"port": -1}, {"port": 65536}, {"job_retries": -1}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        Server(**wrong)  # type: ignore[arg-type]


def test_a_port_that_is_taken_is_named() -> None:
    with servers.embedded() as address:
        port = int(address.rsplit(":", 1)[1])
        with pytest.raises(RefusedError, match=f"127.0.0.1:{port}"), servers.embedded(port=port):
            pass


def test_it_starts_once() -> None:
    async def run() -> None:
        async with Server(port=0) as server:
            with pytest.raises(UsageError, match="started"):
                await server.start()

    asyncio.run(run())


def test_closing_ends_every_connection_and_frees_the_port() -> None:
    async def run() -> str:
        server = Server(port=0)
        serving = asyncio.create_task(server.serve_forever())
        while server.address.endswith(":0"):
            await asyncio.sleep(0)
        host, port = server.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"version\r\n")
        assert await reader.readline()
        await server.close()
        assert not server._links
        await serving
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        return server.address

    with pytest.raises(ConnectionRefusedError):
        Peer(asyncio.run(run()))


def test_a_cancelled_server_has_closed() -> None:
    async def run() -> str:
        server = Server(port=0)
        await server.start()
        serving = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0)
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
        return server.address

    with pytest.raises(ConnectionRefusedError):
        Peer(asyncio.run(run()))
