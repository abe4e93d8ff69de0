"""What clients can make the embedded server do and hold: no request costs more for what is there already."""

import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from garivini import events
from garivini.gearman.broker import Broker
from garivini.gearman.jobs import RECORD, Connection, Limits
from garivini.gearman.packets import REQUEST, Packet, Type, encode
from tests import servers
from tests.gearman.peer import Peer
from tests.processes import PATIENCE

MB = 1_000_000


def ask(broker: Broker, connection: Connection, kind: Type, *fields: bytes) -> None:
    broker.receive(connection, Packet(kind, list(fields)))


def name(number: int) -> bytes:
    return b"f%d" % number


# ---- time: each load is carried out for many requests and for eight times as many


def grabs(broker: Broker, count: int) -> None:
    worker = broker.join(1, b"")
    for number in range(count):
        ask(broker, worker, Type.CAN_DO, name(number))
    for _ in range(count):
        ask(broker, worker, Type.GRAB_JOB)


def a_sleeper_that_learns(broker: Broker, count: int) -> None:
    worker = broker.join(1, b"")
    ask(broker, worker, Type.PRE_SLEEP)
    for number in range(count):
        ask(broker, worker, Type.CAN_DO, name(number))


def sleeps(broker: Broker, count: int) -> None:
    worker = broker.join(1, b"")
    for number in range(count):
        ask(broker, worker, Type.CAN_DO, name(number))
    for _ in range(count):
        ask(broker, worker, Type.PRE_SLEEP)
        ask(broker, worker, Type.GRAB_JOB_UNIQ)
    for number in range(count):
        ask(broker, worker, Type.CANT_DO, name(number))


def questions(broker: Broker, count: int) -> None:
    worker = broker.join(1, b"")
    for number in range(count):
        ask(broker, worker, Type.CAN_DO, name(number))
    for number in range(count):
        ask(broker, worker, Type.GET_STATUS_UNIQUE, b"u%d" % number)


def one_unique_of_many_functions(broker: Broker, count: int) -> None:
    client, worker = broker.join(1, b""), broker.join(2, b"")
    for number in range(count):
        ask(broker, client, Type.SUBMIT_JOB, name(number), b"u", b"")
        ask(broker, worker, Type.CAN_DO, name(number))
    for _ in range(count):
        ask(broker, worker, Type.GRAB_JOB)
    for handle in list(worker.held):
        ask(broker, client, Type.GET_STATUS_UNIQUE, b"u")
        ask(broker, worker, Type.WORK_FAIL, handle)


def submits_of_one_unique(broker: Broker, count: int) -> None:
    client, worker = broker.join(1, b""), broker.join(2, b"")
    for _ in range(count):
        ask(broker, client, Type.SUBMIT_JOB, b"f", b"u", b"")
    ask(broker, worker, Type.CAN_DO, b"f")
    ask(broker, worker, Type.GRAB_JOB)
    (handle,) = worker.held
    ask(broker, worker, Type.WORK_COMPLETE, handle, b"x")


def jobs_of_many_functions(broker: Broker, count: int) -> None:
    client, worker = broker.join(1, b""), broker.join(2, b"")
    for number in range(count):
        ask(broker, worker, Type.CAN_DO, name(number))
    for number in range(count):
        ask(broker, client, Type.SUBMIT_JOB_BG, name(number), b"", b"")
        ask(broker, worker, Type.GRAB_JOB)
    ask(broker, worker, Type.RESET_ABILITIES)
    broker.leave(worker)


def many_sleepers(broker: Broker, count: int) -> None:
    workers = [broker.join(number, b"") for number in range(count)]
    for worker in workers:
        ask(broker, worker, Type.CAN_DO, b"f")
        ask(broker, worker, Type.PRE_SLEEP)
    ask(broker, workers[0], Type.SUBMIT_JOB_BG, b"f", b"", b"")
    for worker in workers:
        ask(broker, worker, Type.GRAB_JOB)
    for worker in workers:
        broker.leave(worker)


def clients_that_leave(broker: Broker, count: int) -> None:
    clients = [broker.join(number, b"") for number in range(count)]
    for client in clients:
        ask(broker, client, Type.SUBMIT_JOB, b"f", b"u", b"")
    for client in clients:
        broker.leave(client)


def cancelled_jobs(broker: Broker, count: int) -> None:
    client = broker.join(1, b"")
    for number in range(count):
        ask(broker, client, Type.SUBMIT_JOB, b"f", b"%d" % number, b"")
    for handle in list(broker.jobs):
        broker.cancel(handle)


def functions_made_and_dropped(broker: Broker, count: int) -> None:
    for number in range(count):
        broker.functions.get_or_add(name(number))
    for function in list(broker.functions.values()):
        broker.drop(function)


LOADS = [
    grabs,
    a_sleeper_that_learns,
    sleeps,
    questions,
    one_unique_of_many_functions,
    submits_of_one_unique,
    jobs_of_many_functions,
    many_sleepers,
    clients_that_leave,
    cancelled_jobs,
    functions_made_and_dropped,
]


def seconds(load: Callable[[Broker, int], None], count: int) -> float:
    """Return the CPU time of a load."""
    broker = Broker(b"H:test")
    start = time.process_time()
    load(broker, count)
    for _ in broker.outgoing():
        pass
    return time.process_time() - start


@pytest.mark.slow
@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.__name__)
def test_the_cost_of_a_request_does_not_grow_with_what_is_there(load: Callable[[Broker, int], None]) -> None:
    # What visits all for each request takes 256 times as long for 16 times as many. A busy machine makes no
    # factor of 6.
    small = min(seconds(load, 1_500) for _ in range(3))
    assert min(seconds(load, 24_000) for _ in range(2)) < 100 * small


def can_do(count: int) -> bytes:
    """Return requests that register this many functions."""
    return b"".join(encode(REQUEST, Type.CAN_DO, name(number)) for number in range(count))


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(
    "requests",
    [
        lambda: can_do(20_000) + encode(REQUEST, Type.GRAB_JOB) * 21_000,
        lambda: encode(REQUEST, Type.PRE_SLEEP) + can_do(12_000),
        lambda: can_do(20_000) + encode(REQUEST, Type.GET_STATUS_UNIQUE, b"u") * 17_000,
        lambda: encode(REQUEST, Type.SUBMIT_JOB, b"f", b"u", b"") * 100_000,
        lambda: b"status\r\nworkers\r\nshow jobs\r\n" * 10_000,
    ],
    ids=["grabs", "sleeper", "questions", "one unique", "lines"],
)
def test_others_are_served_within_2_s_while_one_asks_for_much(requests: Callable[[], bytes]) -> None:
    with servers.embedded() as address, Peer(address) as greedy, Peer(address) as other:
        greedy.socket.setblocking(False)
        unsent = memoryview(requests())
        longest = 0.0
        until = time.monotonic() + 3
        while time.monotonic() < until:
            try:
                while unsent:
                    unsent = unsent[greedy.socket.send(unsent) :]
            except BlockingIOError:
                pass
            try:
                while greedy.socket.recv(MB):
                    pass
            except BlockingIOError:
                pass
            start = time.monotonic()
            other.settle()
            longest = max(longest, time.monotonic() - start)
        assert longest < 2


# ---- memory


@contextmanager
def limited(**limits: float) -> Iterator[Callable[[], Peer]]:
    """A server with these limits; yields what makes connections to it."""
    with servers.embedded(limits=Limits(**limits)) as address, ExitStack() as stack:  # type: ignore[arg-type]
        yield lambda: stack.enter_context(Peer(address))


@pytest.mark.parametrize("limits", [{"jobs": 3}, {"job_bytes": 3003}], ids=["jobs", "bytes"])
def test_a_full_server_refuses_new_jobs_until_old_ones_have_ended(limits: dict[str, float]) -> None:
    with limited(**limits) as connect:
        client, worker = connect(), connect().can_do(b"f", b"g")
        handles = [
            client.submit(Type.SUBMIT_JOB_BG, b"f", b"%d" % number, bytes(1000)) for number in range(3)
        ]
        for kind in (Type.SUBMIT_JOB, Type.SUBMIT_JOB_HIGH_BG):
            refused = client.ask(kind, b"g", b"x", bytes(1000))
            assert refused[:2] == ("ERROR", b"QUEUE_ERROR")
        assert client.submit(Type.SUBMIT_JOB_BG, b"f", b"0", bytes(1000)) == handles[0]  # joins
        handle = worker.grab()[0]
        assert client.ask(Type.SUBMIT_JOB_BG, b"g", b"x", bytes(1000))[0] == "ERROR"
        worker.send(Type.WORK_FAIL, handle).settle()
        client.submit(Type.SUBMIT_JOB_BG, b"g", b"x", bytes(1000))


def test_idle_functions_make_room_for_new_ones_and_others_stay() -> None:
    with limited(function_bytes=10 * (RECORD + 10)) as connect:
        admin, worker = connect(), connect().can_do(b"worker")
        admin.submit(Type.SUBMIT_JOB_BG, b"queued")
        assert admin.line(b"maxqueue limited 5") == b"OK"
        for number in range(100):
            assert admin.line(b"create function new%d" % number) == b"OK"
        shown = {line.split(b"\t")[0] for line in admin.lines(b"status")}
        assert {b"worker", b"queued", b"limited", b"new99"} < shown
        assert len(shown) == 10
        for number in range(20):
            admin.send(Type.SUBMIT_JOB_BG, b"job%d" % number, b"", b"")
        answers = [admin.hear() for _ in range(20)]
        assert [answer[0] for answer in answers] == ["JOB_CREATED"] * 7 + ["ERROR"] * 13
        assert answers[-1][1] == b"INVALID_FUNCTION"
        worker.settle()


def test_registrations_of_all_workers_have_a_limit() -> None:
    with limited(registration_bytes=3 * (RECORD + 1)) as connect:
        first, second = connect().can_do(b"a", b"b", b"a"), connect().can_do(b"c")
        assert second.ask(Type.CAN_DO, b"d")[:2] == ("ERROR", b"QUEUE_ERROR")
        first.close()
        second.until(lambda admin: admin.status(b"a")[2] == 0)
        second.can_do(b"d", b"e")


def test_unfinished_requests_of_many_connections_are_bounded_together() -> None:
    begun = encode(REQUEST, Type.ECHO_REQ, bytes(2 * MB))[:MB]
    with limited(buffered=3 * MB + 500_000) as connect:
        other = connect()
        peers = [connect().raw(begun) for _ in range(8)]
        other.settle()
        for peer in peers:
            peer.socket.settimeout(PATIENCE)
        # Those that were not closed end what they began, one by one.
        ended = sum(_completes(peer, encode(REQUEST, Type.ECHO_REQ, bytes(2 * MB))[MB:]) for peer in peers)
        assert 1 <= ended <= 3
        other.settle()


def _completes(peer: Peer, rest: bytes) -> bool:
    try:
        return peer.raw(rest).hear() == ("ECHO_RES", bytes(2 * MB))
    except (EOFError, ConnectionError):
        return False


def test_unread_output_of_many_connections_is_bounded_together() -> None:
    with limited(buffered=4 * MB) as connect:
        admin, worker = connect(), connect().can_do(b"f")
        clients = [connect().called(b"client") for _ in range(5)]
        for number, client in enumerate(clients):
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.submit(Type.SUBMIT_JOB, b"f", b"%d" % number)
        for handle in [worker.grab()[0] for _ in clients]:
            for _ in range(8):
                worker.send(Type.WORK_DATA, handle, bytes(MB))
        worker.settle()
        left = sum(line.split()[2] == b"client" for line in admin.lines(b"workers"))
        assert left < 5
        worker.send(Type.CAN_DO, b"more").settle()


@pytest.mark.parametrize("begun", [encode(REQUEST, Type.ECHO_REQ, bytes(100))[:50], b"sta", b"\0RE"])
@pytest.mark.slow
def test_a_request_that_does_not_end_in_time_closes_its_connection(begun: bytes) -> None:
    with limited(patience=1) as connect:
        slow, idle = connect(), connect()
        slow.raw(begun)
        assert slow.ended() == []
        idle.settle()  # who has asked for nothing may stay


@pytest.mark.slow
def test_a_connection_that_never_reads_is_closed_in_time_and_a_slow_reader_is_not() -> None:
    with limited(patience=2) as connect:
        admin, never, slowly = connect(), connect().called(b"never"), connect().called(b"slowly")
        for peer in (never, slowly):
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.socket.setblocking(False)
            echo = memoryview(encode(REQUEST, Type.ECHO_REQ, bytes(50_000)) * 300)
            until = time.monotonic() + 1
            while time.monotonic() < until:
                try:
                    echo = echo[peer.socket.send(echo) :]
                except BlockingIOError:
                    admin.settle()
        slowly.socket.settimeout(PATIENCE)
        names = {b"never", b"slowly"}
        while b"never" in names:
            slowly.socket.recv(30_000)
            admin.settle()
            time.sleep(0.1)
            names = {line.split()[2] for line in admin.lines(b"workers")}
        assert b"slowly" in names


# ---- connections


def test_connections_above_the_limit_wait_until_one_is_closed() -> None:
    seen: list[dict[str, object]] = []
    stop = events.listen(lambda name, fields: seen.append(fields) if name == "server.full" else None)
    try:
        with limited(connections=3) as connect:
            first = [connect().settle() for _ in range(3)]
            waiting = [connect().send(Type.ECHO_REQ, b"x") for _ in range(3)]
            first[0].settle()
            for peer, next_peer in zip(first, waiting, strict=True):
                peer.close()
                assert next_peer.hear() == ("ECHO_RES", b"x")
    finally:
        stop()
    assert [fields["connections"] for fields in seen] == [3]


@pytest.mark.slow
def test_a_server_without_file_descriptors_says_so_once_and_recovers() -> None:
    seen: list[dict[str, object]] = []
    stop = events.listen(lambda name, fields: seen.append(fields) if name == "server.full" else None)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        with servers.embedded() as address, ExitStack() as stack:  # which also sees that nothing was logged
            there = stack.enter_context(Peer(address)).settle()
            host, port = address.split(":")
            clients = [stack.enter_context(socket.socket()) for _ in range(20)]
            # Descriptors are given out from the lowest: there is none left below this one.
            spare = stack.enter_context(socket.socket())
            resource.setrlimit(resource.RLIMIT_NOFILE, (spare.fileno() + 1, hard))
            for client in clients:
                client.settimeout(PATIENCE)
                client.connect((host, int(port)))
                client.sendall(b"version\r\n")
            there.until(lambda _: bool(seen))
            there.settle()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for client in clients:
                assert client.recv(100).startswith(b"OK ")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        stop()
    assert len(seen) == 1
    assert "open files" in str(seen[0]["reason"])
