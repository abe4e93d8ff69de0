"""Searches and changes of all jobs that match: alike in every kind of database, each statement bounded."""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import pytest

from garivini.errors import UsageError
from garivini.model.job import Handle
from garivini.model.job_query import JobChange, JobQuery
from garivini.model.limits import NEVER
from garivini.model.state import State
from garivini.model.when import At, Never, Offset
from garivini.store.database import Database
from garivini.store.search import find, pages
from tests.store.conformance.jobs import (
    HELD,
    NOON,
    claim,
    claim_one,
    held_in,
    job,
    listed,
    put,
    settle,
    stored,
)
from tests.store.conftest import Backend, Clock

ANY = (State.WAITING, State.DEAD)


def matching(database: Database, **conditions: Any) -> list[int]:
    return [found.jobid for page in pages(database, JobQuery(**conditions)) for found in page.matches]


def fail(database: Database, error: str = "", message: str = "", **fields: Any) -> int:
    """Insert a job that is dead after a failure; return its id."""
    jobid = put(database, **fields)
    settle(database, Handle(jobid, 1), "discarded", error=error, message=message)
    return jobid


def change(
    database: Database, jobids: list[int], action: Any, states: Collection[State] = ANY, **fields: Any
) -> int:
    return database.change(jobids, JobChange(action=action, **fields), states=states)


# ---- conditions


def test_match_compares_names_keys_and_states(database: Database) -> None:
    first = put(database, funcname="mail", uniqkey="Key")
    second = put(database, funcname="Mail", uniqkey="key")
    third = put(database, funcname="grüße", uniqkey="clé")
    assert matching(database) == [first, second, third]
    assert matching(database, funcname="mail") == [first]
    assert matching(database, uniqkey="key") == [second]
    assert matching(database, funcname="grüße", uniqkey="clé") == [third]
    assert matching(database, funcname="mail", uniqkey="key") == []
    settle(database, Handle(second, 1), "parked")
    assert matching(database, state="dead") == matching(database, failed=True) == [second]
    assert matching(database, state=State.WAITING) == [first, third]


@pytest.mark.parametrize("text", ["%", "_", "\\", "'", "100%", "\\%", "*", "[a-z]", "😀", "ü"])
def test_match_takes_each_character_of_a_text_literally(database: Database, text: str) -> None:
    with_text = fail(database, "E", f"before {text} after", arg=f"<{text}>")
    fail(database, "E", "before x after", arg="<x>")
    assert matching(database, error_text=text) == matching(database, arg_text=text) == [with_text]
    assert matching(database, error_text=f"before {text}") == [with_text]
    assert matching(database, arg_text=f"<{text}>") == [with_text]


def test_match_tells_upper_and_lower_case_apart(database: Database) -> None:
    jobid = fail(database, "TimeoutError", "Connection lost", arg="Invoice")
    assert matching(database, error="TimeoutError") == [jobid]
    assert matching(database, error="timeouterror") == matching(database, error="Timeout") == []
    assert matching(database, error_text="Connection") == matching(database, arg_text="voice") == [jobid]
    assert matching(database, error_text="connection") == matching(database, arg_text="invoice") == []


def test_match_finds_bytes_of_an_argument_that_is_no_text(database: Database) -> None:
    jobid = put(database, arg=b"\xff\x00\xfe tail")
    put(database, arg=b"")
    assert matching(database, arg_text=b"\xff\x00") == matching(database, arg_text="tail") == [jobid]
    assert matching(database, arg_text="\0") == [jobid]
    assert matching(database, arg_text=b"\xfe\xff") == []


def test_match_finds_text_in_an_argument_that_another_program_has_written(
    database: Database, backend: Backend
) -> None:
    backend.execute("INSERT INTO job (funcname, arg, run_after) VALUES ('f', 'grüße', 1)")
    backend.execute("INSERT INTO job (funcname, run_after) VALUES ('f', 1)")
    assert len(matching(database, arg_text="rüß")) == 1
    assert len(matching(database)) == 2


def test_match_reads_the_latest_failure_alone(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    jobid = put(database)
    settle(database, claim_one(database), "failed", error="First", message="one")
    clock.advance(1000)
    settle(database, claim_one(database), "failed", error="Second", message="two")
    assert matching(database, error="Second", error_text="two") == [jobid]
    assert matching(database, error="First") == matching(database, error_text="one") == []
    assert matching(database, error="Second", error_text="one") == []
    settle(database, Handle(jobid, 1), "cancelled", message="by hand")
    assert matching(database, error="Second") == matching(database, error_text="by hand") == [jobid]


def test_match_compares_times_and_skips_unknown_ones(
    database: Database, clock: Clock, backend: Backend
) -> None:
    clock.set(NOON)
    early = put(database)
    clock.advance(100)
    late = put(database, delay=50)
    dead = put(database)
    settle(database, Handle(dead, 1), "parked")
    backend.execute("INSERT INTO job (funcname, run_after) VALUES ('unknown', 1)")
    assert matching(database, created_before=NOON + 1) == [early]
    assert matching(database, created_from=NOON + 100) == [late, dead]
    assert matching(database, created_from=NOON, created_before=NOON + 100) == [early]
    assert matching(database, due_from=NOON + 150) == [late]
    assert matching(database, due_from=NOON, due_before=NOON + 150) == [early]
    assert matching(database, created_from=datetime.fromtimestamp(NOON + 100, UTC)) == [late, dead]


@pytest.mark.parametrize("state", HELD)
def test_match_knows_held_jobs(database: Database, clock: Clock, state: State) -> None:
    clock.set(NOON)
    held = held_in(database, clock, state)
    assert matching(database, state=state) == [held.jobid]
    assert matching(database, state=State.WAITING) == []


@pytest.mark.parametrize(
    "conditions",
    [
        {"funcname": ""},
        {"funcname": 5},
        {"funcname": "a\0b"},
        {"uniqkey": "\ud800"},
        {"error_text": ""},
        {"arg_text": b""},
        {"arg_text": 1},
        {"state": "done"},
        {"state": 4},
        {"failed": "yes"},
        {"created_from": -1},
        {"created_before": 2**32},
        {"due_from": True},
        {"due_before": datetime(2026, 1, 1)},  # the missing zone is the subject
    ],
)
def test_job_query_refuses_what_no_job_can_have(conditions: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        JobQuery(**conditions)


# ---- pages


def test_pages_examine_all_jobs_and_end_at_the_newest_of_the_start(database: Database) -> None:
    database.insert([job(funcname="f" if n % 1000 else "rare") for n in range(2500)])
    search = pages(database, JobQuery(funcname="rare"))
    first = next(search)
    assert (first.examined, len(first.matches)) == (1000, 1)
    put(database, funcname="rare")
    rest = list(search)
    assert [page.examined for page in rest] == [1000, 500]
    assert sum(len(page.matches) for page in rest) == 2
    assert [first.fraction, *(page.fraction for page in rest)] == [0.4, 0.8, 1.0]


def test_pages_of_an_empty_table_are_none(database: Database) -> None:
    assert list(pages(database, JobQuery())) == []


def test_find_reads_no_more_jobs_than_the_limit(database: Database) -> None:
    database.insert([job(b"x" * 100) for _ in range(1500)])
    found = list(find(database, JobQuery(), limit=1200))
    assert sum(len(part.jobs) for part in found) == 1200
    assert sum(part.examined for part in found) == 1500
    jobids = [found.jobid for part in found for found in part.jobs]
    assert jobids == sorted(jobids)
    assert listed(database, after=jobids[-2], limit=1) == jobids[-1:]


# ---- changes


def test_change_retries_waiting_and_dead_jobs(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    dead = fail(database, "E")
    delayed = put(database, delay=1000)
    assert change(database, [dead, delayed, 999_999], "retry") == 2
    for jobid in (dead, delayed):
        row = stored(database, jobid)
        assert (row.state, row.run_after, row.failcount) == (State.WAITING, NOON, 0)


@pytest.mark.parametrize("state", HELD)
@pytest.mark.parametrize("action", ["retry", "cancel", "discard", "delete", "reschedule", "prioritize"])
def test_change_leaves_a_held_job_alone_and_changes_the_others(
    database: Database, clock: Clock, state: State, action: str
) -> None:
    clock.set(NOON)
    held = stored(database, held_in(database, clock, state).jobid)
    other = put(database)
    fields: dict[str, Any] = {"when": At(NOON + 5)} if action == "reschedule" else {}
    assert change(database, [held.jobid, other], action, **fields) == 1
    assert stored(database, held.jobid) == held


@pytest.mark.parametrize(("action", "kind"), [("cancel", "cancelled"), ("discard", "discarded")])
def test_change_ends_jobs_with_a_record(database: Database, clock: Clock, action: str, kind: str) -> None:
    clock.set(NOON)
    jobids = [put(database), put(database)]
    assert change(database, jobids, action, reason="customer\0 left") == 2
    for jobid in jobids:
        assert (stored(database, jobid).state, stored(database, jobid).run_after) == (State.DEAD, NEVER)
        (record,) = database.failures(jobid)
        assert (record.kind, record.message, record.failed_at) == (kind, "customer\\0 left", NOON)
    change(database, jobids, "retry")
    assert change(database, jobids, action, reason="again") == 2  # the same attempt: the newest is kept
    assert [record.message for record in database.failures(jobids[0])] == ["again"]


def test_change_deletes_jobs_with_their_records(database: Database) -> None:
    dead, other = fail(database, "E"), put(database)
    kept = put(database)
    assert change(database, [dead, other], "delete") == 2
    assert listed(database) == [kept]
    assert database.failures(dead) == []


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (Offset(60), (State.WAITING, NOON + 60)),
        (Offset(0), (State.WAITING, NOON)),
        (At(NOON + 7), (State.WAITING, NOON + 7)),
        (Never(), (State.DEAD, NEVER)),
    ],
)
def test_change_reschedules_jobs(database: Database, clock: Clock, when: Any, expected: Any) -> None:
    clock.set(NOON)
    jobids = [put(database), fail(database)]
    assert change(database, jobids, "reschedule", when=when) == 2
    assert {(row.state, row.run_after) for row in database.jobs()} == {expected}


def test_change_of_the_priority_moves_a_job_to_the_other_lane(database: Database) -> None:
    jobid = put(database)
    assert change(database, [jobid], "prioritize", priority="high") == 1
    assert stored(database, jobid).priority == "high"
    assert claim(database) == []
    assert [lane.priority for lane in database.lanes().lanes] == ["high"]


def test_change_skips_a_job_that_is_in_another_state_by_now(database: Database) -> None:
    jobid = fail(database)
    database.retry(jobid)
    assert change(database, [jobid], "delete", states=[State.DEAD]) == 0
    assert stored(database, jobid).state is State.WAITING


def test_change_takes_a_job_that_another_program_has_put_off_as_waiting(
    database: Database, backend: Backend
) -> None:
    jobid = put(database)
    claim_one(database)
    backend.execute(f"UPDATE job SET run_after = 2000000000 WHERE jobid = {jobid}")
    assert change(database, [jobid], "reschedule", when=Offset(5)) == 1
    assert stored(database, jobid).state is State.WAITING
    assert change(database, [jobid], "cancel", states=[State.WAITING]) == 1
