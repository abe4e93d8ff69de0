"""What a Gearman server says of itself. Every test runs on the embedded server and on gearmand."""

from collections.abc import Callable

import pytest

from garivini.gearman.packets import REQUEST, Type, encode
from tests.gearman.peer import Peer

Connect = Callable[[], Peer]

# ---- questions


def test_status_of_a_job_follows_its_life(peer: Connect) -> None:
    client, worker = peer(), peer().can_do(b"f")
    handle = client.submit(Type.SUBMIT_JOB_BG, b"f")
    assert client.ask(Type.GET_STATUS, handle) == ("STATUS_RES", handle, b"1", b"0", b"0", b"0")
    worker.grab()
    worker.send(Type.WORK_STATUS, handle, b"3", b"10").settle()
    assert client.ask(Type.GET_STATUS, handle) == ("STATUS_RES", handle, b"1", b"1", b"3", b"10")
    worker.send(Type.WORK_COMPLETE, handle, b"").settle()
    assert client.ask(Type.GET_STATUS, handle) == ("STATUS_RES", handle, b"0", b"0", b"0", b"0")


def test_status_by_unique_follows_the_life_of_the_job(peer: Connect) -> None:
    client, worker, admin = peer(), peer().can_do(b"f"), peer()

    def state() -> tuple[bytes, ...]:
        name, unique, *rest = client.ask(Type.GET_STATUS_UNIQUE, b"u")
        assert (name, unique) == ("STATUS_RES_UNIQUE", b"u")
        return tuple(rest)

    assert state() == (b"0", b"0", b"0", b"0", b"0")
    client.submit(Type.SUBMIT_JOB_BG, b"f", b"u")
    assert state() == (b"1", b"0", b"0", b"0", b"0")
    handle = client.submit(Type.SUBMIT_JOB, b"f", b"u")
    assert state() == (b"1", b"0", b"0", b"0", b"1")
    worker.grab()
    worker.send(Type.WORK_STATUS, handle, b"1", b"2").settle()
    assert client.hear()[0] == "WORK_STATUS"
    assert state()[:4] == (b"1", b"1", b"1", b"2")
    worker.close()
    admin.until(lambda admin: admin.status(b"f") == (1, 0, 0))
    assert state()[:2] == (b"1", b"0")
    heir = peer().can_do(b"f")
    heir.grab()
    heir.send(Type.WORK_FAIL, handle).settle()
    assert client.hear() == ("WORK_FAIL", handle)
    assert state() == (b"0", b"0", b"0", b"0", b"0")


def test_echo_comes_back_whole(peer: Connect) -> None:
    data = bytes(range(256))
    assert peer().ask(Type.ECHO_REQ, data) == ("ECHO_RES", data)
    assert peer().ask(Type.ECHO_REQ, b"") == ("ECHO_RES", b"")


def test_an_unknown_option_is_refused(peer: Connect) -> None:
    assert peer().ask(Type.OPTION_REQ, b"frobnicate")[:2] == ("ERROR", b"UNKNOWN_OPTION")


@pytest.mark.parametrize("kind", [Type.NOOP, Type.ALL_YOURS])
def test_a_packet_that_no_client_may_send_is_refused(peer: Connect, kind: Type) -> None:
    client = peer()
    assert client.ask(kind)[:2] == ("ERROR", b"INVALID_COMMAND")
    client.settle()


def test_pipelined_requests_are_answered_in_their_order(peer: Connect) -> None:
    client = peer()
    requests: list[tuple[Type, list[bytes], str]] = [
        (Type.SUBMIT_JOB_BG, [b"f", b"a", b""], "JOB_CREATED"),
        (Type.ECHO_REQ, [b"x"], "ECHO_RES"),
        (Type.SUBMIT_JOB_BG, [b"f", b"u" * 70, b""], "ERROR"),
        (Type.GET_STATUS, [b"H:none:1"], "STATUS_RES"),
        (Type.SUBMIT_JOB, [b"f", b"b", b""], "JOB_CREATED"),
        (Type.OPTION_REQ, [b"frob"], "ERROR"),
        (Type.GET_STATUS_UNIQUE, [b"a"], "STATUS_RES_UNIQUE"),
        (Type.OPTION_REQ, [b"exceptions"], "OPTION_RES"),
    ]
    client.raw(b"".join(encode(REQUEST, kind, *fields) for kind, fields, _ in requests) * 50)
    answers = [client.hear()[0] for _ in range(50 * len(requests))]
    assert answers == [answer for _, _, answer in requests] * 50


def test_a_request_may_come_in_pieces(peer: Connect) -> None:
    client = peer()
    packets = encode(REQUEST, Type.SUBMIT_JOB_BG, b"f", b"u", b"d") + encode(REQUEST, Type.ECHO_REQ, b"x")
    for start in range(0, len(packets), 5):
        client.raw(packets[start : start + 5])
    assert client.hear()[0] == "JOB_CREATED"
    assert client.hear() == ("ECHO_RES", b"x")


# ---- administrative lines


def test_status_counts_queued_and_running_jobs_and_workers(peer: Connect) -> None:
    client, admin = peer(), peer()
    assert admin.lines(b"status") == []
    for _ in range(3):
        client.submit(Type.SUBMIT_JOB_BG, b"f")
    client.submit(Type.SUBMIT_JOB_HIGH, b"f")
    client.submit(Type.SUBMIT_JOB_LOW, b"f")
    assert admin.lines(b"status") == [b"f\t5\t0\t0"]
    assert admin.lines(b"prioritystatus") == [b"f\t1\t3\t1\t0"]
    worker = peer().can_do(b"f", b"g")
    worker.grab()
    worker.grab()
    assert sorted(admin.lines(b"status")) == [b"f\t5\t2\t1", b"g\t0\t0\t1"]
    assert sorted(admin.lines(b"prioritystatus")) == [b"f\t0\t2\t1\t1", b"g\t0\t0\t0\t1"]
    worker.close()
    admin.until(lambda admin: admin.status(b"f") == (5, 0, 0))


def test_workers_shows_id_and_abilities(peer: Connect) -> None:
    admin, worker = peer(), peer()
    worker.send(Type.SET_CLIENT_ID, b"worker-1").can_do(b"f", b"g")
    admin.called(b"admin")
    lines = admin.lines(b"workers")
    (line,) = (line for line in lines if b"worker-1" in line)
    number, host, name, colon, *functions = line.split(b" ")
    assert number.isdigit()
    assert (host, name, colon) == (b"127.0.0.1", b"worker-1", b":")
    assert sorted(functions) == [b"f", b"g"]
    (line,) = (line for line in lines if b"admin" in line)
    assert line.split()[1:] == [b"127.0.0.1", b"admin", b":"]


def test_show_jobs_lists_handles_and_uniques(peer: Connect) -> None:
    client, admin = peer(), peer()
    background = client.submit(Type.SUBMIT_JOB_BG, b"f", b"u1")
    foreground = client.submit(Type.SUBMIT_JOB, b"f", b"u2")
    assert sorted(admin.lines(b"show jobs")) == sorted([background + b"\t0\t0\t1", foreground + b"\t0\t0\t0"])
    client.submit(Type.SUBMIT_JOB_BG, b"f")
    assert sorted(admin.lines(b"show unique jobs")) == [b"", b"u1", b"u2"]
    assert admin.line(b"show frobs").startswith(b"ERR UNKNOWN_SHOW_ARGUMENTS")


def test_a_cancelled_job_is_not_given_out_and_its_client_hears_a_failure(peer: Connect) -> None:
    client, admin, worker = peer(), peer(), peer().can_do(b"f")
    handle = client.submit(Type.SUBMIT_JOB, b"f", b"u")
    kept = client.submit(Type.SUBMIT_JOB_BG, b"f")
    assert admin.line(b"cancel job " + handle) == b"OK"
    assert client.hear() == ("WORK_FAIL", handle)
    assert worker.grab()[0] == kept
    assert worker.grab() == (b"", b"")
    assert admin.line(b"cancel job H:none:1") == b"ERR UNKNOWN_JOB"


def test_a_cancelled_running_job_may_end_in_peace(peer: Connect) -> None:
    client, admin, worker = peer(), peer(), peer().can_do(b"f")
    handle = client.submit(Type.SUBMIT_JOB_BG, b"f")
    worker.grab()
    assert admin.line(b"cancel job " + handle) == b"OK"
    assert [line.split(b"\t")[2] for line in admin.lines(b"show jobs")] == [b"1"]
    worker.send(Type.WORK_COMPLETE, handle, b"").settle()
    assert admin.status(b"f")[0] == 0


def test_a_cancelled_running_job_is_not_done_again_at_its_workers_death(peer: Connect) -> None:
    client, admin, worker = peer(), peer(), peer().can_do(b"f")
    handle = client.submit(Type.SUBMIT_JOB_BG, b"f")
    worker.grab()
    assert admin.line(b"cancel job " + handle) == b"OK"
    worker.close()
    admin.until(lambda admin: admin.status(b"f")[1:] == (0, 0))
    assert peer().can_do(b"f").grab() == (b"", b"")


def test_a_full_queue_refuses_the_right_request_only(peer: Connect) -> None:
    client, admin, worker = peer(), peer(), peer().can_do(b"f")
    assert admin.line(b"maxqueue f 2") == b"OK"
    submits = [(b"f", b"a"), (b"f", b"b"), (b"f", b"c"), (b"g", b"c"), (b"f", b"a")]
    for function, unique in submits:
        client.send(Type.SUBMIT_JOB_BG, function, unique, b"")
    answers = [client.hear() for _ in submits]
    assert [answer[0] for answer in answers] == ["JOB_CREATED"] * 2 + ["ERROR"] + ["JOB_CREATED"] * 2
    assert answers[2][1] == b"QUEUE_ERROR"
    assert answers[4] == answers[0]  # one that joins is let in
    worker.grab()
    assert client.ask(Type.SUBMIT_JOB_BG, b"f", b"c", b"")[0] == "ERROR"  # what runs counts too
    assert admin.line(b"maxqueue f") == b"OK"
    client.submit(Type.SUBMIT_JOB_BG, b"f", b"c")
    assert admin.line(b"maxqueue f -1") == b"OK"
    client.submit(Type.SUBMIT_JOB_BG, b"f", b"d")


def test_each_priority_can_have_its_own_limit(peer: Connect) -> None:
    client, admin = peer(), peer()
    peer().can_do(b"f")
    assert admin.line(b"maxqueue f 3 2 1") == b"OK"
    kinds = [Type.SUBMIT_JOB_LOW_BG, Type.SUBMIT_JOB_BG, Type.SUBMIT_JOB_HIGH_BG]
    for full, kind in enumerate(kinds, 1):
        client.submit(kind, b"f")
        assert [client.ask(each, b"f", b"", b"")[0] for each in kinds[:full]] == ["ERROR"] * full


def test_a_function_can_be_made_and_dropped(peer: Connect) -> None:
    admin = peer()
    assert admin.line(b"create function f") == b"OK"
    assert admin.line(b"create function f") == b"OK"
    assert admin.lines(b"status") == [b"f\t0\t0\t0"]
    assert admin.line(b"drop function f") == b"OK"
    assert admin.lines(b"status") == []
    assert admin.line(b"drop function f").startswith(b"ERR ")


def test_a_function_is_dropped_with_the_jobs_that_wait_for_it(peer: Connect) -> None:
    client, admin = peer(), peer()
    client.submit(Type.SUBMIT_JOB_BG, b"f")
    client.submit(Type.SUBMIT_JOB, b"f", b"u")
    assert admin.line(b"drop function f") == b"OK"
    assert admin.lines(b"status") == []
    assert peer().can_do(b"f").grab() == (b"", b"")


def test_a_function_with_a_worker_or_a_running_job_is_not_dropped(peer: Connect) -> None:
    client, admin, worker = peer(), peer(), peer().can_do(b"f")
    assert admin.line(b"drop function f").startswith(b"ERR ")
    client.submit(Type.SUBMIT_JOB_BG, b"f")
    worker.grab()
    assert admin.line(b"drop function f").startswith(b"ERR ")
    assert admin.status(b"f") == (1, 1, 1)


def test_small_questions_have_an_ok_and_an_answer(peer: Connect) -> None:
    admin = peer()
    assert admin.line(b"version").split()[0] == b"OK"
    assert admin.line(b"getpid").removeprefix(b"OK ").isdigit()
    assert admin.line(b"verbose") == b"OK ERROR"
    assert admin.line(b"VERSION").startswith(b"OK ")


@pytest.mark.parametrize("text", [b"show", b"create function", b"drop", b"maxqueue"])
def test_a_wrong_command_is_an_err_and_the_connection_goes_on(peer: Connect, text: bytes) -> None:
    admin = peer()
    assert admin.line(text).startswith(b"ERR ")
    assert admin.line(b"version").startswith(b"OK ")


@pytest.mark.parametrize("text", [b"", b"frobnicate", b"shutdown"])
def test_an_unknown_command_is_an_err(peer: Connect, text: bytes) -> None:
    # The embedded server closes then; gearmand goes on.
    assert peer().line(text).startswith(b"ERR UNKNOWN_COMMAND")


def test_lines_and_packets_may_be_mixed(peer: Connect) -> None:
    both = peer()
    echo = encode(REQUEST, Type.ECHO_REQ, b"x")
    both.raw(echo + b"verbose\r\n" + echo)
    assert both.hear() == ("ECHO_RES", b"x")
    assert both.text() == b"OK ERROR"
    assert both.hear() == ("ECHO_RES", b"x")
