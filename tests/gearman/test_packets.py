"""Packets and lines: what the table says, and that no way of cutting or spoiling a stream matters."""

import itertools
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from garivini.errors import ProtocolError, UsageError
from garivini.gearman.packets import (
    MAX_BODY,
    MAX_FUNCTION,
    MAX_LINE,
    MAX_UNIQUE,
    REQUEST,
    RESPONSE,
    Decoder,
    Line,
    Packet,
    Type,
    check_function,
    check_unique,
    encode,
)

ECHO = encode(REQUEST, Type.ECHO_REQ, b"x")
GRAB = encode(REQUEST, Type.GRAB_JOB)


def decode(*pieces: bytes, lines: bool = True) -> list[Packet | Line]:
    decoder = Decoder(REQUEST, lines=lines)
    return [item for piece in pieces for item in decoder.feed(piece)]


def sample(kind: Type) -> Packet:
    """One packet of the kind, each field another and the last with a NUL byte."""
    fields = [b"field %d" % i for i in range(len(kind.fields))]
    if fields:
        fields[-1] += b"\0tail"
    return Packet(kind, fields)


# ---- the table


def test_numbers_are_those_of_the_protocol() -> None:
    assert {kind.name: int(kind) for kind in Type} == {
        "CAN_DO": 1,
        "CANT_DO": 2,
        "RESET_ABILITIES": 3,
        "PRE_SLEEP": 4,
        "NOOP": 6,
        "SUBMIT_JOB": 7,
        "JOB_CREATED": 8,
        "GRAB_JOB": 9,
        "NO_JOB": 10,
        "JOB_ASSIGN": 11,
        "WORK_STATUS": 12,
        "WORK_COMPLETE": 13,
        "WORK_FAIL": 14,
        "GET_STATUS": 15,
        "ECHO_REQ": 16,
        "ECHO_RES": 17,
        "SUBMIT_JOB_BG": 18,
        "ERROR": 19,
        "STATUS_RES": 20,
        "SUBMIT_JOB_HIGH": 21,
        "SET_CLIENT_ID": 22,
        "CAN_DO_TIMEOUT": 23,
        "ALL_YOURS": 24,
        "WORK_EXCEPTION": 25,
        "OPTION_REQ": 26,
        "OPTION_RES": 27,
        "WORK_DATA": 28,
        "WORK_WARNING": 29,
        "GRAB_JOB_UNIQ": 30,
        "JOB_ASSIGN_UNIQ": 31,
        "SUBMIT_JOB_HIGH_BG": 32,
        "SUBMIT_JOB_LOW": 33,
        "SUBMIT_JOB_LOW_BG": 34,
        "SUBMIT_JOB_SCHED": 35,
        "SUBMIT_JOB_EPOCH": 36,
        "SUBMIT_REDUCE_JOB": 37,
        "SUBMIT_REDUCE_JOB_BACKGROUND": 38,
        "GRAB_JOB_ALL": 39,
        "JOB_ASSIGN_ALL": 40,
        "GET_STATUS_UNIQUE": 41,
        "STATUS_RES_UNIQUE": 42,
    }


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Type.GRAB_JOB, ()),
        (Type.SUBMIT_JOB_LOW_BG, ("function", "unique", "data")),
        (Type.JOB_ASSIGN, ("handle", "function", "data")),
        (Type.JOB_ASSIGN_UNIQ, ("handle", "function", "unique", "data")),
        (Type.WORK_COMPLETE, ("handle", "data")),
        (Type.WORK_FAIL, ("handle",)),
        (Type.WORK_STATUS, ("handle", "numerator", "denominator")),
        (Type.STATUS_RES, ("handle", "known", "running", "numerator", "denominator")),
        (Type.ERROR, ("code", "text")),
    ],
)
def test_fields_are_named_in_the_order_of_the_wire(kind: Type, fields: tuple[str, ...]) -> None:
    assert kind.fields == fields


def test_a_packet_on_the_wire_is_magic_type_length_and_fields_joined_by_nul() -> None:
    packet = encode(REQUEST, Type.SUBMIT_JOB_BG, b"fn", b"", b"a\0b")
    assert packet == b"\0REQ" + b"\0\0\0\x12" + b"\0\0\0\x07" + b"fn\0\0a\0b"
    assert encode(RESPONSE, Type.NOOP) == b"\0RES\0\0\0\x06\0\0\0\0"


# ---- whole, cut, joined


@pytest.mark.parametrize("kind", list(Type))
def test_a_packet_comes_back_whatever_the_cut(kind: Type) -> None:
    wanted = sample(kind)
    data = encode(REQUEST, kind, *wanted.fields)
    assert decode(data) == [wanted]
    assert decode(*(data[i : i + 1] for i in range(len(data)))) == [wanted]
    for cut in range(len(data) + 1):
        assert decode(data[:cut], data[cut:]) == [wanted]


@pytest.mark.parametrize("kind", list(Type))
def test_what_follows_a_packet_stays_for_the_next(kind: Type) -> None:
    decoder = Decoder(REQUEST)
    data = encode(REQUEST, kind, *sample(kind).fields)
    assert list(decoder.feed(data + ECHO[:7])) == [sample(kind)]
    assert decoder.buffered == 7
    assert list(decoder.feed(ECHO[7:] + data)) == [Packet(Type.ECHO_REQ, [b"x"]), sample(kind)]
    assert decoder.buffered == 0


def test_a_packet_is_not_given_before_its_last_byte() -> None:
    assert decode(ECHO[:-1]) == []


def test_empty_fields_stay_empty() -> None:
    assert decode(encode(REQUEST, Type.SUBMIT_JOB, b"", b"", b"")) == [
        Packet(Type.SUBMIT_JOB, [b"", b"", b""])
    ]


def test_a_body_where_none_is_due_is_passed_over() -> None:
    odd = b"\0REQ" + int(Type.GRAB_JOB).to_bytes(4, "big") + b"\0\0\0\x03abc"
    assert decode(odd + ECHO) == [Packet(Type.GRAB_JOB, []), Packet(Type.ECHO_REQ, [b"x"])]


def test_lines_and_packets_may_be_mixed_whatever_the_cut() -> None:
    data = b"status\r\n" + ECHO + b"version\n" + b"\r\n" + GRAB
    wanted = [
        Line(b"status"),
        Packet(Type.ECHO_REQ, [b"x"]),
        Line(b"version"),
        Line(b""),
        Packet(Type.GRAB_JOB, []),
    ]
    assert decode(data) == wanted
    for cut in range(len(data) + 1):
        assert decode(data[:cut], data[cut:]) == wanted


# ---- spoilt


@pytest.mark.parametrize("data", [b"\0RES", b"\0REX", b"\0x", b"\0RER"])
def test_a_wrong_magic_is_seen_before_the_header_is_whole(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a Gearman packet"):
        decode(data)


def test_a_line_where_none_is_allowed_is_a_wrong_magic() -> None:
    with pytest.raises(ProtocolError, match="not a Gearman packet"):
        decode(b"GET / HTTP/1.1\r\n", lines=False)


@pytest.mark.parametrize("number", [0, 5, 43, 2**32 - 1])
def test_an_unknown_type_is_refused(number: int) -> None:
    with pytest.raises(ProtocolError, match="unknown packet type"):
        decode(b"\0REQ" + number.to_bytes(4, "big") + bytes(4))


def test_a_result_may_leave_its_last_field_out() -> None:
    """As Perl's Gearman::Worker sends an empty one."""
    short = encode(REQUEST, Type.WORK_COMPLETE, b"H:1")
    assert list(Decoder(REQUEST).feed(short)) == [Packet(Type.WORK_COMPLETE, [b"H:1", b""])]


@pytest.mark.parametrize(
    "kind", [kind for kind in Type if len(kind.fields) > 1 and kind.name != "WORK_COMPLETE"]
)
def test_too_few_fields_are_refused(kind: Type) -> None:
    short = [b"x"] * (len(kind.fields) - 1)
    with pytest.raises(ProtocolError, match=kind.name):
        decode(encode(REQUEST, kind, *short))


def test_what_came_before_the_fault_is_given() -> None:
    items = Decoder(REQUEST).feed(ECHO + GRAB + b"\0RES" + bytes(8))
    assert next(items) == Packet(Type.ECHO_REQ, [b"x"])
    assert next(items) == Packet(Type.GRAB_JOB, [])
    with pytest.raises(ProtocolError):
        next(items)


def test_a_body_over_the_limit_is_refused_on_its_header_and_nothing_is_allocated() -> None:
    header = b"\0REQ" + int(Type.ECHO_REQ).to_bytes(4, "big") + (MAX_BODY + 1).to_bytes(4, "big")
    decoder = Decoder(REQUEST)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="limit"):
            list(decoder.feed(header))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_the_limit_itself_is_allowed() -> None:
    decoder = Decoder(REQUEST, max_body=10)
    assert list(decoder.feed(encode(REQUEST, Type.ECHO_REQ, b"x" * 10))) == [
        Packet(Type.ECHO_REQ, [b"x" * 10])
    ]
    with pytest.raises(ProtocolError, match="limit"):
        list(decoder.feed(encode(REQUEST, Type.ECHO_REQ, b"x" * 11)))


def test_a_line_may_be_as_long_as_the_limit_and_no_longer() -> None:
    longest = b"x" * (MAX_LINE - 1)
    assert decode(longest + b"\n") == [Line(longest)]
    with pytest.raises(ProtocolError, match="line"):
        decode(longest + b"x\n")
    with pytest.raises(ProtocolError, match="line"):
        decode(longest, b"x")  # and its end is not waited for


# ---- properties

packets = st.sampled_from(Type).flatmap(
    lambda kind: st.builds(
        Packet,
        st.just(kind),
        st.tuples(
            *(st.binary(max_size=8).map(lambda field: field.replace(b"\0", b"")) for _ in kind.fields[1:]),
            *(st.binary(max_size=40) for _ in kind.fields[:1]),
        ).map(list),
    )
)
lines = st.binary(max_size=30).map(lambda text: Line(b"l" + text.translate(None, b"\r\n")))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@settings(max_examples=50)
@given(st.lists(packets | lines, max_size=6), st.lists(st.integers(0, 10_000), max_size=8))
def test_any_stream_comes_back_under_any_cut(items: list[Packet | Line], places: list[int]) -> None:
    data = b"".join(
        encode(REQUEST, item.type, *item.fields) if isinstance(item, Packet) else item.text + b"\r\n"
        for item in items
    )
    assert decode(*cut(data, places)) == items


headers = st.builds(
    lambda magic, kind, length: magic + kind.to_bytes(4, "big") + length.to_bytes(4, "big"),
    st.sampled_from([REQUEST, RESPONSE]),
    st.integers(0, 50),
    st.integers(0, 60) | st.integers(0, 2**32 - 1),
)


@settings(max_examples=50)
@given(st.lists(headers | st.binary(max_size=60), max_size=6), st.booleans())
def test_garbage_is_a_protocol_error_and_nothing_else(pieces: list[bytes], with_lines: bool) -> None:
    decoder = Decoder(REQUEST, lines=with_lines, max_body=1000)
    try:
        for piece in pieces:
            for item in decoder.feed(piece):
                assert isinstance(item, Line) or len(item.fields) == len(item.type.fields)
    except ProtocolError:
        pass
    assert decoder.buffered <= 60 * len(pieces)


# ---- names


@pytest.mark.parametrize(
    "name",
    [b"f", b"a:b/c-d_e.f", "größe".encode(), b"x" * MAX_FUNCTION, b"a b", b"a\tb", b"\x1b[1m", b"\xff"],
)
def test_a_good_function_name_is_returned(name: bytes) -> None:
    assert check_function(name) == name


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"x" * (MAX_FUNCTION + 1),
        b"a\n",
        b"\rb",
        b"a\0b",
    ],
)
def test_a_function_name_that_breaks_lines_or_fields_is_refused(name: bytes) -> None:
    with pytest.raises(UsageError, match="function name"):
        check_function(name)


@pytest.mark.parametrize("unique", [b"", b"-", b"a b", b"x" * MAX_UNIQUE])
def test_a_good_unique_is_returned(unique: bytes) -> None:
    assert check_unique(unique) == unique


def test_a_unique_that_would_be_cut_or_split_is_refused() -> None:
    assert MAX_UNIQUE == 63  # gearmand keeps this many
    for unique in (b"x" * 64, b"a\0b"):
        with pytest.raises(UsageError, match="unique"):
            check_unique(unique)
