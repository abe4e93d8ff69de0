"""Follow-ups: inserted by the transaction that deletes the row of their job, in every kind of database."""

from collections.abc import Mapping, Sequence

import pytest

from garivini.errors import UsageError
from garivini.model.job import NewJob
from garivini.model.outcome import Success
from garivini.model.policy import FunctionPolicy
from garivini.store.database import Database
from tests.store.conformance.jobs import claim, job, put


def finish(
    database: Database, jobids: Sequence[int], follow_ups: Mapping[int, Sequence[NewJob]], retention: int = 0
) -> set[int]:
    return database.finish([Success(it, 1, retention=retention) for it in jobids], follow_ups=follow_ups)


def args(database: Database) -> list[bytes]:
    return [found.arg for found in database.jobs()]


def test_finish_inserts_the_follow_ups_of_jobs_that_existed_alone(database: Database) -> None:
    first, second = put(database), put(database)
    follow_ups = {first: [job(b"1"), job(b"2")], second: [job(b"3")], 999_999: [job(b"lost")]}
    assert finish(database, [first, second, 999_999], follow_ups) == {first, second}
    assert args(database) == [b"1", b"2", b"3"]


def test_finish_a_second_time_inserts_nothing(database: Database) -> None:
    jobid = put(database)
    for _ in range(2):
        finish(database, [jobid], {jobid: [job(b"1")]})
    assert args(database) == [b"1"]


def test_finish_without_waiting_for_locks_inserts_follow_ups(database: Database) -> None:
    jobid = put(database)
    follow_ups = {jobid: [job(b"1")], 999_999: [job(b"lost")]}
    locked: set[int] = set()
    found = database.finish([Success(jobid, 1), Success(999_999, 1)], follow_ups=follow_ups, locked=locked)
    assert (found, locked) == ({jobid}, set())
    assert args(database) == [b"1"]


def test_finish_keeps_a_job_with_a_retention_and_inserts_its_follow_ups(database: Database) -> None:
    jobid = put(database)
    claim(database)
    finish(database, [jobid], {jobid: [job(b"1")]}, retention=60)
    assert database.finished(jobid) is not None
    assert args(database) == [b"1"]


def test_finish_lets_a_follow_up_have_the_unique_key_of_its_own_job(database: Database) -> None:
    jobid = put(database, uniqkey="k")
    finish(database, [jobid], {jobid: [job(b"next", uniqkey="k")]})
    assert args(database) == [b"next"]


def test_finish_inserts_no_follow_up_whose_key_has_a_live_job(database: Database) -> None:
    jobid = put(database)
    put(database, uniqkey="k", arg=b"live")
    finish(database, [jobid], {jobid: [job(b"again", uniqkey="k"), job(b"other")]})
    assert sorted(args(database)) == [b"live", b"other"]


def test_finish_applies_the_rules_of_keys_and_stores_the_partition_of_follow_ups(database: Database) -> None:
    database.set_function("g", FunctionPolicy(on_duplicate="replace"))
    database.functions()
    jobid = put(database)
    put(database, funcname="g", uniqkey="k", arg=b"before", partition="north")
    finish(database, [jobid], {jobid: [job(b"after", funcname="g", uniqkey="k", partition="south")]})
    (found,) = database.jobs()
    assert (found.arg, found.partition) == (b"after", "south")


def test_finish_deletes_nothing_if_a_follow_up_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobid = put(database, arg=b"here")
    database.counts()  # which has connected it
    monkeypatch.setattr(database.connections.dialect, "statement_bytes", 5)
    with pytest.raises(UsageError):
        finish(database, [jobid], {jobid: [job(b"1"), job(b"too long")]})
    assert args(database) == [b"here"]


def test_finish_takes_more_follow_ups_than_a_statement(database: Database) -> None:
    jobid = put(database)
    finish(database, [jobid], {jobid: [job(b"%d" % number) for number in range(1500)]})
    assert len(database.jobs(limit=2000)) == 1500
