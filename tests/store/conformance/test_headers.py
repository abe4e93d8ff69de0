"""Headers of jobs: alike in every kind of database."""

import pytest

from garivini.errors import UsageError
from garivini.model.headers import MAX_HEADERS
from garivini.model.payload import decode_payload, encode_payload
from garivini.model.unique import Unique
from garivini.store.database import Database
from tests.store.conformance.jobs import claim, claim_one, job, put, stored
from tests.store.conftest import Backend

HEADERS = {"tenant": "Müller & Söhne", "trace": {"id": 7, "flags": [True, None, 0.5]}}


@pytest.mark.parametrize("uniqkey", [None, "k"])
def test_insert_keeps_headers(database: Database, uniqkey: str | None) -> None:
    assert stored(database, put(database, headers=HEADERS, uniqkey=uniqkey)).headers == HEADERS


def test_insert_keeps_the_headers_of_each_of_many_jobs(database: Database) -> None:
    answers = database.insert([job(headers={"n": n} if n % 2 else None) for n in range(60)])
    found = [stored(database, answer.jobid).headers for answer in answers]
    assert found == [{"n": n} if n % 2 else {} for n in range(60)]


def test_claim_returns_headers_and_the_payload_has_them_as_an_object(database: Database) -> None:
    put(database, headers=HEADERS)
    payload = encode_payload(claim_one(database))
    assert b'"headers":{"tenant":' in payload
    assert decode_payload(payload).headers == HEADERS


def test_the_payload_of_a_job_without_headers_has_no_such_key(database: Database) -> None:
    put(database)
    assert b"headers" not in encode_payload(claim_one(database))


@pytest.mark.parametrize("text", ["", "{", "[1]", "7", '"x"'])
def test_claim_hands_out_a_job_whose_headers_are_not_an_object_without_them(
    backend: Backend, database: Database, text: str
) -> None:
    jobid = put(database, headers=HEADERS)
    backend.execute(f"UPDATE job SET headers = '{text}' WHERE jobid = {jobid}")
    claimed = claim_one(database)
    assert claimed.headers == {}
    assert decode_payload(encode_payload(claimed)).headers == {}


def test_an_insert_that_replaces_a_job_replaces_its_headers(database: Database) -> None:
    unique = Unique("k", on_duplicate="replace")
    for n in (1, 2):
        put(database, uniqkey=unique, headers={"n": n}, delay=60)
    (found,) = [it.headers for it in database.jobs()]
    assert found == {"n": 2}


def test_a_successor_keeps_its_headers(database: Database) -> None:
    unique = Unique("k", on_duplicate="one_more")
    put(database, uniqkey=unique, headers={"n": 1})
    first = claim_one(database)
    put(database, uniqkey=unique, headers={"n": 2})
    database.complete([first.jobid])
    assert [it.headers for it in claim(database)] == [{"n": 2}]


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"x": "a" * MAX_HEADERS}, "at most 2048 bytes"),
        ({1: "x"}, "text as names"),
        ({"x": object()}, "cannot be written as JSON"),
        ("x", "mapping"),
    ],
)
def test_a_new_job_refuses_headers_that_cannot_be_stored(headers: object, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        job(headers=headers)


def test_a_new_job_with_empty_headers_has_none() -> None:
    assert job(headers={}).headers is None
