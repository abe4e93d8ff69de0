"""Batches: alike in every kind of database."""

import threading
from typing import Literal

import pytest

from garivini.errors import RefusedError
from garivini.model.batch import BatchStatus, encode_callback
from garivini.model.job_query import JobChange
from garivini.model.new_jobs import new_job
from garivini.model.outcome import Setback, Success
from garivini.model.state import State
from garivini.store.database import Database
from tests.store.conformance.jobs import claim, claim_one, job, put
from tests.store.conftest import Backend

BATCH = "6a0c1f2e9b3d4c5a"


def create(database: Database, batchid: str = BATCH) -> None:
    callbacks = [encode_callback(new_job(name, b"arg")) for name in ("completed", "succeeded")]
    database.create_batch(batchid, "nightly", *callbacks)


def members(database: Database, count: int = 3, batchid: str = BATCH) -> list[int]:
    answers = database.add_members(batchid, [job(b"%d" % number) for number in range(count)])
    return [answer.jobid for answer in answers]


def status(database: Database, batchid: str = BATCH) -> BatchStatus:
    found = database.batch(batchid)
    assert found is not None
    return found


def inserted(database: Database) -> list[str]:
    """Return the functions of the jobs that batches have inserted."""
    return sorted(it.funcname for it in database.jobs() if it.funcname != "f")


def test_seal_batch_of_an_empty_batch_ends_it_and_inserts_its_jobs(database: Database) -> None:
    create(database)
    assert status(database)[:6] == (f"1:{BATCH}", "nightly", 0, 0, 0, False)
    sealed = database.seal_batch(BATCH)
    assert sealed is not None
    assert sealed.completed_at >= sealed.created > 0
    assert inserted(database) == ["completed", "succeeded"]
    (first, _) = database.jobs()
    assert (first.arg, first.headers) == (b"arg", {"batch": f"1:{BATCH}"})


def test_complete_of_the_last_member_ends_a_sealed_batch_once(database: Database) -> None:
    create(database)
    first, second, third = members(database)
    database.complete([first])
    database.seal_batch(BATCH)
    assert (status(database).members, status(database).pending) == (3, 2)
    database.complete([second])
    assert inserted(database) == []
    database.complete([third])
    assert (status(database).pending, status(database).succeeded) == (0, 3)
    assert inserted(database) == ["completed", "succeeded"]
    database.seal_batch(BATCH)
    database.complete([first, second, third])
    assert inserted(database) == ["completed", "succeeded"]


def test_finish_counts_members_that_are_kept_or_locked_rows_are_skipped(database: Database) -> None:
    create(database)
    first, second, _ = members(database)
    (one, two, three) = claim(database)
    database.finish([Success(one.jobid, 1, b"{}", retention=60)])
    database.finish([Success(two.jobid, 1)], locked=set())
    database.complete([three.jobid, 10**9])
    assert status(database).pending == 0
    assert {first, second} <= {one.jobid, two.jobid}


def test_settle_to_dead_counts_a_failed_member_and_success_is_not_told(database: Database) -> None:
    create(database)
    members(database, 2)
    database.seal_batch(BATCH)
    one, two = claim(database)
    failed = Setback(handle=one.handle, kind="failed", message="once")
    database.settle([failed], max_failures=2)
    assert status(database).pending == 2
    database.settle([Setback(handle=two.handle, kind="discarded")])
    assert (status(database).pending, status(database).failed) == (1, 1)
    database.complete([one.jobid])
    assert inserted(database) == ["completed"]


def test_settle_of_several_deaths_ends_the_batch(database: Database) -> None:
    create(database)
    members(database, 3)
    database.seal_batch(BATCH)
    database.settle([Setback(handle=it.handle, kind="cancelled") for it in claim(database)])
    assert (status(database).failed, inserted(database)) == (3, ["completed"])


def test_delete_by_a_change_of_many_counts_members(database: Database) -> None:
    create(database)
    jobids = members(database)
    database.seal_batch(BATCH)
    database.change(jobids, JobChange(action="delete"), states=[State.WAITING])
    assert inserted(database) == ["completed", "succeeded"]


@pytest.mark.parametrize("action", ["cancel", "discard"])
def test_death_by_a_change_of_many_counts_failed_members(
    database: Database, action: Literal["cancel", "discard"]
) -> None:
    create(database)
    jobids = members(database)
    database.seal_batch(BATCH)
    database.change(jobids, JobChange(action=action), states=[State.WAITING])
    assert (status(database).failed, inserted(database)) == (3, ["completed"])


def test_add_members_of_a_batch_that_has_ended_is_refused_and_inserts_nothing(database: Database) -> None:
    create(database)
    database.seal_batch(BATCH)
    with pytest.raises(RefusedError, match="no batch"):
        members(database, 2)
    with pytest.raises(RefusedError, match="no batch"):
        members(database, 2, batchid="0" * 16)
    assert [it for it in database.jobs() if it.funcname == "f"] == []


def test_add_members_after_the_seal_keeps_the_batch_open(database: Database) -> None:
    create(database)
    (first,) = members(database, 1)
    database.seal_batch(BATCH)
    (second,) = members(database, 1)
    database.complete([first])
    assert inserted(database) == []
    database.complete([second])
    assert inserted(database) == ["completed", "succeeded"]


def test_add_members_leaves_out_a_job_whose_key_exists(database: Database) -> None:
    create(database)
    put(database, uniqkey="k")
    answers = database.add_members(BATCH, [job(uniqkey="k"), job(uniqkey="l"), job(uniqkey="l")])
    assert [at.new for at in answers] == [False, True, False]
    assert status(database).members == 1


@pytest.mark.parametrize("end", ["DELETE FROM job", "UPDATE job SET run_after = 2147483647"])
def test_count_ended_members_counts_jobs_that_another_program_ended(
    backend: Backend, database: Database, end: str
) -> None:
    create(database)
    members(database)
    database.seal_batch(BATCH)
    assert database.count_ended_members(BATCH) is None
    assert status(database).pending == 3
    backend.execute(end)
    assert database.count_ended_members(BATCH) is None
    dead = "UPDATE" in end
    assert (status(database).pending, status(database).failed) == (0, 3 * dead)
    assert "completed" in inserted(database)
    assert ("succeeded" in inserted(database)) is not dead


def test_count_ended_members_reads_a_page_at_a_time(backend: Backend, database: Database) -> None:
    create(database)
    members(database, 1001)
    database.seal_batch(BATCH)
    backend.execute("DELETE FROM job WHERE funcname = 'f'")
    following = database.count_ended_members(BATCH)
    assert following is not None
    assert status(database).pending == 1
    assert database.count_ended_members(BATCH, following) is None
    assert status(database).completed_at > 0


def test_open_batches_leaves_out_those_that_have_ended(database: Database) -> None:
    other = "7" * 16
    create(database)
    create(database, other)
    database.seal_batch(BATCH)
    assert database.open_batches() == [other]
    assert [it.id for it in database.batches()] == [f"1:{BATCH}", f"1:{other}"]


def test_forget_batches_deletes_batches_that_ended_a_week_ago(backend: Backend, database: Database) -> None:
    create(database)
    create(database, "7" * 16)
    database.seal_batch(BATCH)
    assert database.forget_batches() == 0
    backend.execute(
        "UPDATE batch SET completed_at = completed_at - 8 * 86400, created = 1 WHERE completed_at > 0"
    )
    assert database.forget_batches() == 1
    assert database.batch(BATCH) is None


def test_a_job_that_another_program_has_broken_does_not_stop_the_end(
    backend: Backend, database: Database
) -> None:
    create(database)
    (member,) = members(database, 1)
    database.seal_batch(BATCH)
    backend.execute("UPDATE batch SET on_complete = '{'")
    database.complete([member])
    assert inserted(database) == ["succeeded"]


def test_a_member_knows_its_batch_only_by_the_table(database: Database) -> None:
    create(database)
    members(database, 1)
    assert claim_one(database).headers == {}


@pytest.mark.parametrize("threads", [4])
def test_ends_of_many_threads_end_the_batch_once(database: Database, threads: int) -> None:
    create(database)
    jobids = members(database, 400)
    database.seal_batch(BATCH)

    def work(mine: list[int]) -> None:
        for start in range(0, len(mine), 10):
            database.complete(mine[start : start + 10])

    running = [threading.Thread(target=work, args=(jobids[number::threads],)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert (status(database).pending, status(database).members) == (0, 400)
    assert inserted(database) == ["completed", "succeeded"]
