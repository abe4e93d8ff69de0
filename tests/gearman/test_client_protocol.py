"""The client's side: what it sends, and what it makes of what comes."""

import pytest
from hypothesis import given, settings
from msgspec.structs import replace

from garivini.errors import ProtocolError, UsageError
from garivini.gearman.packets import REQUEST, Decoder, Packet, Type, encode
from garivini.gearman.protocol import (
    Assigned,
    ClientProtocol,
    Created,
    Echoed,
    Finished,
    JobStatus,
    Lines,
    OptionSet,
    Priority,
    Refused,
    Submission,
    Unknown,
    Update,
    WorkerProtocol,
)
from tests.gearman.exchange import JOB, Exchange, H, said, streams


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
    client.submit("submit", replace(JOB, unique=b"u"))
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
    exchange.broker.functions.get_or_add(b"full").limits = [1, 1, 1]
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
        lambda: client.submit("x", Submission(b"a\nb", b"")),
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
        client.submit(name, replace(JOB, unique=b"u"), foreground=True)
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


# ---- any stream


@settings(max_examples=50)
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
