"""Whatever one connection sends, right or wrong: the others are served as if it were not there."""

import time
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from garivini.gearman.jobs import Limits
from garivini.gearman.packets import REQUEST, RESPONSE, Type, encode
from tests import servers
from tests.gearman.peer import Peer

#: Seconds of processor time within which all others must have their answers, whatever else the machine does.
PROMPT = 2.0
#: So small that a few requests come up against them. Jobs have more room than all requests of one stream can
#: fill, for the jobs of the others must have their place.
LIMITS = Limits(
    jobs=40, job_bytes=20_000_000, function_bytes=60_000, registration_bytes=60_000, buffered=400_000
)

names = st.sampled_from(
    [b"f", b"g", b"", b"a\tb", b"a\nb", b"x\n.\ny", b".", b"\xff\xfe", b"\x1b[2J", b"x" * 8000, b"x" * 9000]
) | st.binary(max_size=12)
fields = (
    names
    | st.sampled_from(
        [b"-", b"u" * 63, b"u" * 64, b"H:none:1", b"H:none:1\0", b"9" * 400, b"-1", b"exceptions"]
    )
    | st.binary(max_size=40)
    | st.integers(0, 100_000).map(bytes)
)
packets = st.sampled_from(Type).flatmap(
    lambda kind: st.tuples(*(fields for _ in kind.fields)).map(lambda values: encode(REQUEST, kind, *values))
)
#: Wrong in the number of fields, the type, the magic or the length.
broken = st.one_of(
    st.tuples(st.sampled_from(Type), st.lists(fields, max_size=4)).map(
        lambda it: encode(REQUEST, it[0], *it[1])
    ),
    st.integers(0, 2**32 - 1).map(lambda kind: REQUEST + kind.to_bytes(4, "big") + bytes(4)),
    st.tuples(st.sampled_from(Type), st.integers(0, 2**32 - 1)).map(
        lambda it: REQUEST + it[0].to_bytes(4, "big") + it[1].to_bytes(4, "big")
    ),
    packets.map(lambda packet: RESPONSE + packet[4:]),
    packets.map(lambda packet: packet[: len(packet) // 2]),
)
lines = st.one_of(
    st.sampled_from(
        [b"status", b"prioritystatus", b"workers", b"show jobs", b"show unique jobs", b"version", b"getpid"]
    ),
    st.tuples(
        st.sampled_from(
            [b"cancel job", b"create function", b"drop function", b"maxqueue", b"show", b"verbose"]
        ),
        fields,
    ).map(b" ".join),
    st.binary(max_size=60),
    st.just(b"POST / HTTP/1.1"),
).map(lambda line: line + b"\r\n")
ends = st.sampled_from(["close", "half close", "stay"])


def check_others(client: Peer, worker: Peer) -> None:
    """Let a job go the whole way between two that were there before, and two new ones."""
    for function in (b"good", b"good\ttoo"):
        worker.can_do(function)
        handle = client.submit(Type.SUBMIT_JOB_HIGH, function, b"mine", b"data")
        assert worker.ask(Type.GRAB_JOB_UNIQ) == ("JOB_ASSIGN_UNIQ", handle, function, b"mine", b"data")
        worker.send(Type.WORK_COMPLETE, handle, b"result")
        assert client.hear() == ("WORK_COMPLETE", handle, b"result")
    assert client.status(b"good") == (0, 0, 1)
    assert len(client.lines(b"show jobs")) <= LIMITS.jobs


def run(stream: list[bytes], end: str) -> None:
    began = time.process_time()
    with servers.embedded(max_body=300_000, limits=LIMITS) as address:
        with Peer(address) as client, Peer(address) as worker, Peer(address) as bad:
            worker.can_do(b"good", b"good\ttoo")
            with suppress(ConnectionError):
                bad.raw(b"".join(stream))
            check_others(client, worker)
            if end == "close":
                bad.close()
            elif end == "half close":
                with suppress(OSError):
                    bad.socket.shutdown(1)
            check_others(client, worker)
        with Peer(address) as client, Peer(address) as worker:
            check_others(client, worker)
    assert time.process_time() - began < PROMPT


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(packets | broken | lines | st.binary(max_size=100), min_size=1, max_size=8), ends)
def test_whatever_one_connection_sends_the_others_are_served_within_2_s(
    stream: list[bytes], end: str
) -> None:
    run(stream, end)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(packets | broken | lines | st.binary(max_size=100), min_size=1, max_size=30), ends)
def test_whatever_much_one_connection_sends_the_others_are_served(stream: list[bytes], end: str) -> None:
    run(stream, end)
