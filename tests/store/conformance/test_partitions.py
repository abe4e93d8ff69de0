"""Partitions of jobs: alike in every kind of database."""

import pytest

from garivini.model.job import Job
from garivini.model.job_query import JobQuery
from garivini.model.payload import decode_payload, encode_payload
from garivini.model.state import State
from garivini.store.database import Database
from garivini.store.search import find
from tests.store.conformance.jobs import LEASE, claim, claim_one, job, lane, put, stored

#: The longest partition: 200 bytes.
LONGEST = "ü" * 100


@pytest.mark.parametrize("uniqkey", [None, "k"])
@pytest.mark.parametrize("partition", ["a", "", LONGEST, "a ", "A"])
def test_insert_keeps_a_partition(database: Database, partition: str, uniqkey: str | None) -> None:
    jobid = put(database, partition=partition, uniqkey=uniqkey)
    assert stored(database, jobid).partition == (partition or None)


@pytest.mark.parametrize("uniqkey", [None, "k{}"])
def test_insert_keeps_the_partition_of_each_of_many_jobs(database: Database, uniqkey: str | None) -> None:
    partitions = [None if number % 3 == 0 else f"p{number}" for number in range(60)]
    answers = database.insert(
        [
            job(b"%d" % number, partition=partition, uniqkey=uniqkey and uniqkey.format(number))
            for number, partition in enumerate(partitions)
        ]
    )
    found = [stored(database, answer.jobid) for answer in answers]
    assert [(it.arg, it.partition) for it in found] == [
        (b"%d" % number, partition) for number, partition in enumerate(partitions)
    ]


def test_insert_with_a_delay_keeps_the_delay_of_a_job_with_a_partition(database: Database) -> None:
    found = stored(database, put(database, partition="a", delay=90))
    assert 90 <= found.run_after - found.created <= 91
    assert claim(database) == []


def test_insert_of_a_job_with_a_partition_returns_the_live_job_of_its_key(database: Database) -> None:
    first, second = database.insert([job(uniqkey="k", partition=name) for name in ("a", "b")])
    assert (second.jobid, second.new) == (first.jobid, False)
    assert stored(database, first.jobid).partition == "a"


def test_claim_returns_the_partition_and_its_payload_has_it(database: Database) -> None:
    put(database, partition="a")
    claimed = claim_one(database)
    assert claimed.partition == "a"
    assert decode_payload(encode_payload(claimed)).partition == "a"


def test_the_payload_of_a_job_without_a_partition_is_as_before(database: Database) -> None:
    put(database)
    payload = encode_payload(claim_one(database))
    assert b"partition" not in payload
    assert decode_payload(payload).partition is None


def test_a_job_that_is_inserted_with_a_lease_has_its_partition(database: Database) -> None:
    new = job(partition="a")
    (answer,) = database.insert([new])
    assert Job.from_insert(new, answer).partition == "a"


def test_reclaim_returns_the_partition(database: Database) -> None:
    put(database, partition="a")
    taken = claim_one(database)
    database.end_early([taken.handle], lease=LEASE)
    (lapsed,) = database.expired(lane(state=State.LEASED), limit=10)
    (again,) = database.reclaim([(lapsed, False)], lease=LEASE)
    assert again.partition == "a"


@pytest.mark.parametrize(("partition", "count"), [("a", 2), ("b", 1), ("A", 0), ("a ", 0)])
def test_match_finds_the_jobs_of_a_partition(database: Database, partition: str, count: int) -> None:
    database.insert([job(partition=name) for name in ("a", "b", None, "a")])
    found = [it for part in find(database, JobQuery(partition=partition), limit=10) for it in part.jobs]
    assert [it.partition for it in found] == [partition] * count
