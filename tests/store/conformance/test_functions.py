"""What is set for functions: alike in every kind of database."""

from dataclasses import replace

import pytest

from garivini.model.job import Handle
from garivini.model.outcome import failure
from garivini.model.policy import FunctionPolicy
from garivini.model.retry import BackoffCurve, RetryEntry, RetryPolicy
from garivini.model.state import State
from garivini.model.when import Offset
from garivini.store.database import Database
from tests.store.conformance.jobs import put, settle
from tests.store.conftest import Backend


def test_functions_has_none_at_first(database: Database) -> None:
    assert database.functions() == {}


def test_set_function_keeps_what_is_set(database: Database) -> None:
    policy = FunctionPolicy(
        lease=30, deadline=600, renews=True, envelope="raw", max_failures=3, cancel_grace=31_536_000
    )
    database.set_function("fün", policy)
    database.set_function("g", FunctionPolicy(renews=False))
    assert database.functions() == {"fün": policy, "g": FunctionPolicy(renews=False)}
    database.set_function("fün", FunctionPolicy(lease=40))
    assert database.function_settings()["fün"].policy == replace(policy, lease=40)


def test_set_function_leaves_other_settings(database: Database) -> None:
    database.set_function("f", FunctionPolicy(lease=30, renews=True))
    database.set_function("f", FunctionPolicy(lease=40, max_failures=3))
    assert database.functions() == {"f": FunctionPolicy(lease=40, renews=True, max_failures=3)}


def test_set_function_goes_back_to_the_defaults(database: Database) -> None:
    database.set_function("f", FunctionPolicy(lease=30))
    database.set_function("g", FunctionPolicy(lease=30))
    database.unset_function("f")
    assert database.functions().keys() == {"g"}


def test_set_function_gives_a_function_its_own_number_of_failures(database: Database) -> None:
    database.set_function("f", FunctionPolicy(max_failures=2))
    mine, other = put(database), put(database, funcname="g")
    states = [settle(database, Handle(jobid, 1), "failed").state for jobid in (mine, mine, other, other)]
    assert states == [State.WAITING, State.DEAD, State.WAITING, State.WAITING]


# ---- declared and overridden


def test_register_functions_without_a_setting_changes_nothing(database: Database) -> None:
    assert not database.register_functions({"f": FunctionPolicy()})
    assert database.function_settings() == {}


def test_register_functions_declares_and_set_function_overrides_until_unset(database: Database) -> None:
    assert database.register_functions({"f": FunctionPolicy(lease=30, renews=True, max_failures=3)})
    database.set_function("f", FunctionPolicy(max_failures=7, timeout=1.5))
    assert not database.register_functions({"f": FunctionPolicy(lease=30, renews=True, max_failures=3)})
    assert database.functions() == {"f": FunctionPolicy(lease=30, renews=True, max_failures=7, timeout=1.5)}
    assert database.register_functions({"f": FunctionPolicy(renews=True, max_failures=4)})
    assert database.functions() == {"f": FunctionPolicy(renews=True, max_failures=7, timeout=1.5)}
    settings = database.function_settings()["f"]
    assert settings.declared == {"renews": True, "max_failures": 4}
    assert settings.override == {"max_failures": 7, "timeout": 1.5}
    origins = [settings.origin(name) for name in ("renews", "max_failures", "timeout", "lease")]
    assert origins == ["declared", "override", "override", None]
    database.unset_function("f")
    assert database.functions() == {"f": FunctionPolicy(renews=True, max_failures=4)}


def test_register_functions_leaves_what_plain_sql_has_set(database: Database, backend: Backend) -> None:
    table = "`function`" if database.dialect == "mysql" else "function"
    no = "FALSE" if database.dialect == "postgresql" else "0"
    backend.execute(f"INSERT INTO {table} (funcname, lease, renews) VALUES ('f', 30, {no})")
    database.register_functions({"f": FunctionPolicy(renews=True, max_failures=3)})
    assert database.functions() == {"f": FunctionPolicy(lease=30, renews=False, max_failures=3)}
    assert database.function_settings()["f"].origin("lease") == "row"
    database.unset_function("f")
    assert database.functions() == {"f": FunctionPolicy(renews=True, max_failures=3)}


def test_functions_ignores_settings_that_are_not_valid(database: Database, backend: Backend) -> None:
    table = "`function`" if database.dialect == "mysql" else "function"
    backend.execute(f"INSERT INTO {table} (funcname, lease, retry, declared) VALUES ('f', 30, 'no', '[1')")
    assert database.functions() == {"f": FunctionPolicy(lease=30)}
    job = put(database)
    assert settle(database, Handle(job, 1), "failed").state is State.WAITING
    database.set_function("f", FunctionPolicy(max_failures=1))
    assert settle(database, Handle(job, 1), "failed").state is State.DEAD


# ---- retry policies


@pytest.mark.parametrize(
    ("policy", "delays"),
    [
        (RetryPolicy(backoff=(5, 10)), [5, 10, 10, 10]),
        (RetryPolicy(backoff=BackoffCurve(3, factor=3, cap=50, jitter=0)), [3, 9, 27, 50]),
    ],
)
def test_settle_delays_by_the_retry_policy_of_the_function(
    database: Database, policy: RetryPolicy, delays: list[int]
) -> None:
    database.set_function("f", FunctionPolicy(retry=policy.text))
    jobid = put(database)
    assert [settle(database, Handle(jobid, 1), "failed").delay for _ in delays] == delays


def test_settle_decides_by_the_first_entry_that_names_a_class_of_the_error(database: Database) -> None:
    policy = RetryPolicy(
        backoff=(1,),
        errors=(
            RetryEntry("KeyError", backoff=(7,)),
            RetryEntry("builtins.LookupError", discard=True),
            RetryEntry("OSError"),
        ),
        others="discard",
    )
    database.set_function("f", FunctionPolicy(retry=policy.text))
    for error, expected in (
        (KeyError("k"), (State.WAITING, 1, 7)),
        (IndexError("i"), (State.DEAD, 0, None)),
        (ConnectionError("c"), (State.WAITING, 1, 1)),
        (ValueError("v"), (State.DEAD, 0, None)),
        ("text alone", (State.DEAD, 0, None)),
    ):
        handle = Handle(put(database), 1)
        (settled,) = database.settle([failure(handle, error)])
        assert settled[1:] == expected, error
        (record,) = database.failures(handle.jobid)
        kind = "failed" if expected[0] is State.WAITING else "discarded"
        assert (record.kind, record.message) == (kind, str(error))


def test_settle_matches_the_error_of_a_setback_without_classes(database: Database) -> None:
    policy = RetryPolicy(errors=(RetryEntry("WORK_EXCEPTION", discard=True), RetryEntry("TimeLimit", (9,))))
    database.set_function("f", FunctionPolicy(retry=policy.text))
    found = [
        settle(database, Handle(put(database), 1), "failed", error=error)[1:]
        for error in ("WORK_EXCEPTION", "TimeLimit")
    ]
    assert found == [(State.DEAD, 0, None), (State.WAITING, 1, 9)]


def test_settle_obeys_a_given_time_and_the_maximum_of_failures_before_the_policy(database: Database) -> None:
    policy = RetryPolicy(backoff=(5,), others="discard")
    database.set_function("f", FunctionPolicy(retry=policy.text))
    handle = Handle(put(database), 1)
    assert settle(database, handle, "failed", when=Offset(3)).delay == 3
    assert settle(database, handle, "rescheduled", error="Retry", when=Offset(4)).delay == 4
    database.set_function("f", FunctionPolicy(retry=RetryPolicy(backoff=(5,)).text, max_failures=3))
    assert settle(database, handle, "failed").delay == 5
    assert settle(database, handle, "failed").state is State.DEAD
