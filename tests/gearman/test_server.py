"""What a Gearman server does, on the wire. Every test runs on the embedded server and on gearmand."""

import socket
from collections.abc import Callable

import pytest

from garivini.gearman.packets import REQUEST, Type, encode
from tests.gearman.peer import Peer

Connect = Callable[[], Peer]

SUBMITS = [
    Type.SUBMIT_JOB,
    Type.SUBMIT_JOB_BG,
    Type.SUBMIT_JOB_HIGH,
    Type.SUBMIT_JOB_HIGH_BG,
    Type.SUBMIT_JOB_LOW,
    Type.SUBMIT_JOB_LOW_BG,
]


# ---- submit and grab


@pytest.mark.parametrize("kind", SUBMITS)
def test_each_submit_reaches_a_worker_whole(peer: Connect, kind: Type) -> None:
    data = bytes(range(256)) * 3  # NUL bytes included
    handle = peer().submit(kind, b"f", b"u", data)
    assert peer().can_do(b"f").ask(Type.GRAB_JOB_UNIQ) == ("JOB_ASSIGN_UNIQ", handle, b"f", b"u", data)


def test_a_large_payload_travels_whole(peer: Connect) -> None:
    data = bytes(3_000_000)
    handle = peer().submit(Type.SUBMIT_JOB_BG, b"f", b"", data)
    assert peer().can_do(b"f").grab() == (handle, data)


def test_each_kind_of_grab_has_its_answer(peer: Connect) -> None:
    client, worker = peer(), peer().can_do(b"f")
    handles = [client.submit(Type.SUBMIT_JOB_BG, b"f", b"u%d" % i, b"d") for i in range(3)]
    assert worker.ask(Type.GRAB_JOB) == ("JOB_ASSIGN", handles[0], b"f", b"d")
    assert worker.ask(Type.GRAB_JOB_UNIQ) == ("JOB_ASSIGN_UNIQ", handles[1], b"f", b"u1", b"d")
    # No reducer was asked for, so the answer has no field for one.
    assert worker.ask(Type.GRAB_JOB_ALL) == ("JOB_ASSIGN_UNIQ", handles[2], b"f", b"u2", b"d")
    for kind in (Type.GRAB_JOB, Type.GRAB_JOB_UNIQ, Type.GRAB_JOB_ALL):
        assert worker.ask(kind) == ("NO_JOB",)


def test_jobs_of_one_priority_go_out_in_the_order_of_submit(peer: Connect) -> None:
    client, worker = peer(), peer().can_do(b"f")
    handles = [client.submit(Type.SUBMIT_JOB_BG, b"f", b"", b"%d" % i) for i in range(20)]
    assert [worker.grab()[0] for _ in handles] == handles


def test_the_more_urgent_job_goes_out_first(peer: Connect) -> None:
    client, worker = peer(), peer().can_do(b"f")
    for kind in SUBMITS[::-1]:
        client.submit(kind, b"f", b"", kind.name.encode())
    got = [worker.grab()[1] for _ in SUBMITS]
    assert [b"HIGH" in data for data in got] == [True, True, False, False, False, False]
    assert [b"LOW" in data for data in got] == [False, False, False, False, True, True]


def test_a_worker_gets_only_what_it_can_do(peer: Connect) -> None:
    client, worker = peer(), peer().can_do(b"f", b"g")
    client.submit(Type.SUBMIT_JOB_BG, b"other")
    assert worker.grab() == (b"", b"")
    handle = client.submit(Type.SUBMIT_JOB_BG, b"g")
    assert worker.grab()[0] == handle


def test_an_ability_can_be_taken_back(peer: Connect) -> None:
    client, worker = peer(), peer().can_do(b"f", b"g")
    client.submit(Type.SUBMIT_JOB_BG, b"f")
    assert worker.send(Type.CANT_DO, b"f").grab() == (b"", b"")
    client.submit(Type.SUBMIT_JOB_BG, b"g")
    assert worker.send(Type.RESET_ABILITIES).grab() == (b"", b"")
    assert worker.can_do(b"f").grab() != (b"", b"")


def test_can_do_timeout_registers_as_can_do_does(peer: Connect) -> None:
    handle = peer().submit(Type.SUBMIT_JOB_BG, b"f")
    assert peer().send(Type.CAN_DO_TIMEOUT, b"f", b"60000").grab()[0] == handle


def test_one_connection_holds_many_jobs_and_grabs(peer: Connect) -> None:
    client, worker = peer(), peer().can_do(b"f")
    handles = [client.submit(Type.SUBMIT_JOB, b"f", b"", b"%d" % i) for i in range(5)]
    worker.raw(encode(REQUEST, Type.GRAB_JOB_UNIQ) * 7)
    answers = [worker.hear() for _ in range(7)]
    assert [answer[1] for answer in answers[:5]] == handles
    assert answers[5:] == [("NO_JOB",)] * 2
    for handle in reversed(handles):  # any order will do
        worker.send(Type.WORK_COMPLETE, handle, b"done " + handle)
        assert client.hear() == ("WORK_COMPLETE", handle, b"done " + handle)


def test_different_jobs_have_different_handles_of_at_most_63_bytes(peer: Connect) -> None:
    client = peer()
    handles = {client.submit(Type.SUBMIT_JOB_BG, b"f") for _ in range(20)}
    assert len(handles) == 20
    assert all(handle.startswith(b"H:") and len(handle) < 64 for handle in handles)


# ---- uniques


@pytest.mark.parametrize("running", [False, True], ids=["queued", "running"])
def test_a_second_submit_with_the_unique_joins_the_live_job(peer: Connect, running: bool) -> None:
    client, worker = peer(), peer().can_do(b"f")
    handle = client.submit(Type.SUBMIT_JOB_BG, b"f", b"u", b"first")
    if running:
        assert worker.grab() == (handle, b"first")
    assert peer().submit(Type.SUBMIT_JOB_HIGH_BG, b"f", b"u", b"second") == handle
    assert client.status(b"f")[0] == 1
    if not running:
        assert worker.grab() == (handle, b"first")
    assert worker.send(Type.WORK_COMPLETE, handle, b"").grab() == (b"", b"")


def test_a_unique_is_free_again_after_the_end_of_its_job(peer: Connect) -> None:
    client, worker = peer(), peer().can_do(b"f")
    first = client.submit(Type.SUBMIT_JOB_BG, b"f", b"u")
    assert worker.grab()[0] == first
    worker.send(Type.WORK_FAIL, first).settle()
    second = client.submit(Type.SUBMIT_JOB_BG, b"f", b"u")
    assert second != first
    assert worker.grab()[0] == second


def test_a_unique_counts_for_its_function_only(peer: Connect) -> None:
    client = peer()
    assert client.submit(Type.SUBMIT_JOB_BG, b"f", b"u") != client.submit(Type.SUBMIT_JOB_BG, b"g", b"u")


def test_an_empty_unique_joins_nothing(peer: Connect) -> None:
    client = peer()
    first = client.submit(Type.SUBMIT_JOB_BG, b"f", b"", b"same")
    assert client.submit(Type.SUBMIT_JOB_BG, b"f", b"", b"same") != first


def test_the_unique_minus_joins_jobs_of_equal_payload(peer: Connect) -> None:
    client, worker = peer(), peer().can_do(b"f")
    first = client.submit(Type.SUBMIT_JOB_BG, b"f", b"-", b"same")
    assert client.submit(Type.SUBMIT_JOB_BG, b"f", b"-", b"same") == first
    assert client.submit(Type.SUBMIT_JOB_BG, b"f", b"-", b"other") != first
    empty = client.submit(Type.SUBMIT_JOB_BG, b"f", b"-", b"")
    assert client.submit(Type.SUBMIT_JOB_BG, b"f", b"-", b"") != empty
    assert worker.ask(Type.GRAB_JOB_UNIQ)[3] == b"-"


def test_a_unique_of_63_bytes_is_kept_whole_and_one_of_65_refused(peer: Connect) -> None:
    client = peer()
    handle = client.submit(Type.SUBMIT_JOB_BG, b"f", b"u" * 63, b"d")
    assert client.submit(Type.SUBMIT_JOB_BG, b"f", b"u" * 63, b"d") == handle
    assert client.ask(Type.SUBMIT_JOB_BG, b"f", b"u" * 65, b"d")[:2] == ("ERROR", b"ARGUMENT_TOO_LARGE")
    assert peer().can_do(b"f").ask(Type.GRAB_JOB_UNIQ)[3:] == (b"u" * 63, b"d")


def test_all_that_joined_a_job_hear_its_reports_and_its_end(peer: Connect) -> None:
    one, two, worker = peer(), peer(), peer().can_do(b"f")
    handle = one.submit(Type.SUBMIT_JOB, b"f", b"u")
    assert two.submit(Type.SUBMIT_JOB, b"f", b"u") == handle
    assert two.submit(Type.SUBMIT_JOB, b"f", b"u") == handle
    worker.grab()
    worker.send(Type.WORK_DATA, handle, b"part").send(Type.WORK_COMPLETE, handle, b"all")
    assert [one.hear()[0] for _ in range(2)] == ["WORK_DATA", "WORK_COMPLETE"]
    # One a submit, on the same connection too.
    assert [two.hear()[0] for _ in range(4)] == ["WORK_DATA"] * 2 + ["WORK_COMPLETE"] * 2


# ---- the end of a job


def test_data_warnings_and_status_reach_the_foreground_client_in_order(peer: Connect) -> None:
    client, worker = peer(), peer().can_do(b"f")
    handle = client.submit(Type.SUBMIT_JOB, b"f")
    worker.grab()
    worker.send(Type.WORK_STATUS, handle, b"1", b"3").send(Type.WORK_DATA, handle, b"a\0b")
    worker.send(Type.WORK_WARNING, handle, b"hm").send(Type.WORK_COMPLETE, handle, b"c\0d")
    assert [client.hear() for _ in range(4)] == [
        ("WORK_STATUS", handle, b"1", b"3"),
        ("WORK_DATA", handle, b"a\0b"),
        ("WORK_WARNING", handle, b"hm"),
        ("WORK_COMPLETE", handle, b"c\0d"),
    ]


def test_a_failure_reaches_the_foreground_client(peer: Connect) -> None:
    client, worker = peer(), peer().can_do(b"f")
    handle = client.submit(Type.SUBMIT_JOB, b"f")
    worker.grab()
    worker.send(Type.WORK_FAIL, handle)
    assert client.hear() == ("WORK_FAIL", handle)


def test_an_exception_reaches_only_clients_that_asked_for_exceptions(peer: Connect) -> None:
    asked, other, worker = peer(), peer(), peer().can_do(b"f")
    assert asked.ask(Type.OPTION_REQ, b"exceptions") == ("OPTION_RES", b"exceptions")
    handle = asked.submit(Type.SUBMIT_JOB, b"f", b"u")
    assert other.submit(Type.SUBMIT_JOB, b"f", b"u") == handle
    worker.grab()
    worker.send(Type.WORK_EXCEPTION, handle, b"boom")
    assert asked.hear() == ("WORK_EXCEPTION", handle, b"boom")
    name, heard = other.hear()
    assert (name, heard.rstrip(b"\0")) == ("WORK_FAIL", handle)  # gearmand leaves a NUL there


@pytest.mark.parametrize("last", [Type.WORK_COMPLETE, Type.WORK_FAIL, Type.WORK_EXCEPTION])
def test_a_job_ends_once(peer: Connect, last: Type) -> None:
    client, worker = peer(), peer().can_do(b"f")
    handle = client.submit(Type.SUBMIT_JOB, b"f")
    worker.grab()
    data = [] if last is Type.WORK_FAIL else [b"x"]
    worker.send(last, handle, *data)
    assert worker.ask(Type.WORK_COMPLETE, handle, b"again")[:2] == ("ERROR", b"JOB_NOT_FOUND")
    assert client.hear()[0] in (last.name, "WORK_FAIL")
    client.settle()
    assert client.status(b"f")[0] == 0


def test_only_the_connection_that_holds_a_job_may_finish_it(peer: Connect) -> None:
    client, worker, thief = peer(), peer().can_do(b"f"), peer().can_do(b"f")
    handle = client.submit(Type.SUBMIT_JOB, b"f")
    worker.grab()
    assert thief.ask(Type.WORK_COMPLETE, handle, b"stolen")[:2] == ("ERROR", b"JOB_NOT_FOUND")
    assert thief.ask(Type.WORK_FAIL, handle)[:2] == ("ERROR", b"JOB_NOT_FOUND")
    worker.send(Type.WORK_COMPLETE, handle, b"mine")
    assert client.hear() == ("WORK_COMPLETE", handle, b"mine")


def test_nobody_hears_of_a_background_job(peer: Connect) -> None:
    client, worker = peer(), peer().can_do(b"f")
    handle = client.submit(Type.SUBMIT_JOB_BG, b"f")
    worker.grab()
    worker.send(Type.WORK_DATA, handle, b"x").send(Type.WORK_COMPLETE, handle, b"y").settle()
    client.settle()


# ---- connections that go


def test_a_dead_workers_jobs_go_to_the_end_of_the_queue(peer: Connect) -> None:
    client, worker = peer(), peer().can_do(b"f")
    handles = [client.submit(Type.SUBMIT_JOB_BG, b"f", b"", b"%d" % i) for i in range(5)]
    assert [worker.grab()[0] for _ in range(2)] == handles[:2]
    worker.close()
    client.until(lambda admin: admin.status(b"f") == (5, 0, 0))
    heir = peer().can_do(b"f")
    got = [heir.grab()[0] for _ in handles]
    assert got[:3] == handles[2:]
    assert sorted(got[3:]) == sorted(handles[:2])


def test_a_worker_that_closes_one_half_is_as_good_as_dead(peer: Connect) -> None:
    client, worker = peer(), peer().can_do(b"f")
    handle = client.submit(Type.SUBMIT_JOB_BG, b"f")
    worker.grab()
    worker.socket.shutdown(socket.SHUT_WR)
    assert worker.ended() == []
    client.until(lambda admin: admin.status(b"f") == (1, 0, 0))
    assert peer().can_do(b"f").grab()[0] == handle


def test_a_dead_workers_job_keeps_its_priority(peer: Connect) -> None:
    client, worker = peer(), peer().can_do(b"f")
    high = client.submit(Type.SUBMIT_JOB_HIGH_BG, b"f")
    assert worker.grab()[0] == high
    client.submit(Type.SUBMIT_JOB_BG, b"f")
    worker.close()
    client.until(lambda admin: admin.status(b"f") == (2, 0, 0))
    assert peer().can_do(b"f").grab()[0] == high


def test_a_dead_workers_job_wakes_another_worker(peer: Connect) -> None:
    client, worker, sleeper = peer(), peer().can_do(b"f"), peer().can_do(b"f")
    handle = client.submit(Type.SUBMIT_JOB_BG, b"f")
    worker.grab()
    sleeper.send(Type.PRE_SLEEP).settle()
    worker.close()
    assert sleeper.hear() == ("NOOP",)
    assert sleeper.grab()[0] == handle


def test_a_job_is_dropped_after_the_death_of_three_workers(peer: Connect) -> None:
    client, admin = peer(), peer()
    foreground = client.submit(Type.SUBMIT_JOB, b"f", b"u", b"deadly")
    background = client.submit(Type.SUBMIT_JOB_BG, b"g", b"u", b"deadly")
    for death in range(3):
        worker = peer().can_do(b"f", b"g")
        assert {worker.grab()[0], worker.grab()[0]} == {foreground, background}
        shown = {line.split(b"\t")[0]: line.split(b"\t")[1] for line in admin.lines(b"show jobs")}
        assert shown == {foreground: b"%d" % death, background: b"%d" % death}
        worker.close()
        admin.until(lambda admin: admin.status(b"f")[1:] == admin.status(b"g")[1:] == (0, 0))
    assert client.hear() == ("WORK_FAIL", foreground)
    client.settle()
    assert admin.lines(b"show jobs") == []
    assert peer().can_do(b"f", b"g").grab() == (b"", b"")


def test_a_queued_job_is_dropped_with_its_last_foreground_client(peer: Connect) -> None:
    one, two, admin = peer().called(b"one"), peer().called(b"two"), peer()
    one.submit(Type.SUBMIT_JOB, b"f", b"u")
    two.submit(Type.SUBMIT_JOB, b"f", b"u")
    kept = admin.submit(Type.SUBMIT_JOB_BG, b"f", b"other")
    one.close()
    admin.until_gone(b"one")
    assert admin.status(b"f")[0] == 2
    two.close()
    admin.until_gone(b"two")
    worker = peer().can_do(b"f")
    assert worker.grab()[0] == kept
    assert worker.grab() == (b"", b"")


def test_a_running_job_goes_on_without_its_foreground_client(peer: Connect) -> None:
    client, worker, admin = peer().called(b"client"), peer().can_do(b"f"), peer()
    handle = client.submit(Type.SUBMIT_JOB, b"f")
    worker.grab()
    client.close()
    admin.until_gone(b"client")
    # An ERROR would come before the echo.
    worker.send(Type.WORK_COMPLETE, handle, b"").settle()


def test_a_background_job_outlives_its_client(peer: Connect) -> None:
    client, admin = peer().called(b"client"), peer()
    handle = client.submit(Type.SUBMIT_JOB_BG, b"f")
    client.close()
    admin.until_gone(b"client")
    assert peer().can_do(b"f").grab()[0] == handle


# ---- sleep


def test_a_sleeping_worker_is_woken_once(peer: Connect) -> None:
    client, worker = peer(), peer().can_do(b"f", b"g")
    worker.send(Type.PRE_SLEEP).settle()
    for function in (b"other", b"f", b"f", b"g"):
        client.submit(Type.SUBMIT_JOB_BG, function)
    assert worker.hear() == ("NOOP",)
    worker.settle()
    assert [worker.grab()[0] != b"" for _ in range(4)] == [True, True, True, False]


def test_a_worker_that_falls_asleep_over_a_job_is_woken_at_once(peer: Connect) -> None:
    client, worker = peer(), peer().can_do(b"f")
    client.submit(Type.SUBMIT_JOB_BG, b"f")
    assert worker.ask(Type.PRE_SLEEP) == ("NOOP",)
    assert worker.ask(Type.PRE_SLEEP) == ("NOOP",)


def test_a_worker_is_not_woken_before_it_sleeps(peer: Connect) -> None:
    client, worker = peer(), peer().can_do(b"f")
    client.submit(Type.SUBMIT_JOB_BG, b"f")
    worker.settle()
    worker.grab()
    worker.send(Type.PRE_SLEEP).settle()
    assert worker.grab() == (b"", b"")  # that ends the sleep
    client.submit(Type.SUBMIT_JOB_BG, b"f")
    worker.settle()


def test_all_sleepers_of_the_function_are_woken(peer: Connect) -> None:
    client = peer()
    workers = [peer().can_do(b"f").send(Type.PRE_SLEEP).settle() for _ in range(3)]
    other = peer().can_do(b"g").send(Type.PRE_SLEEP).settle()
    client.submit(Type.SUBMIT_JOB, b"f")
    assert [worker.hear() for worker in workers] == [("NOOP",)] * 3
    other.settle()


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
    assert sorted(admin.lines(b"show unique jobs")) == [b"u1", b"u2"]
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


@pytest.mark.parametrize(
    "text", [b"", b"frobnicate", b"show", b"create function", b"drop", b"maxqueue", b"shutdown"]
)
def test_a_wrong_command_is_an_err_and_the_connection_goes_on(peer: Connect, text: bytes) -> None:
    admin = peer()
    assert admin.line(text).startswith(b"ERR ")
    assert admin.line(b"version").startswith(b"OK ")


def test_lines_and_packets_may_be_mixed(peer: Connect) -> None:
    both = peer()
    echo = encode(REQUEST, Type.ECHO_REQ, b"x")
    both.raw(echo + b"verbose\r\n" + echo)
    assert both.hear() == ("ECHO_RES", b"x")
    assert both.text() == b"OK ERROR"
    assert both.hear() == ("ECHO_RES", b"x")


# ---- bad streams


@pytest.mark.parametrize(
    "data",
    [b"\0RES" + bytes(8), b"\0FOO" + bytes(8), b"\0REQ\0\0\0\x63" + bytes(4), b"x" * 9000 + b"\n"],
    ids=["response", "magic", "type", "line"],
)
def test_nonsense_closes_that_connection_only(peer: Connect, data: bytes) -> None:
    bad, good = peer(), peer()
    bad.settle().raw(data)
    assert all(said[0] == "ERROR" for said in bad.ended())
    good.settle()
    peer().settle()
