"""Inserts: alike in every kind of database."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from msgspec.structs import replace

from garivini.model.inserted import Inserted
from garivini.model.job import Job, NewJob
from garivini.model.state import State
from garivini.store.database import Database
from tests.store.conformance.jobs import (
    LEASE,
    NOON,
    claim,
    claim_one,
    job,
    put,
    stored,
)
from tests.store.conftest import Backend, Clock


def test_insert_keeps_every_field(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    (answer,) = database.insert(
        [job(b"\xff\0", "fün", uniqkey="k", coalesce="c", flag="controller", priority="high", delay=90)]
    )
    assert answer == Inserted(answer.jobid, database.dbid, new=True, created=NOON)
    assert database.get(answer.jobid) == Job(
        jobid=answer.jobid,
        dbid=database.dbid,
        funcname="fün",
        arg=b"\xff\0",
        uniqkey="k",
        coalesce="c",
        run_after=NOON + 90,
        flag="controller",
        failcount=0,
        attempt=0,
        priority="high",
        state=State.WAITING,
        since=0,
        crashes=0,
        created=NOON,
    )


@pytest.mark.parametrize("uniqkey", [None, "k"])
def test_insert_with_a_lease_is_like_a_claim(database: Database, clock: Clock, uniqkey: str | None) -> None:
    clock.set(NOON)
    new = replace(job(b"held", uniqkey=uniqkey), lease=LEASE)
    held, left = database.insert([new, job(b"left", uniqkey=uniqkey and f"{uniqkey}2")])
    taken = Job.from_insert(new, held)
    assert taken.incarnation == database.incarnation
    row = replace(taken, run_after=taken.lease_end, lease=0, lease_end=0, incarnation=None)
    assert stored(database, held.jobid) == row
    assert taken.lease_end == NOON + LEASE + 1
    assert taken.run_after == NOON
    assert [claimed.jobid for claimed in claim(database)] == [left.jobid]
    assert database.renew([taken.handle], lease=LEASE) == {taken.handle}


def test_release_of_a_job_inserted_with_a_lease_lets_it_wait(database: Database) -> None:
    new = replace(job(), lease=LEASE)
    (answer,) = database.insert([new])
    database.release([Job.from_insert(new, answer)])
    claimed = claim_one(database)
    assert (claimed.jobid, claimed.attempt) == (answer.jobid, 2)


#: Texts that mean something to a statement, an array or a driver.
ODD = [
    "",
    "NULL",
    "null",
    '"',
    "\\",
    '\\"',
    "'",
    "''",
    "{}",
    "{a,b}",
    ",",
    "%s",
    "%%",
    ":name",
    "?",
    "ä\U0001f40c",
    " x ",
]


@pytest.mark.parametrize("repeats", [1, 3])
def test_insert_keeps_odd_texts_as_they_are(database: Database, repeats: int) -> None:
    """Few and many rows may be written in ways of their own."""
    jobs = [
        job(
            text.encode() * repeat,
            uniqkey=text and f"{text}{repeat}",
            coalesce=text,
            funcname=f"f{text}".strip(),
        )
        for text in ODD
        for repeat in range(repeats)
        if " " not in text
    ]
    answers = database.insert([*jobs, *(replace(one, uniqkey=None) for one in jobs)])
    for one, answer in zip([*jobs, *(replace(one, uniqkey=None) for one in jobs)], answers, strict=True):
        found = stored(database, answer.jobid)
        assert (found.funcname, found.arg, found.uniqkey, found.coalesce) == (
            one.funcname,
            one.arg,
            one.uniqkey,
            one.coalesce,
        )


def test_insert_of_no_jobs_answers_none(database: Database) -> None:
    assert database.insert([]) == []
    assert database.jobs() == []


def test_insert_answers_in_the_order_of_the_jobs_with_rising_ids(database: Database) -> None:
    answers = database.insert([job(b"%d" % number) for number in range(300)])
    assert [stored(database, answer.jobid).arg for answer in answers] == [b"%d" % n for n in range(300)]
    ids = [answer.jobid for answer in answers]
    assert ids == sorted(set(ids))


def test_insert_answers_in_the_order_of_the_jobs_if_some_have_keys(database: Database) -> None:
    jobs = [job(b"%d" % n, uniqkey=f"k{n}" if n % 3 == 0 else None) for n in range(30)]
    answers = database.insert(jobs)
    assert [stored(database, answer.jobid).arg for answer in answers] == [b"%d" % n for n in range(30)]
    assert all(answer.new for answer in answers)


def test_insert_of_more_jobs_than_fit_a_statement_is_one(database: Database) -> None:
    answers = database.insert([job(b"%d" % n, uniqkey=f"k{n}" if n % 2 else None) for n in range(2500)])
    assert len({answer.jobid for answer in answers}) == 2500
    for n in (0, 1, 999, 1000, 1001, 1999, 2000, 2001, 2498, 2499):
        assert stored(database, answers[n].jobid).arg == b"%d" % n


def test_insert_of_a_key_twice_answers_its_first_job(database: Database) -> None:
    first, other, again, free = database.insert(
        [job(b"1", uniqkey="a"), job(b"2", uniqkey="b"), job(b"3", uniqkey="a"), job(b"4")]
    )
    assert [first.new, other.new, again.new, free.new] == [True, True, False, True]
    assert again.jobid == first.jobid
    assert stored(database, first.jobid).arg == b"1"
    assert len(database.jobs()) == 3


def test_insert_of_a_key_twice_in_several_statements_answers_its_first_job(
    database: Database,
) -> None:
    answers = database.insert([job(uniqkey=f"k{n % 1500}") for n in range(2000)])
    assert [answer.new for answer in answers] == [True] * 1500 + [False] * 500
    assert [answer.jobid for answer in answers[1500:]] == [answer.jobid for answer in answers[:500]]


def test_insert_of_a_live_key_answers_its_job_and_changes_nothing(database: Database) -> None:
    (first,) = database.insert([job(b"1", uniqkey="k")])
    before = database.get(first.jobid)
    for _ in range(2):
        assert database.insert([job(b"2", uniqkey="k", priority="high", delay=5)]) == [
            Inserted(first.jobid, database.dbid, new=False)
        ]
    assert database.get(first.jobid) == before
    claim(database)
    assert database.insert([job(uniqkey="k")])[0] == Inserted(first.jobid, database.dbid, new=False)


@pytest.mark.parametrize(
    ("row", "state"),
    [
        ("state = 0", State.WAITING),
        ("state = 1", State.LEASED),
        ("state = 2", State.RUNNING),
        ("state = 4", State.DEAD),
        # What a client of the original has parked.
        ("run_after = 2147483647", State.DEAD),
        ("state = 1, run_after = 2147483647", State.DEAD),
    ],
)
def test_insert_of_a_taken_key_says_how_its_job_stands(
    database: Database, backend: Backend, row: str, state: State
) -> None:
    (first,) = database.insert([job(uniqkey="k")])
    assert (first.state, first.dead) == (None, False)
    backend.execute(f"UPDATE job SET {row}")
    beside, second = database.insert([job(), job(uniqkey="k")])
    assert (second.new, second.jobid) == (False, first.jobid)
    assert (second.state, second.dead) == (state, state is State.DEAD)
    assert beside.new
    found = database.live("f", "k")
    assert found is not None
    assert (found.jobid, found.state) == (first.jobid, state)


def test_insert_of_a_key_twice_says_how_the_first_of_them_stands(database: Database) -> None:
    first, second = database.insert([replace(job(uniqkey="k"), lease=60)] * 2)
    assert (first.state, second.state) == (None, State.LEASED)


def test_insert_of_a_key_whose_job_is_complete_is_new(database: Database) -> None:
    (first,) = database.insert([job(uniqkey="k")])
    database.complete([first.jobid])
    (second,) = database.insert([job(uniqkey="k")])
    assert second.new
    assert second.jobid != first.jobid


def test_insert_distinguishes_keys_by_function_and_bytes(database: Database) -> None:
    keys = [("f", "k"), ("g", "k"), ("f", "K"), ("f", "k "), ("F", "k"), ("f", "ḱ"), ("f", "k\u0301")]
    answers = database.insert([job(funcname=funcname, uniqkey=key) for funcname, key in keys])
    assert [answer.new for answer in answers] == [True] * len(keys)


def test_insert_counts_a_delay_by_the_clock_of_the_database(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    jobid = put(database, delay=90)
    assert stored(database, jobid).run_after == NOON + 90
    clock.advance(89)
    assert claim(database) == []
    clock.advance(1)
    assert [taken.jobid for taken in claim(database)] == [jobid]


#: Jobs with a delay: one, few and many, which may be written in ways of their own; with keys and without.
BULKS = [(count, keyed) for count in (1, 2, 30) for keyed in (False, True)]


@pytest.mark.parametrize(("count", "keyed"), BULKS)
@pytest.mark.parametrize("fraction", [0.0, 0.004, 0.5, 0.997])
def test_insert_makes_a_delay_never_short_nor_a_second_long(
    database: Database, clock: Clock, fraction: float, count: int, keyed: bool
) -> None:
    clock.set(NOON + fraction)
    answers = database.insert(
        [job(uniqkey=f"k{n}" if keyed else None, delay=n % 3) for n in range(1, count + 1)]
    )
    for n, answer in enumerate(answers, 1):
        assert answer.created == NOON
        due = stored(database, answer.jobid).run_after
        # Due at once, or after that time and within a second of it.
        assert due == NOON if n % 3 == 0 else 0 <= due - (NOON + fraction + n % 3) < 1


@pytest.mark.parametrize(("count", "keyed"), BULKS)
def test_insert_leases_for_the_given_seconds_whatever_the_fraction(
    database: Database, backend: Backend, clock: Clock, count: int, keyed: bool
) -> None:
    clock.set(NOON + 0.5)
    new = [replace(job(uniqkey=f"k{n}" if keyed else None), lease=LEASE) for n in range(count)]
    database.insert(new)
    rows = backend.execute("SELECT run_after, lease_end, since, attempt, state FROM job")
    assert rows == [(NOON + LEASE + 1, NOON + LEASE + 1, NOON, 1, 1)] * count


@pytest.mark.parametrize(
    "arg",
    [
        b"",
        b"\0",
        bytes(range(256)),
        b"\xed\xa0\x80",
        random.Random(1).randbytes(1024 * 1024),
    ],
    ids=["empty", "NUL", "all bytes", "half a surrogate pair", "1 MiB"],
)
def test_insert_keeps_an_argument_byte_for_byte(database: Database, arg: bytes) -> None:
    jobid = put(database, arg=arg)
    assert stored(database, jobid).arg == arg
    assert claim_one(database).arg == arg


@pytest.mark.slow
def test_insert_keeps_the_largest_argument_byte_for_byte(database: Database) -> None:
    arg = random.Random(1).randbytes(16 * 1024 * 1024 - 1)
    put(database, arg=arg)
    assert claim_one(database).arg == arg


def test_insert_never_gives_an_id_again(database: Database, backend: Backend) -> None:
    first = put(database)
    database.complete([first])
    second = put(database)
    database.complete([second])
    again = backend.open()
    third = put(again)
    again.close()
    assert first < second < third


def test_insert_of_one_key_by_many_threads_makes_one_live_job(database: Database) -> None:
    start = threading.Barrier(8)

    def insert(number: int) -> list[Inserted]:
        start.wait()
        return [database.insert([job(b"%d" % number, uniqkey=f"k{n}")])[0] for n in range(5)]

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(insert, range(8)))
    for of_one_key in zip(*answers, strict=True):
        assert len({answer.jobid for answer in of_one_key}) == 1
        assert sum(answer.new for answer in of_one_key) == 1
    assert len(database.jobs()) == 5


def test_insert_that_fails_half_way_leaves_nothing(database: Database) -> None:
    broken = NewJob(
        funcname=None,  # type: ignore[arg-type]
        arg=b"",
        uniqkey=None,
        coalesce=None,
        flag="shim",
        priority="normal",
        delay=0,
    )
    with pytest.raises(Exception, match="funcname"):
        database.insert([*(job() for _ in range(1500)), broken])
    assert database.jobs() == []
