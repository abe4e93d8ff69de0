"""The outbox: follow-ups for another database, alike in every kind of database."""

from typing import Any

import pytest
from msgspec.structs import replace

from garivini.model.job import NewJob
from garivini.model.outcome import Success
from garivini.model.unique import KeyRule
from garivini.store import outbox
from garivini.store.database import Database
from tests.store.conformance.jobs import NOON, job, put
from tests.store.conftest import Clock


def elsewhere(arg: bytes = b"", uniqkey: str = "k", home: int = 2, **fields: Any) -> NewJob:
    return replace(job(arg, uniqkey=uniqkey, **fields), home=home)


def finish(database: Database, *follow_ups: NewJob) -> None:
    jobid = put(database)
    database.finish([Success(jobid, 1)], follow_ups={jobid: follow_ups})


def test_finish_stores_a_follow_up_for_another_database_in_the_outbox(database: Database) -> None:
    values: dict[str, Any] = {
        "coalesce": "c",
        "flag": "controller",
        "priority": "high",
        "partition": "süd",
        "expires": 60,
    }
    rule = KeyRule(on_duplicate="debounce", max_delay=9)
    new = replace(elsewhere(b"\x00\xff", "grün", **values), rule=rule)
    finish(database, new, elsewhere(home=5), job(b"here"))
    assert [it.arg for it in database.jobs()] == [b"here"]
    assert database.outbox_targets() == [2, 5]
    (found,) = database.outgoing(2)
    assert found.job == replace(new, home=0, dispatch=False)
    assert len(found.id) == 32


def test_receive_applies_the_rules_of_a_key(database: Database) -> None:
    put(database, uniqkey="k", arg=b"before")
    rules = [KeyRule(on_duplicate=effect) for effect in ("raise", "replace")]  # a duplicate cannot be raised
    for rule, arg in zip(rules, (b"dropped", b"after"), strict=True):
        finish(database, replace(elsewhere(arg), rule=rule))
        arrived = database.outgoing(2)
        database.receive(arrived)
        database.leave_outbox(2, arrived)
        assert [it.arg for it in database.jobs()] == [b"before" if arg == b"dropped" else b"after"]


def test_finish_of_a_job_that_does_not_exist_stores_nothing_in_the_outbox(database: Database) -> None:
    database.finish([Success(999, 1)], follow_ups={999: [elsewhere()]})
    assert database.outbox_targets() == []


def test_outgoing_returns_pages_by_id(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(database, *(elsewhere(b"x" * 10, f"k{number}") for number in range(7)))
    monkeypatch.setattr(outbox, "_PAGE", 3)
    monkeypatch.setattr(outbox, "BATCH_BYTES", 25)
    pages = []
    after = ""
    while page := database.outgoing(2, after):
        pages.append(len(page))
        after = page[-1].id
    assert pages == [2, 2, 2, 1]


def test_outgoing_returns_the_delay_that_is_left(database: Database, clock: Clock) -> None:
    clock.set(NOON + 0.5)
    finish(database, elsewhere(delay=60), elsewhere(uniqkey="now"))
    clock.advance(20)
    assert sorted(it.job.delay for it in database.outgoing(2)) == [0, 41]
    clock.advance(100)
    assert sorted(it.job.delay for it in database.outgoing(2)) == [0, 0]


def test_receive_inserts_what_has_not_arrived_before(database: Database) -> None:
    finish(database, elsewhere(b"1", "a"), elsewhere(b"2", "b"))
    both = database.outgoing(2)
    database.receive(both[:1])
    jobs = database.jobs()
    database.complete([it.jobid for it in jobs])
    database.receive(both)  # the first one again, although its job has ended
    database.receive(both)
    assert [it.arg for it in [*jobs, *database.jobs()]] == [it.job.arg for it in both]


def test_receive_inserts_nothing_if_the_key_has_a_live_job(database: Database) -> None:
    put(database, uniqkey="k", arg=b"live")
    finish(database, elsewhere(b"late"))
    database.receive(database.outgoing(2))
    assert [it.arg for it in database.jobs()] == [b"live"]


def test_leave_outbox_and_retarget_change_these_alone(database: Database) -> None:
    finish(database, *(elsewhere(uniqkey=key) for key in "abc"))
    one, other, third = database.outgoing(2)
    database.leave_outbox(2, [one])
    database.retarget(2, {7: [other]})
    assert database.outgoing(2) == [third]
    assert database.outgoing(7) == [other]


def test_forget_arrivals_deletes_old_ones(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    finish(database, *(elsewhere(uniqkey=key) for key in "abc"))
    database.receive(database.outgoing(2))
    clock.advance(outbox.KEPT)
    assert database.forget_arrivals(10) == 0
    clock.advance(1)
    assert database.forget_arrivals(2) == 2
    assert database.forget_arrivals(10) == 1
