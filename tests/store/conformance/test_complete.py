"""Completions: alike in every kind of database."""

from garivini.model.job import Handle
from garivini.model.when import Offset
from garivini.store.database import Database
from tests.store.conformance.jobs import claim, job, put, settle


def test_complete_deletes_by_id_whoever_holds_the_job(database: Database) -> None:
    jobids = [put(database) for _ in range(4)]
    claim(database, 2)
    settle(database, Handle(jobids[3], database.dbid), kind="parked")
    assert database.complete(jobids) == set(jobids)
    assert database.jobs() == []


def test_complete_passes_over_ids_that_are_not_there(database: Database) -> None:
    jobid = put(database)
    other = put(database)
    assert database.complete([jobid, jobid, 999_999]) == {jobid}
    assert database.complete([jobid]) == set()
    assert database.complete([]) == set()
    assert [found.jobid for found in database.jobs()] == [other]


def test_complete_takes_many_jobs_at_once(database: Database) -> None:
    jobids = {answer.jobid for answer in database.insert([job() for _ in range(2100)])}
    assert database.complete(jobids) == jobids


def test_complete_deletes_the_records_of_its_jobs_alone(database: Database) -> None:
    jobids = [put(database) for _ in range(3)]
    for taken in claim(database, 2):
        settle(database, taken, kind="failed", message="why", when=Offset(0))
    database.complete([jobids[0], jobids[2]])
    assert database.failures(jobids[0]) == []
    assert [failure.message for failure in database.failures(jobids[1])] == ["why"]
