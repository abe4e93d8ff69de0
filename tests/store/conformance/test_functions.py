"""What is set for functions: alike in every kind of database."""

from garivini.model.job import Handle
from garivini.model.policy import FunctionPolicy
from garivini.model.state import State
from garivini.store.database import Database
from tests.store.conformance.jobs import put, settle


def test_functions_has_none_at_first(database: Database) -> None:
    assert database.functions() == {}


def test_set_function_keeps_what_is_set(database: Database) -> None:
    policy = FunctionPolicy(lease=30, deadline=600, renews=True, envelope="raw", max_failures=3)
    database.set_function("fün", policy)
    database.set_function("g", FunctionPolicy(renews=False))
    assert database.functions() == {"fün": policy, "g": FunctionPolicy(renews=False)}


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
