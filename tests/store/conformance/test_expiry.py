"""Jobs that expire: alike in every kind of database."""

from typing import Any

import pytest

from garivini.errors import UsageError
from garivini.model.outcome import Setback, Settled
from garivini.model.policy import FunctionPolicy
from garivini.model.state import State
from garivini.store import claims, turn_claims
from garivini.store.database import Database
from tests.store.conformance.jobs import LEASE, NOON, claim, job, lane, put, stored
from tests.store.conftest import Clock

Discarded = list[tuple[Setback, Settled]]


@pytest.mark.parametrize(
    "rules", [None, FunctionPolicy(max_running=100), FunctionPolicy(partition_max_running=100)]
)
def test_claim_discards_jobs_that_have_expired(
    database: Database, clock: Clock, rules: FunctionPolicy | None
) -> None:
    clock.set(NOON)
    own, later, plain = (put(database, **fields) for fields in ({"expires": 10}, {"expires": 11}, {}))
    delayed = put(database, delay=5, expires=10)
    clock.advance(11)
    discarded: Discarded = []
    if rules is not None:
        database.set_function("f", rules)
        jobs = database.admit(lane(), limit=100, lease=LEASE, discarded=discarded).jobs
    else:
        jobs = claim(database, discarded=discarded)
    assert {found.jobid for found in jobs} == {later, plain, delayed}
    ((setback, settled),) = discarded
    assert (setback.handle.jobid, setback.kind, settled.result) == (own, "discarded", "applied")
    assert stored(database, own).state is State.DEAD
    (failure,) = database.failures(own)
    assert (failure.kind, failure.error) == ("discarded", "Expired")
    assert "11 s" in failure.message


@pytest.mark.parametrize(
    "rules", [None, FunctionPolicy(max_running=100), FunctionPolicy(partition_max_running=100)]
)
def test_claim_that_fails_reports_no_discarded_job(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch, rules: FunctionPolicy | None
) -> None:
    clock.set(NOON)
    late, _ = put(database, expires=10), put(database)
    clock.advance(11)

    def fail(*arguments: Any, **options: Any) -> None:
        raise UsageError("a row that is none")

    monkeypatch.setattr(claims, "claim_rows", fail)
    monkeypatch.setattr(turn_claims, "claim_rows", fail)
    discarded: Discarded = []
    call: Any = database.claim
    if rules is not None:
        database.set_function("f", rules)
        call = database.admit
    with pytest.raises(UsageError, match="is none"):
        call(lane(), limit=100, lease=LEASE, discarded=discarded)
    assert discarded == []
    assert stored(database, late).state is State.WAITING


def test_claim_discards_by_the_setting_of_the_function(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    first, own = put(database), put(database, expires=100)
    clock.advance(61)
    discarded: Discarded = []
    assert [found.jobid for found in claim(database, expires=60, discarded=discarded)] == [own]
    assert [setback.handle.jobid for setback, _ in discarded] == [first]
    assert claim(database, expires=60, discarded=discarded) == []
    assert discarded == []


def test_claim_does_not_discard_a_job_that_was_handed_out(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    put(database, expires=10)
    database.release(claim(database))
    clock.advance(60)
    assert len(claim(database, expires=10)) == 1


def test_claim_discards_at_most_as_many_as_it_may_claim(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    database.insert([job(expires=10)] * 5)
    clock.advance(60)
    discarded: Discarded = []
    assert claim(database, 3, discarded=discarded) == []
    assert len(discarded) == 3


def test_discard_late_discards_waiting_jobs_of_functions_with_the_setting(
    database: Database, clock: Clock
) -> None:
    clock.set(NOON)
    assert database.discard_late() == []
    jobids = [put(database, priority=priority) for priority in ("high", "normal", "low")]
    other = put(database, funcname="g")
    database.set_function("f", FunctionPolicy(expires=60))
    clock.advance(60)
    assert database.discard_late() == []
    clock.advance(1)
    assert {setback.handle.jobid for setback, _ in database.discard_late()} == set(jobids)
    assert database.discard_late() == []
    assert stored(database, other).state is State.WAITING


@pytest.mark.parametrize("fields", [{}, {"uniqkey": "k"}])
def test_insert_keeps_expires_of_each_job(database: Database, clock: Clock, fields: Any) -> None:
    clock.set(NOON)
    jobs = [job(b"%d" % n, expires=n or None, **dict.fromkeys(fields, f"{n}")) for n in (5, 0, 7, 5)]
    if fields:
        jobs = jobs[:3]
    database.insert(jobs)
    clock.advance(6)
    assert {found.arg for found in claim(database)} == {b"0", b"7"}
