"""What the embedded server does about bad streams, and about connections that do not read."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Self

import pytest

from garivini.gearman.packets import REQUEST, RESPONSE, Type, encode
from garivini.gearman.server import UNREAD, Server
from tests import servers
from tests.gearman.peer import Peer

Connect = Callable[[], Peer]


@pytest.mark.parametrize(
    "data",
    [
        b"\0RES" + bytes(8),
        b"\0REQ\0\0\0\x63" + bytes(4),
        encode(REQUEST, Type.SUBMIT_JOB_BG, b"too few"),
        b"\0REQ\0\0\0\x10\xff\xff\xff\xff",
        b"x" * 9000,
    ],
    ids=["response", "type", "fields", "length", "line"],
)
def test_nonsense_is_named_in_an_error_before_the_connection_is_closed(
    embedded_peer: Connect, data: bytes
) -> None:
    client, worker, other = embedded_peer(), embedded_peer().can_do(b"f"), embedded_peer()
    handle = client.submit(Type.SUBMIT_JOB_BG, b"f")
    worker.grab()
    worker.raw(encode(REQUEST, Type.ECHO_REQ, b"before") + data)
    echo, error = worker.ended()
    assert echo == ("ECHO_RES", b"before")
    assert error[:2] == ("ERROR", b"INVALID_PACKET")
    other.settle()
    assert embedded_peer().can_do(b"f").grab()[0] == handle


def test_a_body_over_the_limit_is_refused() -> None:
    with servers.embedded(max_body=1000) as address, Peer(address) as client:
        assert client.ask(Type.ECHO_REQ, b"x" * 1000) == ("ECHO_RES", b"x" * 1000)
        client.raw(encode(REQUEST, Type.ECHO_REQ, b"x" * 1001))
        assert [said[:2] for said in client.ended()] == [("ERROR", b"INVALID_PACKET")]


class Conversation:
    """A server, a client and an administrator in one event loop, so that the server can be looked into."""

    async def __aenter__(self) -> Self:
        self.server = await Server(port=0).__aenter__()
        self.reader, self.writer = await self._connect()
        while not self.server._links:
            await asyncio.sleep(0)
        (self.link,) = self.server._links.values()
        self._admin_reader, self._admin = await self._connect()
        return self

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self.server.address.split(":")
        # A small limit: what the client does not read must not hide in its own buffers.
        return await asyncio.open_connection(host, int(port), limit=2**17)

    async def __aexit__(self, *exception: object) -> None:
        await self.server.close()
        for writer in (self.writer, self._admin):
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    @property
    def unread(self) -> int:
        """Bytes that the server keeps for the client."""
        return self.link._transport.get_write_buffer_size()

    async def status(self) -> bytes:
        """Ask for the status on the other connection; the server has turned its loop once then."""
        self._admin.write(b"status\r\n")
        return (await self._admin_reader.readuntil(b".\n")).removesuffix(b".\n")


LONG_ECHO = encode(REQUEST, Type.ECHO_REQ, b"e" * 50_000)


@pytest.mark.parametrize(
    ("request_bytes", "answer_end", "count"),
    # Short requests of long answers, all of them read at once; and so many bytes that reading itself stops.
    [(b"show jobs\r\n", b"\n.\n", 200), (LONG_ECHO, b"e" * 50_000, 300)],
    ids=["long answers", "long requests"],
)
def test_a_client_that_does_not_read_is_not_served_on_and_misses_nothing_later(
    request_bytes: bytes, answer_end: bytes, count: int
) -> None:
    # gearmand buffers what is unread without any bound.
    async def run() -> None:
        async with Conversation() as it:
            it.writer.write(encode(REQUEST, Type.SUBMIT_JOB_BG, b"f", b"", b"") * 2000)
            for _ in range(2000):
                await it.reader.readuntil(encode(RESPONSE, Type.JOB_CREATED)[:8])
            it.writer.write(request_bytes * count)
            most = 0
            while not it.link._full:
                await it.status()
                most = max(most, it.unread)
            for _ in range(20):
                assert await it.status() == b"f\t2000\t0\t0\n"  # the others are served
                most = max(most, it.unread)
            assert most < 4 * UNREAD
            for _ in range(count):
                await it.reader.readuntil(answer_end)
            it.writer.write(encode(REQUEST, Type.ECHO_REQ, b"end"))
            assert await it.reader.readexactly(15) == encode(RESPONSE, Type.ECHO_RES, b"end")

    asyncio.run(run())


@pytest.mark.parametrize("end", [b"\0RES" + bytes(8), b""], ids=["nonsense", "end of the stream"])
def test_a_worker_that_is_given_up_leaves_its_jobs_though_it_has_not_read_all(end: bytes) -> None:
    async def run() -> None:
        async with Conversation() as it:
            for kind, *fields in (
                (Type.SUBMIT_JOB_BG, b"f", b"", b""),
                (Type.CAN_DO, b"f"),
                (Type.GRAB_JOB_UNIQ,),
            ):
                it.writer.write(encode(REQUEST, kind, *fields))
            while await it.status() != b"f\t1\t1\t1\n":
                pass
            while not it.unread:
                it.writer.write(LONG_ECHO)
                await it.status()
            assert not it.link._full
            it.writer.write(end)
            if not end:
                it.writer.write_eof()
            while await it.status() != b"f\t1\t0\t0\n":
                pass
            assert not it.link.gone.is_set()  # it may still read what was sent

    asyncio.run(run())


def test_small_answers_are_not_delayed() -> None:
    async def run() -> None:
        async with Conversation() as it:
            sock = it.link._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    asyncio.run(run())


def test_a_client_far_behind_with_its_results_is_closed_and_its_worker_is_not() -> None:
    with (
        servers.embedded(max_unread=3_000_000) as address,
        Peer(address) as client,
        Peer(address) as worker,
        Peer(address) as admin,
    ):
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.called(b"client").submit(Type.SUBMIT_JOB, b"f")
        handle, _ = worker.can_do(b"f").grab()
        for _ in range(20):
            worker.send(Type.WORK_DATA, handle, bytes(1_000_000))
        worker.settle()
        admin.until_gone(b"client")
        worker.send(Type.WORK_COMPLETE, handle, b"").settle()
