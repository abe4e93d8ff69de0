"""The client's and worker's side: what they send, and what they make of what comes."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garivini.errors import ProtocolError, UsageError
from garivini.gearman.packets import REQUEST, RESPONSE, Decoder, Packet, Type, encode
from garivini.gearman.protocol import (
    Assigned,
    Batch,
    ClientProtocol,
    Created,
    Echoed,
    Event,
    Finished,
    JobStatus,
    Lines,
    OptionSet,
    Priority,
    Refused,
    Rejected,
    Submission,
    Unknown,
    Unsent,
    Update,
    WorkerProtocol,
)
from tests.gearman.exchange import Exchange

H = b"H:test:1"
JOB = Submission(b"f", b"data")


def said(kind: Type, *fields: bytes) -> bytes:
    return encode(RESPONSE, kind, *fields)


def sent(protocol: ClientProtocol[Any] | WorkerProtocol) -> list[str]:
    items = Decoder(REQUEST).feed(protocol.data_to_send())
    return [item.type.name for item in items if isinstance(item, Packet)]


@pytest.fixture
def client() -> ClientProtocol[str]:
    return ClientProtocol()


@pytest.fixture
def exchange() -> Exchange:
    return Exchange()


# ---- client: requests and their answers


@pytest.mark.parametrize("foreground", [False, True])
@pytest.mark.parametrize("priority", list(Priority))
def test_a_submit_says_priority_and_kind_in_its_type(
    client: ClientProtocol[str], priority: Priority, foreground: bool
) -> None:
    size = client.submit("job", Submission(b"f", b"d", b"u", priority), foreground=foreground)
    data = client.data_to_send()
    (packet,) = Decoder(REQUEST).feed(data)
    infix = "" if priority is Priority.NORMAL else f"_{priority.name}"
    assert isinstance(packet, Packet)
    assert packet.type.name == f"SUBMIT_JOB{infix}" + ("" if foreground else "_BG")
    assert packet.fields == [b"f", b"u", b"d"]
    assert size == len(data)
    assert client.data_to_send() == b""


def test_each_request_gets_its_own_kind_of_answer(client: ClientProtocol[str], exchange: Exchange) -> None:
    exchange.join(client)
    client.submit("submit", JOB._replace(unique=b"u"))
    client.echo("echo", b"hello")
    client.option("option", b"exceptions")
    client.status("status", H)
    client.status_unique("unique", b"u")
    client.command("version", b"version", block=False)
    client.command("jobs", b"show jobs", block=True)
    client.command("none", b"workers", block=True)
    assert client.pending == 8
    assert exchange.run()[client] == [
        ("submit", Created(H)),
        ("echo", Echoed(b"hello")),
        ("option", OptionSet(b"exceptions")),
        ("status", JobStatus(known=True, running=False, numerator=0, denominator=0)),
        ("unique", JobStatus(known=True, running=False, numerator=0, denominator=0)),
        ("version", Lines([b"OK 9"])),
        ("jobs", Lines([H + b"\t0\t0\t1"])),
        ("none", Lines([b"0 127.0.0.1 - :"])),
    ]
    assert client.pending == 0


def test_a_refused_request_does_not_shift_the_answers_of_the_others(
    client: ClientProtocol[str], exchange: Exchange
) -> None:
    exchange.join(client)
    exchange.broker.function(b"full").limits = [1, 1, 1]
    for name in ("first", "second", "third"):
        client.submit(name, Submission(b"full", b""), foreground=True)
    client.command("wrong", b"frobnicate", block=True)
    client.echo("echo", b"x")
    client.option("option", b"frob")
    client.submit("other", JOB)
    answers = dict(exchange.run()[client])
    assert [type(answer) for answer in answers.values()] == [
        Created,
        Refused,
        Refused,
        Refused,
        Echoed,
        Refused,
        Created,
    ]
    assert answers["second"].code == b"QUEUE_ERROR"
    assert answers["wrong"].code == b"UNKNOWN_COMMAND"
    assert answers["option"].code == b"UNKNOWN_OPTION"
    assert answers["other"] != answers["first"]


def test_a_request_that_cannot_travel_adds_nothing(client: ClientProtocol[str]) -> None:
    for call in (
        lambda: client.submit("x", Submission(b"a b", b"")),
        lambda: client.submit("x", Submission(b"f", b"", b"u" * 64)),
        lambda: client.status("x", b"h" * 64),
        lambda: client.status_unique("x", b"u" * 64),
        lambda: client.command("x", b"status\r\nshutdown", block=True),
        lambda: client.command("x", b"\0REQ", block=True),
    ):
        with pytest.raises(UsageError):
            call()
    assert client.pending == 0
    assert client.data_to_send() == b""


def test_an_err_line_ends_a_command_that_waits_for_lines(client: ClientProtocol[str]) -> None:
    client.command("a", b"drop function f", block=True)
    client.command("b", b"status", block=True)
    events = client.receive(b"ERR UNKNOWN_FUNCTION no such\r\nf\t1\t0\t0\n.\n")
    assert list(events) == [
        ("a", Refused(b"UNKNOWN_FUNCTION", b"no such")),
        ("b", Lines([b"f\t1\t0\t0"])),
    ]


def test_a_command_ends_with_both_bytes_of_a_line_end(client: ClientProtocol[str]) -> None:
    client.command("a", b"create function f", block=False)
    assert client.data_to_send() == b"create function f\r\n"


def test_lines_of_a_block_may_come_in_pieces(client: ClientProtocol[str]) -> None:
    client.command("a", b"status", block=True)
    events = [
        event for piece in (b"f\t1", b"\t0\t0\ng\t0\t0\t0\n", b".", b"\n") for event in client.receive(piece)
    ]
    assert events == [("a", Lines([b"f\t1\t0\t0", b"g\t0\t0\t0"]))]


@pytest.mark.parametrize(
    "data",
    [
        said(Type.JOB_CREATED, H),  # not what was asked
        said(Type.STATUS_RES, b"h", b"1", b"0", b"0", b"0"),
        said(Type.NOOP),
        b"OK\r\n",  # a line where a packet is due
        encode(REQUEST, Type.ECHO_RES, b"x"),
    ],
)
def test_an_answer_of_the_wrong_kind_is_a_protocol_error(client: ClientProtocol[str], data: bytes) -> None:
    client.echo("echo", b"x")
    with pytest.raises(ProtocolError):
        list(client.receive(data))
    assert client.lost() == [("echo", Unknown())]


@pytest.mark.parametrize("data", [said(Type.ECHO_RES, b"x"), said(Type.ERROR, b"A", b"b"), b"OK\r\n"])
def test_an_answer_that_nobody_asked_for_is_a_protocol_error(
    client: ClientProtocol[str], data: bytes
) -> None:
    with pytest.raises(ProtocolError):
        list(client.receive(data))


@pytest.mark.parametrize("number", [b"", b"x", b"-1", b"9" * 21])
def test_progress_that_is_no_number_is_a_protocol_error(client: ClientProtocol[str], number: bytes) -> None:
    client.status("s", H)
    with pytest.raises(ProtocolError, match="number"):
        list(client.receive(said(Type.STATUS_RES, H, b"1", b"1", number, b"0")))


# ---- client: foreground jobs


def test_a_foreground_job_reports_and_ends(client: ClientProtocol[str], exchange: Exchange) -> None:
    worker = WorkerProtocol([b"f"])
    exchange.join(client, worker)
    client.submit("job", JOB, foreground=True)
    events = exchange.run()
    assert events[client] == [("job", Created(H))]
    assert events[worker] == [Assigned(H, b"f", b"", b"data")]
    worker.complete(H, b"result")
    assert exchange.run()[client] == [("job", Finished(Type.WORK_COMPLETE, b"result"))]
    assert client.lost() == []


def test_updates_come_before_the_end(client: ClientProtocol[str]) -> None:
    client.submit("job", JOB, foreground=True)
    events = client.receive(
        said(Type.JOB_CREATED, H)
        + said(Type.WORK_STATUS, H, b"1", b"2")
        + said(Type.WORK_DATA, H, b"a\0b")
        + said(Type.WORK_WARNING, H, b"w")
        + said(Type.WORK_EXCEPTION, H, b"boom")
    )
    assert list(events) == [
        ("job", Created(H)),
        ("job", Update(Type.WORK_STATUS, [b"1", b"2"])),
        ("job", Update(Type.WORK_DATA, [b"a\0b"])),
        ("job", Update(Type.WORK_WARNING, [b"w"])),
        ("job", Finished(Type.WORK_EXCEPTION, b"boom")),
    ]


def test_submits_that_were_merged_each_hear_every_report_once(
    client: ClientProtocol[str], exchange: Exchange
) -> None:
    worker = WorkerProtocol([b"f"])
    exchange.join(client, worker)
    for name in ("one", "two"):
        client.submit(name, JOB._replace(unique=b"u"), foreground=True)
    created = exchange.run()[client]
    assert created == [("one", Created(H)), ("two", Created(H))]
    # The worker's side sends no reports, so the server's copies are written out: one a submit.
    data = said(Type.WORK_DATA, H, b"1") * 2 + said(Type.WORK_DATA, H, b"2") * 2
    assert list(client.receive(data)) == [
        ("one", Update(Type.WORK_DATA, [b"1"])),
        ("two", Update(Type.WORK_DATA, [b"1"])),
        ("one", Update(Type.WORK_DATA, [b"2"])),
        ("two", Update(Type.WORK_DATA, [b"2"])),
    ]
    worker.fail(H)
    end = Finished(Type.WORK_FAIL, b"")
    assert exchange.run()[client] == [("one", end), ("two", end)]


def test_a_nul_behind_the_handle_of_a_failure_does_not_hide_the_job(client: ClientProtocol[str]) -> None:
    client.submit("job", JOB, foreground=True)
    assert list(client.receive(said(Type.JOB_CREATED, H) + said(Type.WORK_FAIL, H + b"\0"))) == [
        ("job", Created(H)),
        ("job", Finished(Type.WORK_FAIL, b"")),
    ]


def test_reports_come_between_answers_and_do_not_take_their_place(client: ClientProtocol[str]) -> None:
    client.submit("job", JOB, foreground=True)
    list(client.receive(said(Type.JOB_CREATED, H)))
    client.echo("echo", b"x")
    events = client.receive(said(Type.WORK_COMPLETE, H, b"r") + said(Type.ECHO_RES, b"x"))
    assert list(events) == [("job", Finished(Type.WORK_COMPLETE, b"r")), ("echo", Echoed(b"x"))]


def test_reports_of_a_job_that_nobody_waits_for_are_passed_over(client: ClientProtocol[str]) -> None:
    client.submit("job", JOB)  # background
    data = said(Type.JOB_CREATED, H) + said(Type.WORK_DATA, H, b"x") + said(Type.WORK_COMPLETE, H, b"")
    assert list(client.receive(data)) == [("job", Created(H))]


def test_a_lost_connection_ends_everything_as_unknown(client: ClientProtocol[str]) -> None:
    client.submit("created", JOB, foreground=True)
    list(client.receive(said(Type.JOB_CREATED, H)))
    client.submit("submit", JOB)
    client.echo("echo", b"x")
    client.command("status", b"status", block=True)
    list(client.receive(b""))
    tags = {tag for tag, event in client.lost() if event == Unknown()}
    assert tags == {"created", "submit", "echo", "status"}
    assert client.lost() == []
    assert client.data_to_send() == b""


# ---- client: batches


def callbacks() -> ClientProtocol[Callable[[Event], None]]:
    return ClientProtocol()


def deliver(protocol: ClientProtocol[Callable[[Event], None]], data: bytes) -> None:
    for tag, event in protocol.receive(data):
        tag(event)


def test_a_batch_learns_what_became_of_each_job(exchange: Exchange) -> None:
    protocol = callbacks()
    exchange.join(protocol)
    exchange.broker.function(b"full").limits = [1, 1, 1]
    jobs = [JOB, Submission(b"full", b""), Submission(b"full", b""), Submission(b"a b", b""), JOB]
    batch = Batch(jobs)
    batch.write(protocol)
    done_before = batch.done
    for tag, event in exchange.run()[protocol]:
        tag(event)
    assert (done_before, batch.done) == (False, True)
    first, second, full, unfit, last = batch.results
    assert [type(result) for result in (first, second, last)] == [Created] * 3
    assert len({first, second, last}) == 3
    assert isinstance(full, Refused)
    assert full.code == b"QUEUE_ERROR"
    assert isinstance(unfit, Refused)
    assert unfit.code == b"USAGE"
    assert b"white space" in unfit.text


def test_a_batch_of_jobs_that_cannot_travel_is_done_without_an_answer() -> None:
    protocol = callbacks()
    batch = Batch([Submission(b"", b"")] * 3)
    batch.write(protocol)
    assert batch.done
    assert protocol.data_to_send() == b""


def test_a_batch_stops_at_its_window_of_jobs_and_goes_on_as_answers_come() -> None:
    protocol = callbacks()
    count = 3 * Batch.WINDOW_JOBS
    batch = Batch([JOB] * count)
    answered = most = 0
    while not batch.done:
        for _ in range(10):
            batch.write(protocol)
        most = max(most, protocol.pending)
        protocol.data_to_send()
        handles = range(answered, answered + min(100, protocol.pending))
        assert handles, "a batch with no answer due has stopped"
        deliver(protocol, b"".join(said(Type.JOB_CREATED, b"H:%d" % n) for n in handles))
        answered += len(handles)
    assert answered == count
    assert Batch.WINDOW_JOBS // 2 < most <= Batch.WINDOW_JOBS
    assert batch.results == [Created(b"H:%d" % n) for n in range(count)]


def test_a_batch_stops_at_its_window_of_bytes() -> None:
    protocol = callbacks()
    batch = Batch([Submission(b"f", bytes(Batch.WINDOW_BYTES // 4))] * 20)
    for _ in range(10):
        batch.write(protocol)
    assert protocol.pending == 4
    deliver(protocol, said(Type.JOB_CREATED, H) * 4)
    batch.write(protocol)
    assert protocol.pending == 4


def test_a_job_over_the_window_of_bytes_goes_alone() -> None:
    protocol = callbacks()
    batch = Batch([Submission(b"f", bytes(2 * Batch.WINDOW_BYTES))] * 2)
    batch.write(protocol)
    batch.write(protocol)
    assert protocol.pending == 1
    deliver(protocol, said(Type.JOB_CREATED, H))
    batch.write(protocol)
    deliver(protocol, said(Type.JOB_CREATED, H))
    assert batch.results == [Created(H)] * 2


def test_a_lost_connection_leaves_written_jobs_unknown_and_the_rest_unsent() -> None:
    protocol = callbacks()
    batch = Batch([JOB] * (Batch.CHUNK + 10))
    batch.write(protocol)
    deliver(protocol, said(Type.JOB_CREATED, H))
    for tag, event in protocol.lost():
        tag(event)
    assert batch.done
    assert batch.results == [Created(H), *[Unknown()] * (Batch.CHUNK - 1), *[Unsent()] * 10]
    batch.write(protocol)
    assert protocol.data_to_send() == b""


# ---- worker


def test_a_worker_registers_each_function_once_and_asks_for_its_slots() -> None:
    worker = WorkerProtocol([b"f", b"g", b"f"], slots=2, client_id=b"me")
    assert sent(worker) == ["SET_CLIENT_ID", "CAN_DO", "CAN_DO", "GRAB_JOB_UNIQ", "GRAB_JOB_UNIQ"]
    assert worker.waiting == 2
    assert not worker.quiet


def test_a_worker_that_cannot_register_says_so() -> None:
    with pytest.raises(UsageError):
        WorkerProtocol([b"a b"])


def assigned(handle: bytes) -> bytes:
    return said(Type.JOB_ASSIGN_UNIQ, handle, b"f", b"u", b"d\0d")


def fresh(slots: int) -> WorkerProtocol:
    """A worker whose first requests have been written."""
    worker = WorkerProtocol([b"f"], slots=slots)
    worker.data_to_send()
    return worker


def test_an_assignment_is_given_whole_and_fills_a_slot() -> None:
    worker = fresh(1)
    assert worker.receive(assigned(H)) == [Assigned(H, b"f", b"u", b"d\0d")]
    assert (worker.held, worker.waiting) == (1, 0)
    assert sent(worker) == []


def test_the_end_of_a_job_and_the_next_grab_go_out_together() -> None:
    worker = fresh(1)
    worker.receive(assigned(H))
    worker.complete(H, b"r")
    assert worker.data_to_send() == encode(REQUEST, Type.WORK_COMPLETE, H, b"r") + encode(
        REQUEST, Type.GRAB_JOB_UNIQ
    )


@pytest.mark.parametrize("end", ["complete", "fail", "exception"])
def test_a_job_can_be_ended_once_and_only_where_it_is_held(end: str) -> None:
    worker = fresh(1)
    worker.receive(assigned(H))
    finish = getattr(worker, end)
    arguments = [b"text"] if end == "exception" else []
    finish(H, *arguments)
    assert sent(worker)[0] == f"WORK_{end.upper()}"
    with pytest.raises(UsageError, match="not held"):
        finish(H, *arguments)
    assert sent(worker) == []


def test_a_worker_sleeps_only_when_every_grab_found_nothing() -> None:
    worker = fresh(3)
    worker.receive(said(Type.NO_JOB))
    assert sent(worker) == []
    worker.receive(said(Type.NO_JOB))
    assert sent(worker) == []
    worker.receive(said(Type.NO_JOB))
    assert sent(worker) == ["PRE_SLEEP"]
    assert worker.quiet


def test_a_wake_up_while_a_grab_is_out_is_passed_over() -> None:
    worker = fresh(2)
    worker.receive(said(Type.NO_JOB) + said(Type.NOOP))
    assert sent(worker) == []
    worker.receive(said(Type.NO_JOB))
    assert sent(worker) == ["PRE_SLEEP"]


def test_a_sleeper_asks_for_all_slots_when_woken() -> None:
    worker = fresh(2)
    worker.receive(said(Type.NO_JOB) * 2)
    assert sent(worker) == ["PRE_SLEEP"]
    worker.receive(said(Type.NOOP))
    assert sent(worker) == ["GRAB_JOB_UNIQ"] * 2


def test_a_worker_that_holds_a_job_sleeps_for_its_free_slot() -> None:
    worker = fresh(2)
    worker.receive(assigned(H) + said(Type.NO_JOB))
    assert sent(worker) == ["PRE_SLEEP"]
    worker.complete(H)
    assert sent(worker) == ["WORK_COMPLETE"]  # it sleeps: the server had nothing
    worker.receive(said(Type.NOOP))
    assert sent(worker) == ["GRAB_JOB_UNIQ"] * 2


def test_a_job_found_after_a_grab_that_found_nothing_keeps_the_worker_asking() -> None:
    # Between two grabs of one write another connection may submit. Without the next grab nothing
    # would ever wake the worker: it did not say that it sleeps.
    worker = fresh(2)
    worker.receive(said(Type.NO_JOB) + assigned(H))
    assert sent(worker) == ["GRAB_JOB_UNIQ"]
    worker.receive(said(Type.NO_JOB))
    assert sent(worker) == ["PRE_SLEEP"]


def test_raised_slots_are_asked_for_and_lowered_ones_are_not() -> None:
    worker = fresh(1)
    worker.slots = 3
    worker.ask()
    assert sent(worker) == ["GRAB_JOB_UNIQ"] * 2
    worker.receive(assigned(b"1") + assigned(b"2") + assigned(b"3"))
    worker.slots = 1
    for handle in (b"1", b"2"):
        worker.complete(handle)
        assert sent(worker) == ["WORK_COMPLETE"]
    worker.complete(b"3")
    assert sent(worker) == ["WORK_COMPLETE", "GRAB_JOB_UNIQ"]


def test_no_slots_drain_the_worker() -> None:
    worker = fresh(2)
    worker.receive(assigned(b"1"))
    worker.slots = 0
    worker.complete(b"1")
    assert sent(worker) == ["WORK_COMPLETE"]
    quiet_before = worker.quiet  # a job may still come for the other grab
    assert worker.receive(assigned(b"2")) == [Assigned(b"2", b"f", b"u", b"d\0d")]
    worker.complete(b"2")
    assert (quiet_before, worker.quiet) == (False, True)
    worker.receive(said(Type.NOOP))
    assert sent(worker) == ["WORK_COMPLETE"]


def test_a_sleeper_asks_again_only_when_told_to() -> None:
    worker = fresh(1)
    worker.receive(said(Type.NO_JOB))
    sent(worker)
    worker.ask()
    assert sent(worker) == []
    worker.ask(again=True)
    assert sent(worker) == ["GRAB_JOB_UNIQ"]
    worker.ask(again=True)  # one is out already
    assert sent(worker) == []


def test_echoes_are_counted_until_answered() -> None:
    worker = fresh(0)
    worker.echo(b"beat")
    assert sent(worker) == ["ECHO_REQ"]
    assert worker.waiting == 1
    worker.receive(said(Type.ECHO_RES, b"beat"))
    assert worker.waiting == 0


def test_a_rejected_end_is_told_and_harms_nothing(exchange: Exchange) -> None:
    worker = WorkerProtocol([b"f"])
    exchange.join(worker)
    exchange.run()
    (text,) = worker.receive(said(Type.ERROR, b"JOB_NOT_FOUND", b"gone"))
    assert text == Rejected(b"JOB_NOT_FOUND", b"gone")
    assert exchange.run()[worker] == []


@pytest.mark.parametrize(
    "data",
    [
        assigned(b"1") + assigned(b"1"),
        assigned(b"1") + assigned(b"2") + assigned(b"3"),
        said(Type.NO_JOB) * 3,
        said(Type.ECHO_RES, b""),
        said(Type.JOB_ASSIGN, H, b"f", b"d"),
        said(Type.WORK_COMPLETE, H, b""),
        b"OK\r\n",
    ],
    ids=["twice", "unasked", "no grab", "no echo", "other assign", "not for workers", "line"],
)
def test_what_a_server_cannot_say_to_a_worker_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        fresh(2).receive(data)


def test_workers_drain_a_queue_and_sleep(exchange: Exchange) -> None:
    protocol = callbacks()
    workers = [WorkerProtocol([b"f"], slots=3) for _ in range(2)]
    exchange.join(protocol, *workers)
    batch = Batch([JOB._replace(data=b"%d" % n) for n in range(100)])
    done: list[bytes] = []
    batch.write(protocol)
    while True:
        events = exchange.run()
        jobs = [(worker, job) for worker in workers for job in events[worker]]
        if not jobs:
            break
        for worker, job in jobs:
            assert worker.held <= 3
            done.append(job.data)
            worker.complete(job.handle)
    assert sorted(done, key=int) == [b"%d" % n for n in range(100)]
    assert all(worker.quiet for worker in workers)
    assert exchange.asleep == set(workers)
    protocol.submit(lambda event: None, JOB)
    events = exchange.run()
    assert sum(len(events[worker]) for worker in workers) == 1


# ---- properties

responses = st.sampled_from(Type).flatmap(
    lambda kind: st.tuples(
        *(st.sampled_from([b"", b"1", b"x", H, b"H:test:2", H + b"\0"]) for _ in kind.fields)
    ).map(lambda fields: encode(RESPONSE, kind, *fields))
)
streams = st.lists(
    responses | st.sampled_from([b"OK\r\n", b".\n", b"ERR A b\n"]) | st.binary(max_size=20), max_size=12
)


@given(streams)
def test_a_client_answers_garbage_with_a_protocol_error_only(pieces: list[bytes]) -> None:
    client: ClientProtocol[int] = ClientProtocol()
    for tag in range(0, 12, 4):
        client.submit(tag, JOB, foreground=True)
        client.status(tag + 1, H)
        client.command(tag + 2, b"status", block=True)
        client.echo(tag + 3, b"x")
    answers = dict.fromkeys(range(12), 0)
    created: set[int] = set()
    try:
        for piece in pieces:
            for tag, event in client.receive(piece):
                answers[tag] += not isinstance(event, Update)
                if isinstance(event, Created) and tag % 4 == 0:
                    created.add(tag)
    except ProtocolError:
        pass
    for tag, event in client.lost():
        assert event == Unknown()
        answers[tag] += 1
    # Each request has one answer, and each foreground job that was created one end besides.
    assert answers == {tag: 1 + (tag in created) for tag in range(12)}


@given(streams, st.integers(0, 3))
def test_a_worker_answers_garbage_with_a_protocol_error_only(pieces: list[bytes], slots: int) -> None:
    worker = WorkerProtocol([b"f"], slots=slots)
    try:
        for piece in pieces:
            for event in worker.receive(piece):
                assert isinstance(event, Assigned | Rejected)
            assert worker.held + worker.waiting <= slots
    except ProtocolError:
        pass
