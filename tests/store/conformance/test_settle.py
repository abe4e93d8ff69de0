"""Ends without success, and the records of them: alike in every kind of database."""

from typing import Any

import pytest

from garivini.errors import ConflictError, UsageError
from garivini.model.job import Handle
from garivini.model.limits import NEVER
from garivini.model.outcome import Kind, Setback, Settled
from garivini.model.policy import MAX_CRASHES
from garivini.model.state import State
from garivini.model.when import At, Never, Offset
from garivini.store.database import Database
from garivini.store.failures import FIRST, NEWEST
from tests.store.conformance.jobs import (
    HELD,
    LEASE,
    NOON,
    claim,
    claim_one,
    leased_until,
    put,
    settle,
    stored,
)
from tests.store.conftest import Backend, Clock


@pytest.mark.parametrize("state", HELD)
def test_settle_counts_saves_and_records_a_failure(database: Database, clock: Clock, state: State) -> None:
    clock.set(NOON)
    lapsed = leased_until(database, clock, state)
    handle = Handle(lapsed.jobid, database.dbid, 1)
    settled = settle(
        database,
        handle,
        "failed",
        error="ValueError",
        message="m",
        trace="t",
        worker="host:1",
        when=Offset(9),
    )
    assert settled == Settled("applied", State.WAITING, 1, 9)
    row = stored(database, lapsed.jobid)
    now = NOON + LEASE + 1
    assert (row.state, row.failcount, row.run_after, row.attempt) == (State.WAITING, 1, now + 9, 1)
    (record,) = database.failures(lapsed.jobid)
    assert record == (1, now, "failed", "ValueError", "m", "t", "host:1")


def test_settle_doubles_the_wait_with_each_failure_up_to_eight_minutes_at_the_third(
    database: Database, clock: Clock
) -> None:
    clock.set(NOON)
    jobid = put(database)
    for failcount, seconds in ((1, 120), (2, 240), (3, 480)):
        now = clock.time()
        settled = settle(database, claim_one(database), "failed")
        row = stored(database, jobid)
        assert row.failcount == settled.failcount == failcount
        assert row.run_after - now == settled.delay
        assert 0.9 * seconds <= row.run_after - now <= 1.1 * seconds
        clock.set(row.run_after)
    assert [record.attempt for record in database.failures(jobid)] == [1, 2, 3]


def test_settle_makes_a_job_dead_after_the_failures_it_may_have(database: Database) -> None:
    jobid = put(database)
    results = []
    for _ in range(3):
        (settled,) = database.settle(
            [Setback(handle=claim_one(database).handle, kind="failed", when=Offset(0))], max_failures=3
        )
        results.append((settled.state, settled.failcount, settled.delay))
    assert results == [(State.WAITING, 1, 0), (State.WAITING, 2, 0), (State.DEAD, 3, None)]
    row = stored(database, jobid)
    assert (row.state, row.run_after, row.failcount) == (State.DEAD, NEVER, 3)
    assert claim(database) == []
    assert len(database.failures(jobid)) == 3


def test_settle_makes_a_job_dead_after_25_failures_by_default(database: Database, backend: Backend) -> None:
    jobid = put(database)
    backend.execute("UPDATE job SET failcount = 23")
    assert settle(database, Handle(jobid, 1), "failed").state is State.WAITING
    assert settle(database, Handle(jobid, 1), "failed").state is State.DEAD


def test_settle_keeps_the_count_of_failures_within_its_column(database: Database, backend: Backend) -> None:
    jobid = put(database)
    backend.execute("UPDATE job SET failcount = 255")
    assert settle(database, Handle(jobid, 1), "failed").failcount == 255


@pytest.mark.parametrize(
    ("when", "state", "run_after"),
    [
        (Offset(360), State.WAITING, NOON + 360),
        (At(NOON - 5), State.WAITING, NOON - 5),
        (At(NOON + 5), State.WAITING, NOON + 5),
        (Never(), State.DEAD, NEVER),
    ],
)
def test_settle_reschedules_a_job_and_counts_no_failure(
    database: Database, clock: Clock, when: Any, state: State, run_after: int
) -> None:
    clock.set(NOON)
    jobid = put(database)
    settled = settle(database, claim_one(database), "rescheduled", when=when)
    assert (settled.result, settled.state, settled.failcount) == ("applied", state, 0)
    row = stored(database, jobid)
    assert (row.state, row.run_after, row.failcount) == (state, run_after, 0)


@pytest.mark.parametrize("kind", ["discarded", "parked"])
def test_settle_makes_a_discarded_or_parked_job_dead_and_counts_no_failure(
    database: Database, kind: Kind
) -> None:
    jobid = put(database)
    settled = settle(database, claim_one(database), kind, message="why")
    assert settled == Settled("applied", State.DEAD, 0, None)
    row = stored(database, jobid)
    assert (row.state, row.run_after, row.failcount) == (State.DEAD, NEVER, 0)
    assert [(record.kind, record.message) for record in database.failures(jobid)] == [(kind, "why")]


def test_settle_counts_the_death_of_a_process_and_the_attempt_goes_on(
    database: Database, clock: Clock
) -> None:
    clock.set(NOON)
    jobid = put(database)
    taken = claim_one(database)
    before = stored(database, jobid)
    assert settle(database, taken, "crashed", message="killed").result == "applied"
    row = stored(database, jobid)
    assert (row.crashes, row.failcount) == (1, 0)
    assert (row.state, row.attempt, row.run_after) == (before.state, before.attempt, before.run_after)
    assert [(record.kind, record.message) for record in database.failures(jobid)] == [("crashed", "killed")]
    assert database.renew([taken.handle], lease=LEASE) == {taken.handle}
    assert settle(database, taken, "failed").result == "applied"
    assert [record.kind for record in database.failures(jobid)] == ["crashed", "failed"]


def test_settle_makes_a_job_dead_after_the_last_death_it_may_cause(database: Database) -> None:
    jobid = put(database)
    states = []
    for _ in range(MAX_CRASHES):
        taken = claim_one(database)
        states.append(settle(database, taken, "crashed").state)
        database.give_back([taken.handle])
    assert states == [State.LEASED] * (MAX_CRASHES - 1) + [State.DEAD]
    row = stored(database, jobid)
    assert (row.state, row.run_after, row.crashes) == (State.DEAD, NEVER, MAX_CRASHES)


def test_settle_ignores_the_death_of_a_process_whose_attempt_is_over(database: Database) -> None:
    jobid = put(database)
    taken = claim_one(database)
    database.release([taken])
    assert settle(database, taken, "crashed").result == "stale"
    assert stored(database, jobid).crashes == 0


KINDS = ["failed", "rescheduled", "discarded", "parked"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("again", KINDS)
def test_settle_again_changes_nothing(database: Database, clock: Clock, kind: Kind, again: Kind) -> None:
    clock.set(NOON)
    jobid = put(database)
    taken = claim_one(database)
    settle(database, taken, kind, message="first")
    before = (stored(database, jobid), database.failures(jobid))
    clock.advance(1)
    assert settle(database, taken, again, message="second").result == "repeated"
    assert (stored(database, jobid), database.failures(jobid)) == before


def test_settle_again_after_the_next_claim_changes_nothing(database: Database) -> None:
    jobid = put(database)
    taken = claim_one(database)
    settle(database, taken, "failed", when=Offset(0))
    claim_one(database)
    before = stored(database, jobid)
    assert settle(database, taken, "failed").result == "repeated"
    assert stored(database, jobid) == before


@pytest.mark.parametrize("kind", KINDS)
def test_settle_of_an_attempt_that_was_superseded_is_stale(
    database: Database, clock: Clock, kind: Kind
) -> None:
    clock.set(NOON)
    lapsed = leased_until(database, clock, State.SUSPECT)
    database.reclaim([(lapsed, True)], lease=LEASE)
    before = stored(database, lapsed.jobid)
    assert settle(database, Handle(lapsed.jobid, 1, 1), kind).result == "stale"
    assert settle(database, Handle(lapsed.jobid, 1, 3), kind).result == "stale"
    assert stored(database, lapsed.jobid) == before
    assert database.failures(lapsed.jobid) == []


def test_settle_of_a_claim_that_was_released_is_stale(database: Database) -> None:
    put(database)
    taken = claim_one(database)
    database.release([taken])
    before = stored(database, taken.jobid)
    assert settle(database, taken, "failed").result == "stale"
    assert stored(database, taken.jobid) == before


@pytest.mark.parametrize("attempt", [None, 1])
def test_settle_of_an_unknown_job_finds_it_gone(database: Database, attempt: int | None) -> None:
    assert settle(database, Handle(999_999, 1, attempt), "failed") == Settled("gone")
    assert database.failures(999_999) == []


def test_settle_without_an_attempt_applies_whoever_holds_the_job(database: Database) -> None:
    jobid = put(database)
    unfenced = Handle(jobid, database.dbid)
    assert settle(database, unfenced, "failed", when=Offset(0)).failcount == 1
    taken = claim_one(database)
    assert settle(database, unfenced, "failed", when=Offset(0)).failcount == 2
    assert settle(database, taken, "failed").result == "repeated"
    claim_one(database)
    assert settle(database, unfenced, "rescheduled", when=Never()).state is State.DEAD


def test_settle_of_many_answers_in_order(database: Database) -> None:
    jobids = [put(database) for _ in range(3)]
    first, second, third = claim(database)
    database.complete([second.jobid])
    results = database.settle(
        [
            Setback(handle=third.handle, kind="parked"),
            Setback(handle=second.handle, kind="failed"),
            Setback(handle=first.handle, kind="failed"),
            Setback(handle=first.handle, kind="failed"),
            Setback(handle=Handle(jobids[0], 1, 9), kind="failed"),
        ]
    )
    assert [settled.result for settled in results] == ["applied", "gone", "applied", "repeated", "stale"]
    assert [settled.state for settled in results][:3] == [State.DEAD, State.WAITING, State.WAITING]


@pytest.mark.parametrize(
    "text",
    ["\ud800 half", "\0NUL\0", "\U0001f40c" * 300, "x" * 1024 * 1024, "ü" * 70_000, "\udcff" * 70_000, ""],
    ids=["surrogate", "NUL", "wide", "1 MiB", "large", "large and odd", "empty"],
)
def test_settle_records_any_text_of_an_error_as_far_as_it_fits(database: Database, text: str) -> None:
    put(database)
    taken = claim_one(database)
    settled = settle(database, taken, "failed", error=text, message=text, trace=text, worker=text)
    assert settled.result == "applied"
    (record,) = database.failures(taken.jobid)
    assert len(record.error) <= 255
    assert len(record.worker) <= 255
    assert len(record.message) <= 65_535
    assert len(record.trace) <= 65_535
    assert bool(record.message) is bool(text)
    for kept in (record.error, record.message, record.trace, record.worker):
        kept.encode()


def test_settle_keeps_the_end_of_a_long_trace_and_the_start_of_a_long_message(database: Database) -> None:
    put(database)
    text = "start" + "x" * 100_000 + "end"
    taken = claim_one(database)
    settle(database, taken, "failed", message=text, trace=text)
    (record,) = database.failures(taken.jobid)
    assert record.message.startswith("start")
    assert record.trace.endswith("end")


def test_settle_keeps_the_first_records_and_the_newest(database: Database) -> None:
    jobid = put(database)
    for number in range(1, 121):
        settle(database, claim_one(database), "rescheduled", message=f"{number}", when=Offset(0))
        kept = FIRST + NEWEST
        assert len(database.failures(jobid)) == min(number, kept)
        assert database.omitted_failures(jobid) == max(0, number - kept)
    attempts = [record.attempt for record in database.failures(jobid)]
    assert attempts == [*range(1, FIRST + 1), *range(121 - NEWEST, 121)]
    assert [record.message for record in database.failures(jobid)] == [str(number) for number in attempts]
    assert len(database.record(jobid)) == kept + 1
    database.complete([jobid])
    assert database.record(jobid) == []


def test_settle_keeps_the_whole_record_of_many_attempts_and_few_failures(database: Database) -> None:
    jobid = put(database)
    for number in range(1, 81):
        taken = claim_one(database)
        if number % 4:
            database.release([taken])
        else:
            settle(database, taken, "failed", when=Offset(0))
    assert [record.attempt for record in database.failures(jobid)] == list(range(4, 81, 4))
    assert database.omitted_failures(jobid) == 0


def test_settle_without_an_attempt_records_the_failure(database: Database) -> None:
    jobid = put(database)
    for message in ("first", "second"):
        settle(database, Handle(jobid, database.dbid), "failed", message=message)
    assert [record.message for record in database.failures(jobid)] == ["second"]


def test_count_run_counts_the_starts_of_a_job_over_its_attempts(database: Database) -> None:
    jobid = put(database)
    other = put(database, funcname="g")
    taken = claim_one(database)
    assert [database.count_run(taken.handle) for _ in range(2)] == [1, 2]
    settle(database, taken, "failed", when=Offset(0))
    with pytest.raises(ConflictError, match="is not attempt 1's any more"):
        database.count_run(taken.handle)
    again = claim_one(database)
    database.renew([again.handle], lease=LEASE)
    assert database.count_run(again.handle) == 3
    assert (stored(database, jobid).runs, stored(database, jobid).run, stored(database, other).runs) == (
        3,
        3,
        0,
    )
    with pytest.raises(ConflictError):
        database.count_run(taken.handle)
    database.complete([jobid])
    with pytest.raises(ConflictError):
        database.count_run(again.handle)


@pytest.mark.parametrize("fraction", [0.0, 0.004, 0.5, 0.997])
@pytest.mark.parametrize("kind", ["failed", "rescheduled"])
@pytest.mark.parametrize("seconds", [0, 1, 360])
def test_settle_lets_a_job_wait_for_the_given_seconds(
    database: Database, clock: Clock, fraction: float, kind: Any, seconds: int
) -> None:
    put(database)
    taken = claim_one(database)
    clock.set(NOON + fraction)
    settle(database, taken, kind, when=Offset(seconds))
    due = stored(database, taken.jobid).run_after
    assert due == NOON if seconds == 0 else 0 <= due - (NOON + fraction + seconds) < 1


def test_settle_keeps_a_unix_time(database: Database, clock: Clock) -> None:
    put(database)
    taken = claim_one(database)
    clock.set(NOON + 0.5)
    settle(database, taken, "rescheduled", when=At(NOON + 7))
    assert stored(database, taken.jobid).run_after == NOON + 7


def test_settle_that_fails_half_way_leaves_nothing(database: Database) -> None:
    jobid = put(database)
    taken = claim_one(database)
    # The kind is checked when a Setback is made, so that the seconds have to be wrong here.
    broken = Setback(handle=Handle(jobid, 1), kind="rescheduled", when=Offset("soon"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="delay"):
        database.settle([Setback(handle=taken.handle, kind="failed"), broken])
    assert stored(database, jobid).state is State.LEASED
    assert database.failures(jobid) == []
