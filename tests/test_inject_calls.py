"""What a call of ``inject_jobs`` may say: read as jobs, or refused with a reason."""

import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garivini import UsageError
from garivini.model.inserted import Inserted
from garivini.model.limits import MAX_ARG
from garivini.model.state import State
from garivini.roles.inject_calls import MAX_JOBS, Rate, Rules, answer, read
from garivini.roles.injector import InjectorSettings


def call(*jobs: dict[str, Any]) -> bytes:
    """Return the payload of a call: an object, or an array of several."""
    return json.dumps(jobs[0] if len(jobs) == 1 else jobs).encode()


def test_a_job_has_the_values_that_were_sent() -> None:
    sent = {
        "funcname": "mail.send",
        "arg": "Grüße",
        "run_after": 60,
        "unique": "k",
        "coalesce": "group",
        "priority": "high",
        "partition": "customer",
    }
    ((job,), many) = read(call(sent), Rules())
    assert not many
    assert (job.funcname, job.arg, job.delay) == ("mail.send", "Grüße".encode(), 60)
    assert (job.uniqkey, job.coalesce, job.flag, job.priority) == ("k", "group", "controller", "high")
    assert job.partition == "customer"
    ((job,), _) = read(call({"funcname": "f", "flag": "shim", "uniqkey": "k"}), Rules())
    assert (job.flag, job.uniqkey, job.arg, job.delay) == ("shim", "k", b"", 0)


def test_an_array_is_one_call() -> None:
    jobs, many = read(b' [{"funcname":"a"},{"funcname":"b"}]', Rules())
    assert many
    assert [job.funcname for job in jobs] == ["a", "b"]
    assert read(b'[{"funcname":"a"}]', Rules())[1]


@pytest.mark.parametrize(
    ("fields", "arg"),
    [
        ('"arg": "/w==", "arg_encoding": "base64"', b"\xff"),
        ('"arg": "\\u00ff", "arg_encoding": "latin-1"', b"\xff"),
        ('"arg": "\\u00ff", "arg_encoding": "utf-8"', b"\xc3\xbf"),
        ('"arg": 12.50', b"12.50"),
        ('"arg": null', b""),
        ('"arg": "", "unknown_before": null', None),
        ('"arg": "x", "arg_encoding": "base64"', None),
        ('"arg": "\\u0100", "arg_encoding": "latin-1"', None),
        ('"arg": "x", "arg_encoding": "rot13"', None),
        ('"arg": 1, "arg_encoding": "base64"', None),
    ],
)
def test_an_argument_can_be_any_bytes(fields: str, arg: bytes | None) -> None:
    payload = b'{"funcname": "f", %s}' % fields.encode()
    if arg is None:
        with pytest.raises(UsageError):
            read(payload, Rules())
    else:
        assert read(payload, Rules())[0][0].arg == arg


@pytest.mark.parametrize("nested", ['{"b": [1, "\\u00fc"]}', "[1,  2]", "true"])
def test_nested_json_is_refused_or_kept_as_its_text(nested: str) -> None:
    payload = b'{"funcname": "f", "arg": %s}' % nested.encode()
    with pytest.raises(UsageError, match="encoding it twice"):
        read(payload, Rules())
    assert read(payload, Rules(json_args=True))[0][0].arg == nested.encode()


def test_numbers_may_be_text_and_text_a_number() -> None:
    """Perl's JSON has a scalar in the form in which it was used last."""
    ((job,), _) = read(b'{"funcname": "f", "run_after": "60", "unique": 42, "coalesce": 7}', Rules())
    assert (job.delay, job.uniqkey, job.coalesce) == (60, "42", "7")


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not a job in JSON"),
        (b"\xff", "not a job in JSON"),
        (b"3", "Expected `object`"),
        (b"[]", "1 to 10000 jobs, this one has 0"),
        (b"[[]]", "Expected `object`"),
        (b"[" * 200_000, "not a job in JSON"),
        # For its depth, or from Python 3.14 on, which allows more, for its end.
        (b'{"funcname": "f", "arg": ' + b"[" * 200_000, "not a job in JSON"),
        (b"{}", "missing required field `funcname`"),
        (b'{"funcname": 1}', r"Expected `str`, got `int` - at `\$.funcname`"),
        (b'{"funcname": "f", "uniq": "k"}', "unknown field `uniq`"),
        (b'{"funcname": "f", "run_after": -1}', "out of range"),
        (b'{"funcname": "f", "run_after": "soon"}', "number of seconds"),
        (b'{"funcname": "f", "run_after": 1700000000}', "out of range"),
        (b'{"funcname": "f", "flag": "odd"}', "one of shim, controller"),
        (b'{"funcname": "f", "unique": "a", "uniqkey": "b"}', "give one"),
        (b'{"funcname": "two\\nlines"}', "a line break"),
        (b'[{"funcname": "f"}, {"funcname": ""}]', "job 1 of the array: .*1 to 200 bytes"),
        (b'{"funcname": "inject_jobs"}', "the system's own"),
        (b'{"funcname": "run_queued_job"}', "the system's own"),
        (b'{"funcname": "garivini_wake", "flag": "shim"}', "the system's own"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_its_reason(payload: bytes, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        read(payload, Rules())


def test_there_are_limits() -> None:
    with pytest.raises(UsageError, match="at most 3 bytes here, this one 4"):
        read(call({"funcname": "f", "arg": "1234"}), Rules(max_arg=3))
    with pytest.raises(UsageError, match=f"at most {MAX_ARG} bytes"):
        read(call({"funcname": "f", "arg": "x" * (MAX_ARG + 1)}), Rules())
    with pytest.raises(UsageError, match="this one has 10001"):
        read(b"[" + b'{"funcname":"f"},' * MAX_JOBS + b'{"funcname":"f"}]', Rules())
    some = Rules(allow=["mail.*", "resize"])
    assert read(call({"funcname": "mail.send"}, {"funcname": "resize"}), some)
    for name in ("resize2", "Mail.send", "mail"):
        with pytest.raises(UsageError, match="not among those"):
            read(call({"funcname": name}), some)


_BRACES = b"{" * (MAX_JOBS + 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("payload", "rules", "reason"),
    [
        (
            b"[" + b'{"funcname":"f"},' * 1_000_000 + b"{}]",
            Rules(),
            "1 to 10000 jobs, this one has 10001 or more",
        ),
        (b"[" + b'{"a":"]}\\"{[","b":[{}]},' * 100_000 + b"{}]", Rules(), "this one has 10001 or more"),
        (b'[{"funcname":"f","arg":[' + b"{}," * 1_000_000 + b"{}]}]", Rules(json_args=True), "brackets"),
        (b'[{"funcname":"f","arg":' + b"[{" * 1_000_000, Rules(), "brackets"),
        (b"[" + _BRACES + b'"' + b"x" * 10_000_000, Rules(), "not a job in JSON"),
        (b"[" + b"[" * 10_000_000, Rules(), "not a job in JSON"),
        (b'{"funcname":"f","unique":' + b"9" * 10_000_000 + b"}", Rules(), "not a job in JSON"),
        (b'{"funcname":"f","arg":"' + b"x" * 10_000_000 + b'"}', Rules(max_arg=9), "at most 9 bytes here"),
    ],
    ids=["jobs", "texts", "objects", "deep", "no end", "lists", "digits", "argument"],
)
def test_a_call_beyond_the_limits_is_refused_at_once_and_without_memory(
    payload: bytes, rules: Rules, reason: str
) -> None:
    tracemalloc.start()
    began = time.thread_time()
    try:
        with pytest.raises(UsageError, match=reason):
            read(payload, rules)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert time.thread_time() - began < 2


def test_an_array_whose_arguments_have_many_braces_is_no_longer_than_it_is() -> None:
    braces = call(*({"funcname": "f", "arg": '{"a":"[{' * 20} for _ in range(MAX_JOBS)))
    assert len(read(braces, Rules())[0]) == MAX_JOBS
    nested = call(*({"funcname": "f", "arg": {"a": [{}]}} for _ in range(MAX_JOBS)))
    assert len(read(nested, Rules(json_args=True))[0]) == MAX_JOBS


def test_a_rate_is_so_many_a_second_and_as_many_at_once() -> None:
    rate = Rate(10)
    rate.use(10, 100.0)
    with pytest.raises(UsageError, match=r"10 jobs per second .* try again later"):
        rate.use(1, 100.05)
    rate.use(1, 100.11)
    with pytest.raises(UsageError, match="this call has more"):
        rate.use(11, 200.0)
    rate.use(10, 200.0)


def test_take_refuses_a_call_that_is_larger_than_the_rate_whatever_time_its_reading_took() -> None:
    rate = Rate(10)
    rate.use(1, 100.0)
    with pytest.raises(UsageError, match="this call has more"):
        rate.use(10, 101.0, used=1)
    rate.use(9, 101.0, used=1)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_KEYS = (
    *("arg", "arg_encoding", "run_after", "unique", "uniqkey", "coalesce", "flag", "priority", "partition"),
    "other",
)
_WORDS = st.sampled_from(
    ["f", "shim", "controller", "base64", "latin-1", "utf-8", "high", "12", "ÿ", "", "/w=="]
)
_objects = st.dictionaries(st.sampled_from(_KEYS), _WORDS | _json, max_size=4).flatmap(
    lambda fields: st.builds(lambda name: {"funcname": name, **fields}, _WORDS | _json)
)
_payloads = st.binary(max_size=60) | st.builds(
    lambda value: json.dumps(value).encode(), _json | _objects | st.lists(_objects, max_size=3)
)


@given(_payloads, st.booleans())
def test_any_payload_is_read_or_refused(payload: bytes, json_args: bool) -> None:
    try:
        jobs, many = read(payload, Rules(json_args=json_args))
    except UsageError:
        return
    assert jobs
    assert len(jobs) == 1 or many
    for job in jobs:
        assert 0 < len(job.funcname.encode()) <= 200
        assert job.flag in ("shim", "controller")
        assert job.lease == 0


def test_an_answer_is_one_object_or_an_array() -> None:
    stored = [Inserted(7, 2), Inserted(5, 1, new=False)]
    assert answer(stored[:1], many=False) == b'{"jobid":7,"dbid":2,"duplicate":false}'
    dead = Inserted(5, 1, new=False, state=State.DEAD)
    assert json.loads(answer([dead], many=False)) == {
        "jobid": 5,
        "dbid": 1,
        "duplicate": True,
        "state": "dead",
    }
    assert json.loads(answer(stored, many=True)) == [
        {"jobid": 7, "dbid": 2, "duplicate": False},
        {"jobid": 5, "dbid": 1, "duplicate": True},
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_arg": -1},
        {"max_arg": MAX_ARG + 1},
        {"rate": -1},
        {"calls": 0},
        {"lease": 2},
        {"lease": 604801},
        {"watermark": -1},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        InjectorSettings(**wrong)
