import os
import socket
import threading

import pytest

from garivini.errors import OutcomeUnknownError, RefusedError, UnreachableError
from garivini.gearman.blocking import Client
from garivini.gearman.packets import RESPONSE, Type, encode
from garivini.gearman.protocol import Created, Refused, Submission, Unknown, Unsent
from tests.servers import free_port


def job(number: int, unique: bytes = b"") -> Submission:
    return Submission(b"f", b"%d" % number, unique)


def test_a_pipelined_submit_has_one_result_a_job_in_order(gearman_server: str) -> None:
    with Client(gearman_server) as client:
        jobs = [job(number) for number in range(5000)]
        jobs[17] = job(17, b"x" * 64)
        results = client.submit(jobs)
        assert [index for index, result in enumerate(results) if not isinstance(result, Created)] == [17]
        assert isinstance(results[17], Refused)
        assert client.functions()[b"f"].queued == 4999


def test_large_payloads_arrive_whole(gearman_server: str) -> None:
    with Client(gearman_server) as client:
        results = client.submit([Submission(b"f", os.urandom(700_000)) for _ in range(5)])
        assert all(isinstance(result, Created) for result in results)
        assert client.functions()[b"f"].queued == 5


def test_questions_are_answered(gearman_server: str) -> None:
    with Client(gearman_server) as client:
        client.submit([job(1, b"1:1:1")])
        assert [status.known for status in client.status([b"1:1:1", b"1:2:1"])] == [True, False]
        assert client.command(b"version", block=False)[0].startswith(b"OK ")
        assert isinstance(client.workers(), list)
        client.echo()
        with pytest.raises(RefusedError):
            client.command(b"no-such-command", block=False)


def test_a_forked_child_talks_on_a_connection_of_its_own(gearman_server: str) -> None:
    with Client(gearman_server) as client:
        client.submit([job(1)])
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = 0 if len(client.submit([job(2)])) == 1 else 1
                client.close()
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        client.submit([job(3)])
        assert client.functions()[b"f"].queued == 3


def lying_server(answer: bytes, read: int) -> tuple[str, threading.Thread]:
    """A server that reads so many bytes of one connection, says something and closes it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with listener, connection:
            connection.recv(read)
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return f"127.0.0.1:{listener.getsockname()[1]}", thread


def test_what_was_under_way_is_unknown_and_the_rest_unsent_when_the_server_goes() -> None:
    address, thread = lying_server(encode(RESPONSE, Type.JOB_CREATED, b"H:1"), 1)
    with Client(address) as client:
        results = client.submit([job(number) for number in range(6000)])
    thread.join()
    kinds = [type(result) for result in results]
    unknown = kinds.count(Unknown)
    created = kinds.count(Created)
    # The reset may overtake the one answer.
    assert created in (0, 1)
    assert unknown > 0
    assert kinds == [Created] * created + [Unknown] * unknown + [Unsent] * (6000 - created - unknown)


def test_a_foreground_job_whose_server_goes_has_an_unknown_outcome() -> None:
    address, thread = lying_server(b"", 1)
    with Client(address) as client, pytest.raises(OutcomeUnknownError):
        client.run(job(1))
    thread.join()


def test_a_server_that_does_not_answer_in_time_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with Client(address, timeout=0.05) as client:
            assert client.submit([job(1)]) == [Unknown()]
            with pytest.raises(UnreachableError, match="connection was lost"):
                client.functions()


def test_a_server_that_is_not_there_is_unreachable_and_says_so() -> None:
    with (
        Client(f"127.0.0.1:{free_port()}") as client,
        pytest.raises(UnreachableError, match="Connection refused"),
    ):
        client.submit([job(1)])
