"""What a Gearman server does, on the wire. Every test runs on the embedded server and on gearmand."""

import socket
from collections.abc import Callable

import pytest

from garivini.gearman.admin import parse_priority_status, parse_status, parse_workers
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


@pytest.mark.parametrize(
    "name",
    [b"prefix\tfunc", b"two words", b" x ", b"a\x01b", b"\x1b[31m", b"\xff\xfe", b"a\nb", b"", b"x" * 8000],
    ids=repr,
)
def test_any_function_name_reaches_its_worker(peer: Connect, name: bytes) -> None:
    handle = peer().submit(Type.SUBMIT_JOB_BG, name)
    assert peer().can_do(name).ask(Type.GRAB_JOB_UNIQ)[1:3] == (handle, name)


def test_status_of_a_function_with_tabs_is_read(peer: Connect) -> None:
    client, admin = peer(), peer()
    for name in (b"prefix\tfunc", b"a\tb\t1\t2", b"two words", b"a\nb"):
        client.submit(Type.SUBMIT_JOB_BG, name)
    assert set(parse_status(admin.lines(b"status"))) == {
        b"prefix\tfunc",
        b"a\tb\t1\t2",
        b"two words",
        b"a\nb",
    }
    assert len(parse_priority_status(admin.lines(b"prioritystatus"))) == 4
    worker = peer().called(b"worker").can_do(b"a\nb", b"f")
    names = {worker.client_id: worker for worker in parse_workers(admin.lines(b"workers"))}
    assert b"f" in names["worker"].functions
    worker.settle()


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


def test_a_nul_behind_a_handle_is_no_part_of_it(peer: Connect) -> None:
    # Workers that end every field with NUL send it so.
    client, worker = peer(), peer().can_do(b"f")
    handle = client.submit(Type.SUBMIT_JOB, b"f")
    worker.grab()
    worker.send(Type.WORK_FAIL, handle + b"\0")
    name, heard = client.hear()
    assert (name, heard.rstrip(b"\0")) == ("WORK_FAIL", handle)  # gearmand passes it on as it is


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
