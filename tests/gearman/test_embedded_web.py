"""What reaches the embedded server from a web page, or from whatever else does not speak Gearman."""

import socket
from collections.abc import Callable
from contextlib import suppress

import pytest

from garivini.gearman.packets import REQUEST, Type, encode
from tests.gearman.peer import Peer

Connect = Callable[[], Peer]

SUBMIT = encode(REQUEST, Type.SUBMIT_JOB_BG, b"hello", b"", b"from a page")
WORK = encode(REQUEST, Type.CAN_DO, b"f") + encode(REQUEST, Type.GRAB_JOB)
HEADERS = b"Host: 127.0.0.1:4730\r\nOrigin: https://evil.example\r\nContent-Type: text/plain\r\n\r\n"
FORM = (
    b"POST / HTTP/1.1\r\nHost: 127.0.0.1:4730\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n"
    b'--b\r\nContent-Disposition: form-data; name="status"\r\n\r\n'
)


def http(line: bytes) -> bytes:
    return line + b"\r\n" + HEADERS + SUBMIT + WORK


@pytest.mark.parametrize(
    "data",
    [
        http(b"POST / HTTP/1.1"),
        http(b"POST / HTTP/1.0"),
        http(b"POST /status HTTP/1.1"),
        http(b"GET / HTTP/1.1"),
        http(b"PUT / HTTP/1.1"),
        http(b"OPTIONS * HTTP/1.1"),
        http(b"HEAD / HTTP/1.1"),
        http(b"PRI * HTTP/2.0"),
        http(b"STATUS / HTTP/1.1"),  # a verb that is a command here
        http(b"cancel job HTTP/1.1"),
        http(b"version HTTP/1.1"),
        http(b"POST /"),  # HTTP 0.9
        FORM + SUBMIT + WORK,
        FORM.replace(b"\r\n", b"\n") + SUBMIT + WORK,
        b"\r\n" + SUBMIT + WORK,
        b" status\r\n" + SUBMIT + WORK,
        b"status:\r\n" + SUBMIT + WORK,
        b"EHLO evil.example\r\n" + SUBMIT,
        b"*1\r\n$4\r\nPING\r\n" + SUBMIT,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\n" + SUBMIT,
        b"\xef\xbb\xbfstatus\r\n" + SUBMIT,
    ],
    ids=lambda data: repr(data[:24]),
)
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "in pieces"])
def test_a_request_that_is_not_gearman_does_nothing(embedded_peer: Connect, data: bytes, cut: bool) -> None:
    admin, page = embedded_peer(), embedded_peer()
    job = admin.submit(Type.SUBMIT_JOB_BG, b"f")
    with suppress(ConnectionError):
        for start in range(0, len(data), 7) if cut else [0]:
            page.raw(data[start : start + 7] if cut else data)
    answer = _ended(page)
    assert not answer or answer.startswith((b"ERR UNKNOWN_COMMAND", b"\0RES\0\0\0\x13"))
    assert answer.count(b"\0RES") <= 1
    assert admin.lines(b"status") == [b"f\t1\t0\t0"]
    assert admin.submit(Type.SUBMIT_JOB_BG, b"f") != job


def _ended(page: Peer) -> bytes:
    """Wait until the server closes; return what came before."""
    received = b""
    with suppress(ConnectionError):
        while data := page.socket.recv(65536):
            received += data
    return received


def test_an_encrypted_connection_is_closed_at_its_first_bytes(embedded_peer: Connect) -> None:
    page = embedded_peer().raw(b"\x16\x03\x01")  # the client waits for an answer now
    assert [said[:2] for said in page.ended()] == [("ERROR", b"INVALID_PACKET")]


def test_an_unknown_command_has_its_answer_before_the_connection_is_closed(embedded_peer: Connect) -> None:
    admin = embedded_peer()
    assert admin.line(b"frobnicate").startswith(b"ERR UNKNOWN_COMMAND")
    with pytest.raises((EOFError, ConnectionError)):
        admin.text()


def test_jobs_of_a_connection_that_sends_an_unknown_line_go_to_another_worker(embedded_peer: Connect) -> None:
    client, worker = embedded_peer(), embedded_peer().can_do(b"f")
    handle = client.submit(Type.SUBMIT_JOB_BG, b"f")
    worker.grab()
    worker.raw(b"what?\r\n")
    client.until(lambda admin: admin.status(b"f") == (1, 0, 0))
    assert embedded_peer().can_do(b"f").grab()[0] == handle


def test_a_line_without_an_end_is_not_waited_for_by_others(embedded_peer: Connect) -> None:
    page, other = embedded_peer(), embedded_peer()
    page.raw(b"POST / HTTP/1.1")
    other.settle()
    page.socket.shutdown(socket.SHUT_WR)
    assert page.ended() == []
