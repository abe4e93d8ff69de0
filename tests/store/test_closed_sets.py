"""Words of a closed set are checked where a value is made: no database stores one that nobody knows."""

from collections.abc import Callable
from typing import Any

import pytest

from garivini.errors import UsageError
from garivini.model.job import Handle, NewJob
from garivini.model.outcome import Report, Setback, Settled
from garivini.model.policy import FunctionPolicy
from garivini.store.database import Database

HANDLE = Handle(1, 1, 1)
PLAIN: dict[str, Any] = {"funcname": "f", "arg": b"", "uniqkey": None, "coalesce": None, "delay": 0}
WRONG: Any = "failled"


def new(flag: Any, priority: Any) -> NewJob:
    return NewJob(**PLAIN, flag=flag, priority=priority)


@pytest.mark.parametrize(
    ("make", "known"),
    [
        (lambda word: Setback(handle=HANDLE, kind=word), "failed, rescheduled, discarded, parked"),
        (lambda word: Settled(word), "applied, repeated, stale, gone"),
        (lambda word: Report(HANDLE, word, b""), "status, data, warning"),
        (lambda word: new(word, "normal"), "shim, controller"),
        (lambda word: new("shim", word), "high, normal, low"),
        (lambda word: FunctionPolicy(envelope=word), "json, latin-1, raw"),
    ],
)
@pytest.mark.parametrize("word", ["failled", "", "FAILED", None, 1, b"failed", ["failed"]])
def test_construction_refuses_a_word_outside_its_closed_set(
    make: Callable[[Any], object], known: str, word: Any
) -> None:
    if word is None and make(word) == FunctionPolicy() if "json" in known else False:
        return  # no envelope is set
    with pytest.raises(UsageError, match=f"is unknown: it is one of {known}"):
        make(word)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lease": "60"},
        {"lease": 60.5},
        {"deadline": True},
        {"max_failures": "5"},
        {"retention": 1.5},
        {"renews": "no"},
        {"renews": 1},
    ],
)
def test_set_function_refuses_a_policy_of_another_type(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        FunctionPolicy(**wrong)


def test_complete_refuses_a_list_of_values_that_are_no_numbers_and_deletes_nothing(
    database: Database,
) -> None:
    (first, *_) = database.insert([new("shim", "normal") for _ in range(3)])
    wrong: list[Any] = [True, "1 OR 1=1", None, 1.5, b"1", [1]]
    for value in wrong:
        for jobids in ([first.jobid, value], [value]):
            with pytest.raises(UsageError):
                database.complete(jobids)
            with pytest.raises(UsageError):
                database.give_back([Handle(jobid, 1, 1) for jobid in jobids])
        with pytest.raises(UsageError):
            database.get(value)
    assert len(database.jobs()) == 3
