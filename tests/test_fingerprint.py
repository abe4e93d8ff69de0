"""What two failures of one cause have in common, and how they are counted."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garivini.model import fingerprint
from garivini.model.fingerprint import FailureGroup, FailureGroups, Occurrence, normalised


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("", ""),
        ("timed out after 30.5 s", "timed out after # s"),
        ("no file '/tmp/a b.txt' here", "no file '…' here"),
        ('key "x" and `y` are gone', 'key "…" and `…` are gone'),
        ("can't open 'it' and won't", "can't open '…' and won't"),
        ("no such user: 'bob", "no such user: '…'"),
        ("10.0.0.1:4730 refused, 3 tries", "# refused, # tries"),
        ("object at 0x7f3Ab2 died", "object at # died"),
        ("row 6fa459ea-ee8a-3ca4-894e-db77e160355e is locked", "row # is locked"),
        ("commit deadbeef12 of cafebabe", "commit # of cafebabe"),
        ("invoice12 of accede99", "invoice# of #"),
        ("two\n  lines\t\x1b[31m", "two lines \x1b[#m"),
        ("HTTP 503: Service Unavailable", "HTTP #: Service Unavailable"),
        ("grün 7", "grün #"),
    ],
)
def test_a_message_is_freed_of_what_differs(message: str, expected: str) -> None:
    assert normalised(message) == expected


@given(st.text(), st.integers(min_value=0), st.text(alphabet=st.characters(exclude_characters="'")))
def test_any_message_has_a_short_form_that_numbers_and_quotes_do_not_change(
    message: str, number: int, quoted: str
) -> None:
    assert len(normalised(message)) <= 200
    assert normalised(f"failed {number} times") == "failed # times"
    assert normalised(f"no '{quoted}'"[:500]) == "no '…'"


def test_a_hostile_message_takes_no_time() -> None:
    began = time.process_time()
    for hostile in (
        "'a" * 100_000,
        "0" * 100_000,
        "a-" * 100_000,
        '"`' * 100_000,
        "1." * 100_000,
        " " * 10**6,
    ):
        normalised(hostile)
    assert time.process_time() - began < 1


def failure(jobid: int, message: str, at: int = 1, kind: str = "failed", funcname: str = "f") -> Occurrence:
    return Occurrence(jobid, funcname, at, kind, "ValueError", message)


def test_failures_are_counted_by_their_fingerprint_with_the_newest_as_example() -> None:
    groups = FailureGroups()
    for each in (
        failure(1, "no 1", 10),
        failure(1, "no 2", 30),
        failure(2, "no 3", 20),
        failure(2, "other", 40),
        failure(3, "no 4", 50, funcname="g"),
        failure(4, "no 5", 60, kind="rescheduled"),
        failure(5, "no 6", 60, kind="omitted"),
        failure(6, "no 7", 5, kind="discarded"),
    ):
        groups.add(1, each)
    groups.add(2, failure(1, "no 8", 25))
    assert groups.most_frequent() == [
        FailureGroup("f", "ValueError", "no #", 5, 30, 1, 1, failures=5, jobs=4),
        FailureGroup("g", "ValueError", "no #", 50, 50, 3, 1, failures=1, jobs=1),
        FailureGroup("f", "ValueError", "other", 40, 40, 2, 1, failures=1, jobs=1),
    ]


def test_failures_beyond_the_maximum_of_groups_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "MAX_GROUPS", 2)
    groups = FailureGroups()
    for jobid, letter in enumerate("abcda"):
        groups.add(1, failure(jobid, letter))
    assert [(group.message, group.failures) for group in groups.most_frequent()] == [
        ("a", 2),
        ("…", 2),
        ("b", 1),
    ]
