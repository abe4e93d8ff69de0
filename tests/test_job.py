"""A job's envelope, handle and checks: bytes stay bytes, and what cannot be stored or read is refused."""

import dis
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import CodeType, FunctionType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import force_setattr, replace

from garivini.errors import UsageError
from garivini.model.handles import handle_of
from garivini.model.inserted import Inserted
from garivini.model.job import Handle, Job, unique_of
from garivini.model.limits import MAX_ARG, MAX_DBID, MAX_JOBID, MAX_LEASE
from garivini.model.new_jobs import new_job
from garivini.model.payload import decode_payload, encode_payload
from garivini.model.state import State
from garivini.store.job_rows import from_due_rows

ALL_BYTES = bytes(range(256))


def job(**fields: Any) -> Job:
    return Job(**{"jobid": 1, "dbid": 1, "funcname": "f", "arg": b"", **fields})


def payload(**fields: Any) -> bytes:
    """A payload as another program may write it."""
    return json.dumps({"jobid": 1, "dbid": 1, "funcname": "f", "arg": "x", **fields}).encode()


def codes(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of a function, and of those inside of it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


@pytest.mark.parametrize("function", [from_due_rows, Job.from_insert, encode_payload, decode_payload])
def test_what_is_called_per_job_passes_no_arguments_in_a_dictionary(function: Callable[..., Any]) -> None:
    """As CPython does with too many of them: see ``Job``."""
    plain = getattr(function, "__func__", function)
    assert isinstance(plain, FunctionType)
    names = {it.opname for code in codes(plain.__code__) for it in dis.get_instructions(code)}
    assert "CALL_FUNCTION_EX" not in names


# ---- the envelope


@given(st.binary(max_size=50), st.booleans())
def test_a_payload_can_be_read_without_its_argument(arg: bytes, latin1: bool) -> None:
    whole = job(arg=arg, attempt=3, lease=60, uniqkey="k")
    assert decode_payload(encode_payload(whole, latin1=latin1), with_arg=False) == replace(whole, arg=b"")


def test_an_argument_that_cannot_be_read_matters_only_to_who_reads_it() -> None:
    sent = payload(arg="ä", arg_encoding="neither")
    assert decode_payload(sent, with_arg=False).jobid == 1
    with pytest.raises(UsageError, match="neither"):
        decode_payload(sent)


@pytest.mark.parametrize(
    ("arg", "text", "encoding"),
    [
        (b"", "", "utf-8"),
        (b"world", "world", "utf-8"),
        ("Grüße \U0001f40c".encode(), "Grüße \U0001f40c", "utf-8"),
        (b'{"a": "\\u0000"}\n', '{"a": "\\u0000"}\n', "utf-8"),
        (b"\0\x1f\x7f", "\0\x1f\x7f", "utf-8"),
        (b"\xff\x00", "/wA=", "base64"),
    ],
)
def test_an_argument_travels_as_its_text_or_as_base64_and_says_which(
    arg: bytes, text: str, encoding: str
) -> None:
    sent = json.loads(encode_payload(job(arg=arg)))
    assert (sent["arg"], sent["arg_encoding"]) == (text, encoding)
    assert decode_payload(encode_payload(job(arg=arg))).arg == arg


def test_all_bytes_come_back_from_base64() -> None:
    sent = encode_payload(job(arg=ALL_BYTES))
    assert json.loads(sent)["arg_encoding"] == "base64"
    assert decode_payload(sent).arg == ALL_BYTES


def test_latin_1_is_the_form_of_the_original_each_byte_as_the_code_point_of_its_number() -> None:
    sent = encode_payload(job(arg=ALL_BYTES), latin1=True)
    assert json.loads(sent)["arg"] == "".join(map(chr, range(256)))
    assert json.loads(sent)["arg_encoding"] == "latin-1"
    assert decode_payload(sent).arg == ALL_BYTES


@settings(max_examples=50)
@given(arg=st.binary(max_size=200) | st.text().map(str.encode), latin1=st.booleans())
def test_any_bytes_come_back_exactly(arg: bytes, latin1: bool) -> None:
    assert decode_payload(encode_payload(job(arg=arg), latin1=latin1)).arg == arg


def test_every_field_of_the_wire_comes_back() -> None:
    sent = job(
        jobid=MAX_JOBID,
        dbid=MAX_DBID,
        funcname="fün",
        arg=b"a",
        uniqkey="k\n\"'",
        coalesce="c",
        run_after=1_700_000_000,
        flag="controller",
        failcount=255,
        attempt=2**32 - 1,
        lease=60,
        lease_end=1_700_000_061,
        created=1_699_999_999,
        incarnation=2**32 - 1,
    )
    assert decode_payload(encode_payload(sent)) == sent


def test_unique_has_no_incarnation() -> None:
    """A QueueRunner of a version without it asks the servers about the same uniques."""
    assert job(attempt=1, incarnation=7).unique == job(attempt=1).unique == b"1:1:1"


def test_the_payload_has_the_keys_of_the_original() -> None:
    sent = json.loads(encode_payload(job()))
    keys = {"jobid", "dbid", "funcname", "arg", "uniqkey", "coalesce", "run_after", "flag", "failcount"}
    assert keys <= sent.keys()
    assert sent["uniqkey"] is None
    assert type(sent["jobid"]) is int


def test_a_payload_of_the_original_is_read() -> None:
    # Its database driver hands numbers over as text; it names neither encoding nor attempt.
    written = (
        b'{"jobid":"42","dbid":"3","funcname":"hello","arg":"caf\xc3\xa9","uniqkey":null,"coalesce":null,'
        b'"run_after":"1313572984","flag":"shim","failcount":"2"}'
    )
    read = decode_payload(written)
    assert read == Job(
        jobid=42,
        dbid=3,
        funcname="hello",
        arg=b"caf\xe9",
        run_after=1313572984,
        flag="shim",
        failcount=2,
        attempt=None,
    )
    assert read.handle == Handle(42, 3, None)


def test_a_payload_of_a_later_version_is_read() -> None:
    later = {"later": {"nested": [1, None, {"a": 1.5}]}, "Arg": "x", "": 2**70}
    sent = json.dumps(json.loads(encode_payload(job())) | later).encode()
    assert decode_payload(sent) == decode_payload(encode_payload(job()))
    assert decode_payload(sent, with_arg=False).handle == job().handle
    assert decode_payload(payload(priority="urgent", flag="later")).priority == "normal"


def test_null_fields_of_a_payload_mean_their_defaults() -> None:
    read = decode_payload(payload(arg=None, run_after=None, flag=None, failcount=None, attempt=None))
    assert read == job(arg=b"", run_after=0, flag="shim", failcount=0, attempt=None)


def test_a_payload_may_be_text_and_have_keys_of_other_programs() -> None:
    extra = payload(zebra=[1, {"x": None}], state="dead").decode()
    assert decode_payload(extra) == job(arg=b"x")
    assert decode_payload(payload(priority="high")).priority == "high"
    assert decode_payload(payload(priority="urgent")).priority == "normal"


@pytest.mark.parametrize(
    "malformed",
    [
        b"",
        b"hello",
        b"null",
        b"[]",
        b"42",
        b"{}",
        b'{"dbid": 1}',
        b'{"jobid": 1}',
        b'{"jobid": NaN, "dbid": 1}',
        b'{"jobid": 1e400, "dbid": 1}',
        b'{"jobid": 1, "dbid": 1',
        b'{"jobid": 1, "dbid": 1} x',
        b'\xff{"jobid": 1, "dbid": 1}',
        b'{"jobid": 1, "dbid": 1, "arg": "\xff"}',
        b'{"jobid": 1, "dbid": 1, "arg": "\\ud800"}',
        '{"jobid": 1, "dbid": 1, "arg": "\ud800"}',
        b"[" * 100_000,
        b'{"jobid": ' + b"9" * 5000 + b', "dbid": 1}',
    ],
)
def test_what_is_no_payload_is_refused(malformed: bytes | str) -> None:
    with pytest.raises(UsageError, match="not the payload of a Garivini job"):
        decode_payload(malformed)


def test_a_payload_is_read_or_refused_however_deep_what_it_adds_is() -> None:
    """An interpreter sets the limit: a number of levels, or from Python 3.14 on the size of the stack."""
    for depth in (100, 100_000, 5_000_000):
        try:
            job = decode_payload(b'{"jobid": 1, "dbid": 2, "x": ' + b"[" * depth + b"]" * depth + b"}")
        except UsageError:
            assert depth > 100
        else:
            assert (job.jobid, job.dbid) == (1, 2)


@pytest.mark.parametrize(
    "fields",
    [
        {"jobid": 0},
        {"jobid": -1},
        {"jobid": MAX_JOBID + 1},
        {"jobid": 10**30},
        {"jobid": str(10**30)},
        {"jobid": 1.5},
        {"jobid": True},
        {"jobid": None},
        {"jobid": "x"},
        {"jobid": [1]},
        {"dbid": 0},
        {"dbid": MAX_DBID + 1},
        {"arg": 5},
        {"arg": {"nested": 1}},
        {"funcname": None},
        {"uniqkey": 5},
        {"failcount": -1},
        {"attempt": -1},
        {"attempt": 10**30},
        {"lease": 10**30},
        {"lease": 4294967295},
        {"lease": MAX_LEASE + 1},
        {"lease": -1},
        {"attempt": 2**32},
        {"run_after": 2**32},
        {"funcname": "f" * 201},
        {"uniqkey": "k" * 256},
        {"coalesce": "k" * 256},
        {"lease_end": 10**30},
        {"run_after": ""},
        {"arg": "Ā"},
        {"arg": "Ā", "arg_encoding": "latin-1"},
        {"arg": "a", "arg_encoding": "base64"},
        {"arg": "é", "arg_encoding": "base64"},
        {"arg": '"', "arg_encoding": "base64"},
        {"arg_encoding": "utf-16"},
        {"arg_encoding": None},
    ],
)
def test_a_payload_with_a_wrong_field_is_refused(fields: Mapping[str, Any]) -> None:
    with pytest.raises(UsageError, match="not the payload of a Garivini job"):
        decode_payload(payload(**fields))


@settings(max_examples=50)
@given(st.binary() | st.text(st.characters()))
def test_any_bytes_or_text_are_a_job_or_refused(data: bytes | str) -> None:
    with suppress(UsageError):
        assert isinstance(decode_payload(data), Job)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=3,
)
FIELDS = ("jobid", "dbid", "funcname", "arg", "run_after", "failcount", "attempt", "lease", "arg_encoding")


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))
def test_any_value_in_any_field_is_a_job_with_a_sound_handle_or_refused(fields: dict[str, Any]) -> None:
    try:
        read = decode_payload(payload(**fields))
    except UsageError:
        return
    assert handle_of(read) == read.handle
    assert len(read.unique) < 63


# ---- handles


@pytest.mark.parametrize(
    "form",
    [
        job(jobid=7, dbid=2, attempt=3),
        Handle(7, 2, 3),
        {"jobid": 7, "dbid": 2, "attempt": 3},
        {"jobid": "7", "dbid": "2", "attempt": "3", "arg": "x"},
        payload(jobid=7, dbid=2, attempt=3),
        payload(jobid=7, dbid=2, attempt=3).decode(),
        encode_payload(job(jobid=7, dbid=2, attempt=3)),
    ],
)
def test_every_form_of_a_handle_with_an_attempt_is_fenced_by_it(form: Any) -> None:
    assert handle_of(form) == Handle(7, 2, 3)


@pytest.mark.parametrize(
    "form",
    [
        (7, 2),
        [7, 2],
        Inserted(7, 2),
        Inserted(7, 2, new=False),
        Handle(7, 2),
        job(jobid=7, dbid=2),
        {"jobid": 7, "dbid": 2},
        {"jobid": "7", "dbid": "2", "attempt": None},
        payload(jobid="7", dbid="2"),
    ],
)
def test_every_form_of_a_handle_without_an_attempt_is_unfenced(form: Any) -> None:
    assert handle_of(form) == Handle(7, 2, None)


@pytest.mark.parametrize(
    "form",
    [
        None,
        7,
        7.5,
        (),
        (7,),
        (7, 2, 3),
        ("7", "2"),
        (7, None),
        (True, 2),
        (7.0, 2),
        (0, 1),
        (1, 0),
        (-1, 1),
        (MAX_JOBID + 1, 1),
        (1, MAX_DBID + 1),
        {},
        {"jobid": 7},
        {"dbid": 2},
        {"jobid": "x", "dbid": 1},
        {"jobid": "", "dbid": 1},
        {"jobid": "٣", "dbid": 1},
        {"jobid": "9" * 5000, "dbid": 1},
        {"jobid": 1.5, "dbid": 1},
        {"jobid": float("inf"), "dbid": 1},
        {"jobid": float("nan"), "dbid": 1},
        {"jobid": [7], "dbid": 1},
        {"jobid": True, "dbid": 1},
        {"jobid": 7, "dbid": 2, "attempt": "x"},
        {"jobid": 7, "dbid": 2, "attempt": -1},
        {"jobid": 7, "dbid": 2, "attempt": 2**70},
        Handle(7, 2, -1),
        Handle("x", 2),  # type: ignore[arg-type]
        job(jobid=0),
        Inserted(0, 1),
        b"",
        b"7",
        "{}",
        bytearray(b'{"jobid": 7, "dbid": 2}'),
    ],
)
def test_what_is_no_handle_is_refused(form: Any) -> None:
    with pytest.raises(UsageError):
        handle_of(form)


def test_a_handle_with_digits_as_text_becomes_numbers() -> None:
    found = handle_of({"jobid": "007", "dbid": "2"})
    assert [type(number) for number in found[:2]] == [int, int]


# ---- what a job may be


def test_a_new_job_has_the_defaults_of_the_original() -> None:
    made = new_job("hello", "wörld")
    assert (made.funcname, made.arg) == ("hello", "wörld".encode())
    assert (made.uniqkey, made.coalesce, made.flag, made.priority, made.delay) == (
        None,
        None,
        "shim",
        "normal",
        0,
    )


def test_every_value_is_kept() -> None:
    made = new_job("f", b"a", uniqkey="k", coalesce="c", flag="controller", priority="low", delay=9)
    assert (made.uniqkey, made.coalesce, made.flag, made.priority, made.delay) == (
        "k",
        "c",
        "controller",
        "low",
        9,
    )


@pytest.mark.parametrize(
    "funcname",
    ["f", "f" * 200, "ü" * 100, "a-b.c:d/e", "größe", "関数", "\U0001f40c", "prefix\tf", "a b", "\x1b"],
)
def test_a_function_name_of_1_to_200_bytes_is_taken(funcname: str) -> None:
    assert new_job(funcname, b"").funcname == funcname


@pytest.mark.parametrize(
    ("funcname", "reason"),
    [
        ("", "1 to 200 bytes, this one has 0"),
        ("f" * 201, "this one has 201"),
        ("ü" * 101, "this one has 202"),
        ("a ", "white space"),
        ("\ta", "white space"),
        ("a\n", "white space"),
        ("a\nb", "line break"),
        ("a\u2028b", "line break"),
        ("a\0b", "NUL"),
        ("\ud800", "surrogate"),
        (b"f", "a function name is a str, not bytes"),
        (None, "a function name is a str, not NoneType"),
    ],
)
def test_a_function_name_that_does_not_fit_is_refused(funcname: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        new_job(funcname, b"")


@pytest.mark.parametrize("arg", [{"a": 1}, [1], 5, None, bytearray(b"x"), memoryview(b"x")])
def test_an_argument_that_is_neither_bytes_nor_str_is_refused_with_advice(arg: Any) -> None:
    with pytest.raises(UsageError, match=r"json\.dumps"):
        new_job("f", arg)


def test_an_argument_with_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(UsageError, match="the argument has half of a surrogate pair"):
        new_job("f", "\ud800")


def test_an_argument_may_fill_the_column_and_no_more() -> None:
    assert len(new_job("f", bytes(MAX_ARG)).arg) == MAX_ARG
    with pytest.raises(UsageError, match="at most 16777215 bytes, this one 16777216"):
        new_job("f", bytes(MAX_ARG + 1))


def test_the_size_of_a_text_argument_is_counted_in_bytes() -> None:
    with pytest.raises(UsageError, match="this one 16777216"):
        new_job("f", "ü" * (MAX_ARG // 2 + 1))


@pytest.mark.parametrize("name", ["uniqkey", "coalesce"])
def test_an_empty_key_is_none(name: str) -> None:
    assert getattr(new_job("f", b"", **{name: ""}), name) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["uniqkey", "coalesce"])
@pytest.mark.parametrize("key", ["k", "ü" * 255, "with space\n", " ", "0"])
def test_a_key_of_up_to_255_characters_is_taken(name: str, key: str) -> None:
    assert getattr(new_job("f", b"", **{name: key}), name) == key  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["uniqkey", "coalesce"])
@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("k" * 256, "at most 255 characters, this one 256"),
        ("a\0b", "NUL"),
        ("\udfff", "surrogate"),
        (5, "is a str, not int"),
        (0, "is a str, not int"),
        (b"k", "is a str, not bytes"),
        (b"", "is a str, not bytes"),
    ],
)
def test_a_key_that_does_not_fit_is_refused(name: str, key: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        new_job("f", b"", **{name: key})


@pytest.mark.parametrize("flag", ["", None])
def test_no_flag_is_shim(flag: Any) -> None:
    assert new_job("f", b"", flag=flag).flag == "shim"


@pytest.mark.parametrize("flag", ["Shim", "x", 5, ["shim"]])
def test_an_unknown_flag_is_refused(flag: Any) -> None:
    with pytest.raises(UsageError, match="is unknown: it is one of shim, controller"):
        new_job("f", b"", flag=flag)


@pytest.mark.parametrize("priority", ["High", "urgent", 1])
def test_an_unknown_priority_is_refused(priority: Any) -> None:
    with pytest.raises(UsageError, match="is unknown: it is one of high, normal, low"):
        new_job("f", b"", priority=priority)


# ---- small things


def test_inserted_unpacks_and_indexes_as_jobid_and_dbid() -> None:
    inserted = Inserted(7, 2, new=False)
    jobid, dbid = inserted
    assert (jobid, dbid, inserted.new) == (7, 2, False)
    assert (inserted[0], inserted[1], inserted[-1], inserted[:], len(inserted)) == (7, 2, 2, (7, 2), 2)
    with pytest.raises(IndexError):
        inserted[2]


def test_the_unique_of_the_largest_ids_fits_what_a_gearman_server_keeps() -> None:
    unique = unique_of(MAX_DBID, MAX_JOBID, 2**32 - 1)
    assert unique == b"2147483647:9223372036854775807:4294967295"
    assert len(unique) <= 63


def test_each_attempt_has_a_unique_of_its_own() -> None:
    assert job(jobid=7, dbid=2, attempt=3).unique == b"2:7:3"
    assert job(jobid=7, dbid=2).unique == b"2:7:0"


def test_the_argument_is_decoded_from_json_on_request() -> None:
    assert job(arg=b'{"a": [1, null]}').json == {"a": [1, None]}


def test_an_argument_that_is_not_json_says_whose_it_is() -> None:
    with pytest.raises(UsageError, match="argument of job 7 is not JSON"):
        _ = job(jobid=7, arg=b"\xff").json


def test_the_numbers_of_the_states_are_those_of_the_row() -> None:
    assert [(state.name, int(state)) for state in State] == [
        ("WAITING", 0),
        ("LEASED", 1),
        ("RUNNING", 2),
        ("SUSPECT", 3),
        ("DEAD", 4),
    ]


def test_hash_of_a_job_is_the_same_when_it_is_superseded() -> None:
    job = Job(jobid=1, dbid=1, funcname="f", arg=b"")
    before = hash(job)
    force_setattr(job, "superseded", True)
    assert hash(job) == before
    assert job.superseded
    assert job.lost
    with pytest.raises(AttributeError):
        job.superseded = False  # type: ignore[misc]
