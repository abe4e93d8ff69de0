"""What a database does, said once for every kind of database: no name of one is in this file."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from garivini.errors import ConflictError, UsageError
from garivini.model.inserted import Inserted
from garivini.model.job import Handle, Job, NewJob
from garivini.model.limits import NEVER
from garivini.model.new_jobs import new_job
from garivini.model.outcome import Kind, Setback, Settled
from garivini.model.policy import MAX_CRASHES, FunctionPolicy
from garivini.model.state import State
from garivini.model.when import At, Never, Offset
from garivini.store.database import Database, Lane, Lapsed
from garivini.store.failures import FIRST, NEWEST
from tests.store.conftest import Backend, Clock

#: A time of day in 2023.
NOON = 1_700_000_000
LEASE = 60


def job(arg: bytes = b"", funcname: str = "f", **fields: Any) -> NewJob:
    return new_job(funcname, arg, **fields)


def lane(funcname: str = "f", state: State = State.WAITING, priority: str = "normal") -> Lane:
    return Lane(funcname, state, priority, 0)


def put(database: Database, **fields: Any) -> int:
    """Insert one job; return its id."""
    (answer,) = database.insert([job(**fields)])
    return answer.jobid


def claim(database: Database, limit: int = 100, **options: Any) -> list[Job]:
    return database.claim(lane(), limit=limit, lease=LEASE, **options)


def claim_one(database: Database) -> Job:
    (claimed,) = claim(database, 1)
    return claimed


def look(database: Database, jobid: int) -> Job:
    found = database.get(jobid)
    assert found is not None
    return found


# ---- inserting


def test_an_inserted_job_comes_back_with_every_field(database: Database, clock: Clock) -> None:
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
def test_a_job_inserted_with_a_lease_is_as_if_it_had_been_claimed(
    database: Database, clock: Clock, uniqkey: str | None
) -> None:
    clock.set(NOON)
    new = replace(job(b"held", uniqkey=uniqkey), lease=LEASE)
    held, left = database.insert([new, job(b"left", uniqkey=uniqkey and f"{uniqkey}2")])
    taken = Job.taken(new, held)
    assert look(database, held.jobid) == replace(taken, run_after=taken.lease_end, lease=0, lease_end=0)
    assert taken.lease_end == NOON + LEASE + 1
    assert taken.run_after == NOON
    assert [claimed.jobid for claimed in claim(database)] == [left.jobid]
    assert database.renew([taken.handle], lease=LEASE) == {taken.handle}


def test_a_job_inserted_with_a_lease_that_was_not_sent_waits_again(database: Database) -> None:
    new = replace(job(), lease=LEASE)
    (answer,) = database.insert([new])
    database.release([Job.taken(new, answer)])
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
def test_odd_texts_are_kept_as_they_are(database: Database, repeats: int) -> None:
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
        found = look(database, answer.jobid)
        assert (found.funcname, found.arg, found.uniqkey, found.coalesce) == (
            one.funcname,
            one.arg,
            one.uniqkey,
            one.coalesce,
        )


def test_no_jobs_are_inserted_as_none(database: Database) -> None:
    assert database.insert([]) == []
    assert database.jobs() == []


def test_answers_come_in_the_order_of_the_jobs_with_rising_ids(database: Database) -> None:
    answers = database.insert([job(b"%d" % number) for number in range(300)])
    assert [look(database, answer.jobid).arg for answer in answers] == [b"%d" % n for n in range(300)]
    ids = [answer.jobid for answer in answers]
    assert ids == sorted(set(ids))


def test_answers_come_in_the_order_of_the_jobs_where_some_have_keys(database: Database) -> None:
    jobs = [job(b"%d" % n, uniqkey=f"k{n}" if n % 3 == 0 else None) for n in range(30)]
    answers = database.insert(jobs)
    assert [look(database, answer.jobid).arg for answer in answers] == [b"%d" % n for n in range(30)]
    assert all(answer.new for answer in answers)


def test_more_jobs_than_fit_a_statement_are_inserted_as_one(database: Database) -> None:
    answers = database.insert([job(b"%d" % n, uniqkey=f"k{n}" if n % 2 else None) for n in range(2500)])
    assert len({answer.jobid for answer in answers}) == 2500
    for n in (0, 1, 999, 1000, 1001, 1999, 2000, 2001, 2498, 2499):
        assert look(database, answers[n].jobid).arg == b"%d" % n


def test_a_key_given_twice_in_a_call_answers_the_first_job_of_it(database: Database) -> None:
    first, other, again, free = database.insert(
        [job(b"1", uniqkey="a"), job(b"2", uniqkey="b"), job(b"3", uniqkey="a"), job(b"4")]
    )
    assert [first.new, other.new, again.new, free.new] == [True, True, False, True]
    assert again.jobid == first.jobid
    assert look(database, first.jobid).arg == b"1"
    assert len(database.jobs()) == 3


def test_a_key_given_again_in_another_statement_of_a_call_answers_the_first_job_of_it(
    database: Database,
) -> None:
    answers = database.insert([job(uniqkey=f"k{n % 1500}") for n in range(2000)])
    assert [answer.new for answer in answers] == [True] * 1500 + [False] * 500
    assert [answer.jobid for answer in answers[1500:]] == [answer.jobid for answer in answers[:500]]


def test_a_key_of_a_live_job_answers_that_job_and_changes_nothing(database: Database) -> None:
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


def test_a_key_is_free_again_once_its_job_is_complete(database: Database) -> None:
    (first,) = database.insert([job(uniqkey="k")])
    database.complete([first.jobid])
    (second,) = database.insert([job(uniqkey="k")])
    assert second.new
    assert second.jobid != first.jobid


def test_a_key_belongs_to_its_function_and_is_told_apart_by_bytes(database: Database) -> None:
    keys = [("f", "k"), ("g", "k"), ("f", "K"), ("f", "k "), ("F", "k"), ("f", "ḱ"), ("f", "k\u0301")]
    answers = database.insert([job(funcname=funcname, uniqkey=key) for funcname, key in keys])
    assert [answer.new for answer in answers] == [True] * len(keys)


def test_a_delay_is_counted_by_the_clock_of_the_database(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    jobid = put(database, delay=90)
    assert look(database, jobid).run_after == NOON + 90
    clock.advance(89)
    assert claim(database) == []
    clock.advance(1)
    assert [taken.jobid for taken in claim(database)] == [jobid]


#: Jobs with a delay: one, few and many, which may be written in ways of their own; with keys and without.
BULKS = [(count, keyed) for count in (1, 2, 30) for keyed in (False, True)]


@pytest.mark.parametrize(("count", "keyed"), BULKS)
@pytest.mark.parametrize("fraction", [0.0, 0.004, 0.5, 0.997])
def test_a_delay_is_never_short_nor_a_second_long(
    database: Database, clock: Clock, fraction: float, count: int, keyed: bool
) -> None:
    clock.set(NOON + fraction)
    answers = database.insert(
        [job(uniqkey=f"k{n}" if keyed else None, delay=n % 3) for n in range(1, count + 1)]
    )
    for n, answer in enumerate(answers, 1):
        assert answer.created == NOON
        due = look(database, answer.jobid).run_after
        # Due at once, or after that time and within a second of it.
        assert due == NOON if n % 3 == 0 else 0 <= due - (NOON + fraction + n % 3) < 1


@pytest.mark.parametrize("fraction", [0.0, 0.004, 0.5, 0.997])
@pytest.mark.parametrize("kind", ["failed", "rescheduled"])
@pytest.mark.parametrize("seconds", [0, 1, 360])
def test_a_job_that_is_put_back_for_some_seconds_waits_for_so_long(
    database: Database, clock: Clock, fraction: float, kind: Any, seconds: int
) -> None:
    put(database)
    taken = claim_one(database)
    clock.set(NOON + fraction)
    settle(database, taken, kind, when=Offset(seconds))
    due = look(database, taken.jobid).run_after
    assert due == NOON if seconds == 0 else 0 <= due - (NOON + fraction + seconds) < 1


def test_a_unix_time_is_kept_as_it_is(database: Database, clock: Clock) -> None:
    put(database)
    taken = claim_one(database)
    clock.set(NOON + 0.5)
    settle(database, taken, "rescheduled", when=At(NOON + 7))
    assert look(database, taken.jobid).run_after == NOON + 7


@pytest.mark.parametrize(("count", "keyed"), BULKS)
def test_a_lease_is_as_long_as_it_says_whatever_the_fraction(
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
def test_an_argument_comes_back_byte_for_byte(database: Database, arg: bytes) -> None:
    jobid = put(database, arg=arg)
    assert look(database, jobid).arg == arg
    assert claim_one(database).arg == arg


@pytest.mark.slow
def test_the_largest_argument_comes_back_byte_for_byte(database: Database) -> None:
    arg = random.Random(1).randbytes(16 * 1024 * 1024 - 1)
    put(database, arg=arg)
    assert claim_one(database).arg == arg


def test_an_id_is_never_given_again(database: Database, backend: Backend) -> None:
    first = put(database)
    database.complete([first])
    second = put(database)
    database.complete([second])
    again = backend.open()
    third = put(again)
    again.close()
    assert first < second < third


# ---- claiming


def test_a_claim_leases_the_job_and_raises_its_attempt(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    jobid = put(database, arg=b"x")
    clock.advance(5)
    claimed = claim_one(database)
    assert (claimed.jobid, claimed.arg, claimed.attempt, claimed.state) == (jobid, b"x", 1, State.LEASED)
    assert (claimed.run_after, claimed.lease, claimed.lease_end) == (NOON, LEASE, NOON + 5 + LEASE + 1)
    row = look(database, jobid)
    assert (row.attempt, row.state, row.since, row.run_after) == (1, State.LEASED, NOON + 5, NOON + 66)


def test_jobs_are_claimed_in_the_order_in_which_they_are_due(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    delays = [7, 3, 9, 1, 5, 3, 8]
    answers = database.insert([job(delay=delay) for delay in delays])
    clock.advance(10)
    claimed = claim(database, 3) + claim(database, 3) + claim(database)
    assert [taken.run_after - NOON for taken in claimed] == sorted(delays)
    assert {taken.jobid for taken in claimed} == {answer.jobid for answer in answers}


def test_a_claim_takes_no_more_than_its_limit(database: Database) -> None:
    database.insert([job() for _ in range(5)])
    assert [len(claim(database, 2)) for _ in range(4)] == [2, 2, 1, 0]


def test_large_arguments_are_claimed_with_small_ones_as_far_as_they_fit(database: Database) -> None:
    args = [b"a" * 10, b"b" * 5000, b"c" * 4096, b"d" * 5000, b"e" * 10]
    jobids = [answer.jobid for answer in database.insert([job(arg) for arg in args])]
    assert [claimed.arg for claimed in claim(database, max_bytes=10_000)] == args[:3]
    assert [claimed.jobid for claimed in claim(database, max_bytes=100)] == jobids[3:4]  # alone it is taken
    assert [claimed.arg for claimed in claim(database, max_bytes=100)] == args[4:]
    assert claim(database) == []


def test_a_claim_takes_no_more_bytes_than_it_may(database: Database) -> None:
    database.insert([job(bytes(400)) for _ in range(5)])
    assert [len(claim(database, max_bytes=1000)) for _ in range(4)] == [2, 2, 1, 0]
    database.insert([job(bytes(400)) for _ in range(3)])
    assert len(claim(database, max_bytes=1200)) == 3


def test_a_job_that_alone_has_too_many_bytes_is_claimed_all_the_same_and_alone(database: Database) -> None:
    database.insert([job(bytes(size)) for size in (5000, 10, 5000, 10)])
    assert [[len(taken.arg) for taken in claim(database, max_bytes=1000)] for _ in range(3)] == [
        [5000],
        [10],
        [5000],
    ]


def test_the_bound_in_bytes_does_not_let_a_small_job_overtake_a_large_one(
    database: Database, clock: Clock
) -> None:
    clock.set(NOON)
    database.insert([job(bytes(size), delay=delay) for delay, size in enumerate((600, 600, 10))])
    clock.advance(10)
    assert [len(taken.arg) for taken in claim(database, max_bytes=1000)] == [600]
    assert [len(taken.arg) for taken in claim(database, max_bytes=1000)] == [600, 10]


def test_a_claim_takes_from_its_own_lane_only(database: Database) -> None:
    jobid = put(database)
    put(database, funcname="g")
    put(database, funcname="ff")
    put(database, funcname="F")
    put(database, priority="high")
    put(database, priority="low")
    held_by_another = put(database)
    assert [taken.jobid for taken in claim(database)] == [jobid, held_by_another]
    assert claim(database) == []
    assert {found.attempt for found in database.jobs() if found.jobid not in (jobid, held_by_another)} == {0}


@pytest.mark.parametrize("priority", ["high", "normal", "low"])
def test_each_priority_is_claimed_as_a_lane_of_its_own(database: Database, priority: str) -> None:
    jobids = {name: put(database, priority=name) for name in ("high", "normal", "low")}
    (taken,) = database.claim(lane(priority=priority), limit=10, lease=LEASE)
    assert (taken.jobid, taken.priority) == (jobids[priority], priority)


@pytest.mark.parametrize("state", [State.LEASED, State.RUNNING, State.SUSPECT])
def test_what_somebody_holds_is_not_claimed_even_when_its_lease_is_over(
    database: Database, clock: Clock, state: State
) -> None:
    clock.set(NOON)
    leased_until(database, clock, state)
    clock.advance(10 * LEASE)
    assert claim(database) == []


@pytest.mark.parametrize("year", [2037, 2038, 2039, 2105])
def test_what_is_parked_is_never_claimed_not_even_after_2038(
    database: Database, backend: Backend, clock: Clock, year: int
) -> None:
    clock.set(NOON)
    dead = put(database)
    settle(database, claim_one(database), kind="parked")
    parked_by_the_original = put(database)
    backend.execute(f"UPDATE job SET run_after = {NEVER} WHERE jobid = {parked_by_the_original}")
    clock.set(datetime(year, 12, 1, tzinfo=UTC).timestamp())
    assert claim(database) == []
    assert database.lanes().lanes == []
    assert look(database, dead).run_after == look(database, parked_by_the_original).run_after == NEVER
    assert look(database, parked_by_the_original).attempt == 0


def test_jobs_go_on_after_2038_beside_what_is_parked(
    database: Database, backend: Backend, clock: Clock
) -> None:
    clock.set(NOON)
    backend.execute(f"UPDATE job SET run_after = {NEVER} WHERE jobid = {put(database)}")
    early = put(database)
    settle(database, Handle(early, database.dbid), kind="rescheduled", when=At(NEVER + 1000))
    clock.set(NEVER + 999)
    assert claim(database) == []
    late = put(database)
    assert [found.due for found in database.lanes().lanes] == [NEVER + 999]
    clock.set(NEVER + 1000)
    assert [taken.jobid for taken in claim(database)] == [late, early]


def test_each_claim_raises_the_attempt_and_nothing_lowers_it(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    jobid = put(database)
    ends: list[Callable[[Job], object]] = [
        lambda taken: database.release([taken]),
        lambda taken: settle(database, taken, kind="failed", when=Offset(0)),
        lambda taken: settle(database, taken, kind="rescheduled", when=Offset(0)),
        lambda taken: settle(database, taken, kind="parked") and database.retry(jobid),
        lambda taken: settle(database, Handle(jobid, 1), kind="rescheduled", when=At(NOON)),
    ]
    for number, end in enumerate(ends, 1):
        taken = claim_one(database)
        assert taken.attempt == number
        end(taken)
        assert look(database, jobid).attempt == number


def test_claims_of_many_threads_never_give_one_job_twice(database: Database) -> None:
    answers = database.insert([job() for _ in range(400)])
    start = threading.Barrier(4)

    def take(_: int) -> list[int]:
        start.wait()
        taken: list[int] = []
        while batch := claim(database, 7):
            taken += [found.jobid for found in batch]
        return taken

    with ThreadPoolExecutor(4) as threads:
        taken = Counter(jobid for part in threads.map(take, range(4)) for jobid in part)
    assert taken == Counter(answer.jobid for answer in answers)
    assert {found.attempt for found in database.jobs(limit=1000)} == {1}


def test_inserts_of_one_key_by_many_threads_make_exactly_one_live_job(database: Database) -> None:
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


# ---- what another program writes


def test_a_row_of_the_original_is_claimed_and_completed(database: Database, backend: Backend) -> None:
    backend.execute(
        "INSERT INTO job (funcname, uniqkey, run_after, coalesce, arg, flag)"
        " VALUES ('f', 'k', 1313572984, 'c', 'hello', 'controller')"
    )
    claimed = claim_one(database)
    assert (claimed.funcname, claimed.uniqkey, claimed.coalesce, claimed.arg, claimed.flag) == (
        "f",
        "k",
        "c",
        b"hello",
        "controller",
    )
    assert (claimed.run_after, claimed.attempt, claimed.failcount) == (1313572984, 1, 0)
    assert database.insert([job(uniqkey="k")]) == [Inserted(claimed.jobid, database.dbid, new=False)]
    assert database.complete([claimed.jobid]) == {claimed.jobid}


def test_a_row_with_nothing_but_the_columns_without_a_default_is_claimed(
    database: Database, backend: Backend
) -> None:
    backend.execute("INSERT INTO job (funcname, run_after) VALUES ('f', 0)")
    claimed = claim_one(database)
    assert (claimed.arg, claimed.uniqkey, claimed.coalesce, claimed.flag) == (b"", None, None, "shim")


def test_a_row_whose_flag_is_null_is_of_flag_shim(database: Database, backend: Backend) -> None:
    backend.execute("INSERT INTO job (funcname, run_after, flag) VALUES ('f', 0, NULL)")
    assert claim_one(database).flag == "shim"


# ---- giving back


def test_a_released_claim_waits_at_its_old_time(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    jobid = put(database, delay=5)
    clock.advance(100)
    claimed = claim_one(database)
    database.release([claimed])
    row = look(database, jobid)
    assert (row.state, row.run_after, row.attempt) == (State.WAITING, NOON + 5, 1)
    assert claim_one(database).attempt == 2


def test_a_release_leaves_alone_what_another_attempt_holds_or_somebody_runs(
    database: Database, clock: Clock
) -> None:
    clock.set(NOON)
    put(database)
    first = claim_one(database)
    database.release([first])
    claim_one(database)
    before = look(database, first.jobid)
    database.release([first])
    assert look(database, first.jobid) == before
    database.renew([Handle(first.jobid, database.dbid, 2)], lease=LEASE)
    running = look(database, first.jobid)
    database.release([running])
    assert look(database, first.jobid) == running


def test_a_lease_is_ended_early_where_nobody_has_prolonged_it(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    put(database)
    claimed = claim_one(database)
    clock.advance(3)
    database.end_early([claimed.handle], lease=LEASE)
    row = look(database, claimed.jobid)
    assert (row.run_after, row.state, row.attempt) == (NOON + 3, State.LEASED, 1)
    assert [found.jobid for found in database.expired(lane(state=State.LEASED), limit=10)] == [row.jobid]


@pytest.mark.parametrize(
    "change",
    [
        f"state = {State.RUNNING}",
        f"state = {State.SUSPECT}",
        "attempt = 2",
        f"run_after = {NOON + LEASE + 3}",
        f"run_after = {NOON + 5}, state = {State.WAITING}",
        f"run_after = {NEVER}, state = {State.DEAD}",
    ],
)
def test_a_lease_that_has_changed_hands_is_not_ended_early(
    database: Database, backend: Backend, clock: Clock, change: str
) -> None:
    clock.set(NOON)
    put(database)
    claimed = claim_one(database)
    backend.execute(f"UPDATE job SET {change}")
    before = look(database, claimed.jobid)
    database.end_early([claimed.handle], lease=LEASE)
    assert look(database, claimed.jobid) == before


@pytest.mark.parametrize("state", [State.LEASED, State.RUNNING, State.SUSPECT])
def test_what_a_holder_gives_back_waits_at_once(database: Database, clock: Clock, state: State) -> None:
    clock.set(NOON)
    lapsed = leased_until(database, clock, state)
    database.give_back([Handle(lapsed.jobid, database.dbid, 1)])
    row = look(database, lapsed.jobid)
    assert (row.state, row.run_after, row.attempt) == (State.WAITING, NOON + LEASE + 1, 1)
    assert claim_one(database).attempt == 2


@pytest.mark.parametrize(
    "change",
    ["attempt = 2", f"run_after = {NOON + 5}, state = {State.WAITING}", f"state = {State.DEAD}"],
)
def test_what_is_not_mine_is_not_given_back(
    database: Database, backend: Backend, clock: Clock, change: str
) -> None:
    clock.set(NOON)
    put(database)
    claimed = claim_one(database)
    backend.execute(f"UPDATE job SET {change}")
    before = look(database, claimed.jobid)
    database.give_back([claimed.handle])
    assert look(database, claimed.jobid) == before


def test_what_a_holder_renewed_and_will_not_start_is_leased_as_before(
    database: Database, clock: Clock
) -> None:
    clock.set(NOON)
    put(database)
    claimed = claim_one(database)
    clock.set(NOON + 10)
    database.renew([claimed.handle], lease=LEASE)
    database.mark_leased([claimed.handle])
    row = look(database, claimed.jobid)
    assert (row.state, row.run_after, row.attempt) == (State.LEASED, NOON + 10 + LEASE + 1, 1)
    database.end_early([claimed.handle], lease=LEASE)
    assert look(database, claimed.jobid).run_after == NOON + 10


@pytest.mark.parametrize(
    "change",
    [
        f"attempt = 2, state = {State.RUNNING}",
        f"state = {State.SUSPECT}",
        f"run_after = {NOON + 5}, state = {State.WAITING}",
        f"state = {State.DEAD}",
    ],
)
def test_what_has_changed_hands_is_not_made_leased(
    database: Database, backend: Backend, clock: Clock, change: str
) -> None:
    clock.set(NOON)
    put(database)
    claimed = claim_one(database)
    backend.execute(f"UPDATE job SET {change}")
    before = look(database, claimed.jobid)
    database.mark_leased([claimed.handle])
    assert look(database, claimed.jobid) == before


# ---- what is at Gearman


def dispatched(database: Database, **options: Any) -> list[tuple[int, int]]:
    found = database.dispatched(lane(state=State.LEASED), **{"age": 0, **options})
    return [(handle.jobid, lease_end) for handle, lease_end in found]


def test_attempts_handed_to_gearman_come_by_the_ends_of_their_leases_in_pages(
    database: Database, clock: Clock
) -> None:
    clock.set(NOON)
    expected = []
    for second in range(3):
        put(database)
        expected.append((claim_one(database).jobid, NOON + second + LEASE + 1))
        clock.advance(1)
    assert dispatched(database) == expected
    assert dispatched(database, limit=2) == expected[:2]
    assert dispatched(database, after=expected[1][1]) == expected[1:]
    assert database.dispatched(lane(), age=0)[0][0] == Handle(expected[0][0], database.dbid, 1)


def test_attempts_that_may_be_on_their_way_are_left_out(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    put(database)
    old = claim_one(database).jobid
    clock.advance(1)
    put(database)
    young = claim_one(database).jobid
    clock.advance(1)
    assert [jobid for jobid, _ in dispatched(database, age=1)] == [old, young]
    assert [jobid for jobid, _ in dispatched(database, age=2)] == [old]
    assert dispatched(database, age=3) == []


def test_only_leases_of_the_lane_that_go_on_and_that_nobody_has_renewed_are_dispatched(
    database: Database, clock: Clock
) -> None:
    clock.set(NOON)
    put(database)
    database.renew([claim_one(database).handle], lease=LEASE)
    put(database, funcname="g")
    database.claim(lane("g"), limit=1, lease=LEASE)
    put(database, delay=9)
    assert dispatched(database) == []
    put(database)
    claim_one(database)
    clock.advance(LEASE)
    assert len(dispatched(database)) == 1
    clock.advance(1)
    assert dispatched(database) == []


# ---- leases that ran out


def leased_until(database: Database, clock: Clock, state: State) -> Lapsed:
    """Make a job whose lease runs out at this moment in this state; return it as ``expired`` does."""
    jobid = put(database)
    claimed = claim_one(database)
    if state is not State.LEASED:
        database.renew([claimed.handle], lease=LEASE)
    clock.advance(LEASE + 1)
    if state is State.SUSPECT:
        (lapsed,) = database.expired(lane(state=State.RUNNING), limit=10)
        database.extend([(lapsed, State.SUSPECT, 0, False)])
    (lapsed,) = database.expired(lane(state=state), limit=10)
    assert (lapsed.jobid, lapsed.state) == (jobid, state)
    return lapsed


HELD = [State.LEASED, State.RUNNING, State.SUSPECT]


def test_a_lease_runs_out_after_its_seconds_and_one(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    put(database, flag="controller")
    claimed = claim_one(database)
    clock.advance(LEASE)
    assert database.expired(lane(state=State.LEASED), limit=10) == []
    clock.advance(1)
    assert database.expired(lane(state=State.LEASED), limit=10) == [
        Lapsed(claimed.jobid, 1, "controller", 0, NOON, LEASE + 1, State.LEASED, funcname="f")
    ]


@pytest.mark.parametrize("state", HELD)
def test_leases_that_ran_out_are_found_in_their_own_lane_only(
    database: Database, clock: Clock, state: State
) -> None:
    clock.set(NOON)
    leased_until(database, clock, state)
    for other in HELD:
        assert bool(database.expired(lane(state=other), limit=10)) is (other is state)
    assert database.expired(lane("g", state), limit=10) == []
    assert database.expired(lane(state=state, priority="high"), limit=10) == []


def test_leases_that_ran_out_come_in_order_and_to_a_limit(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    database.insert([job() for _ in range(3)])
    taken = []
    for _ in range(3):
        taken.append(claim_one(database).jobid)
        clock.advance(1)
    clock.advance(LEASE)
    found = database.expired(lane(state=State.LEASED), limit=2)
    assert [lapsed.jobid for lapsed in found] == taken[:2]


@pytest.mark.parametrize("state", HELD)
@pytest.mark.parametrize("queued", [False, True])
def test_a_lease_that_goes_on_has_its_new_state_and_end(
    database: Database, clock: Clock, state: State, queued: bool
) -> None:
    clock.set(NOON)
    lapsed = leased_until(database, clock, state)
    clock.advance(4)
    database.extend([(lapsed, State.LEASED, 22, queued)])
    row = look(database, lapsed.jobid)
    now = NOON + LEASE + 1 + 4
    assert (row.state, row.run_after, row.attempt) == (State.LEASED, now + 22, 1)
    assert row.since == (now if queued else NOON)


@pytest.mark.parametrize("state", HELD)
@pytest.mark.parametrize("crashed", [False, True])
def test_a_reclaim_is_a_claim_of_the_next_attempt_and_counts_a_crash(
    database: Database, clock: Clock, state: State, crashed: bool
) -> None:
    clock.set(NOON)
    lapsed = leased_until(database, clock, state)
    clock.advance(4)
    (reclaimed,) = database.reclaim([(lapsed, crashed)], lease=30)
    now = NOON + LEASE + 1 + 4
    assert (reclaimed.jobid, reclaimed.attempt, reclaimed.state) == (lapsed.jobid, 2, State.LEASED)
    assert (reclaimed.lease, reclaimed.lease_end, reclaimed.crashes) == (30, now + 31, int(crashed))
    row = look(database, lapsed.jobid)
    assert (row.attempt, row.state, row.since, row.run_after) == (2, State.LEASED, now, now + 31)


CHANGES = {
    "another attempt": "attempt = attempt + 1",
    "an earlier attempt": "attempt = attempt - 1",
    "put back": f"state = {State.WAITING}",
    "dead": f"state = {State.DEAD}, run_after = {NEVER}",
    "prolonged": "run_after = run_after + 1",
    "gone": None,
}


def change(backend: Backend, how: str | None) -> None:
    backend.execute("DELETE FROM job" if how is None else f"UPDATE job SET {how}")


@pytest.mark.parametrize("state", HELD)
@pytest.mark.parametrize("how", CHANGES.values(), ids=CHANGES)
def test_a_lease_that_changed_since_it_was_read_neither_goes_on_nor_is_reclaimed(
    database: Database, backend: Backend, clock: Clock, state: State, how: str | None
) -> None:
    clock.set(NOON)
    lapsed = leased_until(database, clock, state)
    change(backend, how)
    before = database.get(lapsed.jobid)
    database.extend([(lapsed, State.LEASED, 22, True)])
    assert database.reclaim([(lapsed, True)], lease=30) == []
    assert database.get(lapsed.jobid) == before


def test_of_several_reclaims_those_that_still_apply_are_done(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    database.insert([job() for _ in range(3)])
    claim(database)
    clock.advance(LEASE + 1)
    lapsed = database.expired(lane(state=State.LEASED), limit=10)
    database.complete([lapsed[1].jobid])
    reclaimed = database.reclaim([(found, False) for found in lapsed], lease=LEASE)
    assert [found.jobid for found in reclaimed] == [lapsed[0].jobid, lapsed[2].jobid]


def test_two_who_read_the_same_lease_reclaim_it_once(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    lapsed = leased_until(database, clock, State.LEASED)
    assert len(database.reclaim([(lapsed, False)], lease=LEASE)) == 1
    assert database.reclaim([(lapsed, False)], lease=LEASE) == []
    assert look(database, lapsed.jobid).attempt == 2


# ---- what somebody else puts off


def put_off(database: Database, backend: Backend, clock: Clock, state: State, seconds: int) -> Job:
    """Hold a job in a state, then set its time as a worker of the original does: that column alone."""
    taken = held_in(database, clock, state)
    backend.execute(f"UPDATE job SET run_after = {int(clock.time()) + seconds} WHERE jobid = {taken.jobid}")
    return taken


def held_in(database: Database, clock: Clock, state: State) -> Job:
    put(database)
    taken = claim_one(database)
    if state is not State.LEASED:
        database.renew([taken.handle], lease=LEASE)
    if state is State.SUSPECT:
        clock.advance(LEASE + 1)
        database.extend([(found, state, 30, False) for found in expired_in(database, State.RUNNING)])
    return taken


def expired_in(database: Database, *states: State) -> list[Lapsed]:
    return [found for state in states for found in database.expired(lane(state=state), limit=10)]


#: What ours do to a row that they take for theirs, by a job as it was claimed.
STEPS: dict[str, Callable[[Database, Job], object]] = {
    "end_early": lambda database, taken: database.end_early([taken.handle], lease=LEASE),
    "end_early of a long lease": lambda database, taken: database.end_early([taken.handle], lease=10_000),
    "release": lambda database, taken: database.release([taken]),
    "give_back": lambda database, taken: database.give_back([taken.handle]),
    "renew": lambda database, taken: database.renew([taken.handle], lease=LEASE),
    "mark_leased and end_early": lambda database, taken: (
        database.mark_leased([taken.handle]),
        database.end_early([taken.handle], lease=10_000),
    ),
    "failed": lambda database, taken: settle(database, taken, "failed", when=Offset(0)),
    "rescheduled": lambda database, taken: settle(database, taken, "rescheduled", when=Offset(0)),
    "crashed": lambda database, taken: settle(database, taken, "crashed"),
}


@pytest.mark.parametrize("seconds", [5, LEASE - 10, 600])
@pytest.mark.parametrize("state", HELD)
@pytest.mark.parametrize("step", STEPS)
def test_what_somebody_put_off_waits_until_then_whatever_its_holder_does(
    database: Database, backend: Backend, clock: Clock, state: State, seconds: int, step: str
) -> None:
    clock.set(NOON)
    taken = put_off(database, backend, clock, state, seconds)
    due = int(clock.time()) + seconds
    STEPS[step](database, taken)
    assert [found.run_after for found in database.jobs()] == [due]
    clock.set(due - 1)
    assert database.dispatched(lane(state=State.LEASED), age=0) == []
    assert expired_in(database, *HELD) == []
    assert claim(database) == []
    clock.set(due)
    lapsed = expired_in(database, *HELD)
    assert [found.put_off for found in lapsed] == [True]
    database.requeue([found.jobid for found in lapsed])
    again = claim_one(database)
    assert (again.jobid, again.attempt, again.run_after) == (taken.jobid, 2, due)
    assert look(database, taken.jobid).crashes == 0


@pytest.mark.parametrize("state", HELD)
def test_a_lease_is_not_taken_for_put_off(database: Database, clock: Clock, state: State) -> None:
    clock.set(NOON)
    lapsed = leased_until(database, clock, state)
    assert not lapsed.put_off
    database.requeue([lapsed.jobid])
    assert look(database, lapsed.jobid).state is state
    assert len(database.reclaim([(lapsed, False)], lease=LEASE)) == 1


@pytest.mark.parametrize("state", HELD)
def test_a_time_before_its_claim_ends_a_lease_and_puts_nothing_off(
    database: Database, backend: Backend, clock: Clock, state: State
) -> None:
    clock.set(NOON)
    taken = held_in(database, clock, state)
    backend.execute("UPDATE job SET run_after = 1")
    (lapsed,) = expired_in(database, *HELD)
    assert not lapsed.put_off
    assert look(database, taken.jobid).state is state
    assert len(database.reclaim([(lapsed, True)], lease=LEASE)) == 1


@pytest.mark.parametrize("state", HELD)
def test_renew_does_not_hold_what_somebody_put_off(
    database: Database, backend: Backend, clock: Clock, state: State
) -> None:
    clock.set(NOON)
    taken = put_off(database, backend, clock, state, 600)
    assert database.renew([taken.handle], lease=LEASE) == set()
    assert settle(database, taken, "failed").result == "stale"
    assert database.failures(taken.jobid) == []
    # Finished work is finished.
    assert database.complete([taken.jobid]) == {taken.jobid}


@pytest.mark.parametrize("state", HELD)
def test_what_somebody_put_off_shows_as_waiting(
    database: Database, backend: Backend, clock: Clock, state: State
) -> None:
    clock.set(NOON)
    taken = put_off(database, backend, clock, state, 600)
    assert look(database, taken.jobid).state is State.WAITING
    assert listed(database, state=State.WAITING) == [taken.jobid]
    assert listed(database, state=state) == []
    assert database.counts() == [("f", State.WAITING, 1, int(clock.time()) + 600)]
    assert database.retry(taken.jobid)
    assert claim_one(database).attempt == 2


@pytest.mark.parametrize("state", [State.WAITING, *HELD])
def test_what_somebody_parked_is_dead(
    database: Database, backend: Backend, clock: Clock, state: State
) -> None:
    """As a worker of the original parks it: by the time alone."""
    clock.set(NOON)
    jobid = put(database) if state is State.WAITING else held_in(database, clock, state).jobid
    free = put(database)
    backend.execute(f"UPDATE job SET run_after = {NEVER} WHERE jobid = {jobid}")
    assert look(database, jobid).state is State.DEAD
    assert listed(database, state=State.DEAD) == listed(database, failed=True) == [jobid]
    assert listed(database, state=State.WAITING) == [free]
    assert listed(database, state=state) == [free] * (state is State.WAITING)
    assert {(count.state, count.jobs, count.first) for count in database.counts()} == {
        (State.DEAD, 1, NEVER),
        (State.WAITING, 1, look(database, free).run_after),
    }
    assert database.adopt([jobid], lease=LEASE) == []
    clock.set(NEVER + 1000)
    assert expired_in(database, *HELD) == []
    clock.set(NOON + 5000)
    assert database.retry(jobid)
    assert look(database, jobid).run_after == NOON + 5000
    assert {again.jobid for again in claim(database)} == {jobid, free}


def test_rows_that_were_put_off_are_not_counted_as_leased(
    database: Database, backend: Backend, clock: Clock
) -> None:
    clock.set(NOON)
    for _ in range(3):
        put(database)
    first, second, _ = claim(database)
    assert database.leased("f", lease=LEASE, limit=10) == 3
    backend.execute(f"UPDATE job SET run_after = {NOON + 86_400} WHERE jobid = {first.jobid}")
    backend.execute(f"UPDATE job SET run_after = {NEVER} WHERE jobid = {second.jobid}")
    assert database.leased("f", lease=LEASE, limit=10) == 1


def test_a_row_that_an_earlier_version_leased_is_a_lease(
    database: Database, backend: Backend, clock: Clock
) -> None:
    clock.set(NOON)
    put(database)
    taken = claim_one(database)
    backend.execute("UPDATE job SET lease_end = 0")
    assert look(database, taken.jobid).state is State.LEASED
    assert len(database.dispatched(lane(state=State.LEASED), age=0)) == 1
    assert database.renew([taken.handle], lease=LEASE) == {taken.handle}
    ((run_after, lease_end),) = backend.execute("SELECT run_after, lease_end FROM job")
    assert run_after == lease_end == NOON + LEASE + 1


# ---- renewing


@pytest.mark.parametrize("state", HELD)
def test_a_renewed_lease_ends_later_and_its_job_runs(database: Database, clock: Clock, state: State) -> None:
    clock.set(NOON)
    lapsed = leased_until(database, clock, state)
    handle = Handle(lapsed.jobid, database.dbid, 1)
    assert database.renew([handle], lease=30) == {handle}
    row = look(database, lapsed.jobid)
    assert (row.state, row.run_after) == (State.RUNNING, NOON + LEASE + 1 + 31)


@pytest.mark.parametrize(
    "how",
    [
        "attempt = 2",
        f"state = {State.WAITING}",
        f"state = {State.DEAD}, run_after = {NEVER}",
        None,
    ],
)
def test_what_is_not_mine_is_not_renewed(
    database: Database, backend: Backend, clock: Clock, how: str | None
) -> None:
    clock.set(NOON)
    put(database)
    claimed = claim_one(database)
    change(backend, how)
    before = database.get(claimed.jobid)
    clock.advance(1)
    assert database.renew([claimed.handle], lease=LEASE) == set()
    assert database.get(claimed.jobid) == before


def test_of_many_handles_those_that_still_hold_their_job_are_kept(database: Database) -> None:
    answers = database.insert([job() for _ in range(1200)])
    handles = {taken.handle for _ in range(2) for taken in claim(database, 1000)}
    assert len(handles) == 1200
    gone = {answer.jobid for answer in answers[::7]}
    database.complete(gone)
    kept = database.renew(handles, lease=LEASE)
    assert kept == {handle for handle in handles if handle.jobid not in gone}


def test_renewing_twice_within_a_second_keeps_the_handle(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    put(database)
    handle = claim_one(database).handle
    assert database.renew([handle], lease=LEASE) == {handle}
    assert database.renew([handle], lease=LEASE) == {handle}


def test_handles_of_several_attempts_are_renewed_together(database: Database) -> None:
    put(database)
    database.release([claim_one(database)])
    put(database)
    handles = {taken.handle for taken in claim(database)}
    assert {handle.attempt for handle in handles} == {1, 2}
    assert database.renew(handles, lease=LEASE) == handles


# ---- completing


def test_completing_deletes_by_id_whoever_holds_the_job(database: Database) -> None:
    jobids = [put(database) for _ in range(4)]
    claim(database, 2)
    settle(database, Handle(jobids[3], database.dbid), kind="parked")
    assert database.complete(jobids) == set(jobids)
    assert database.jobs() == []


def test_ids_that_are_gone_or_never_were_are_passed_over(database: Database) -> None:
    jobid = put(database)
    other = put(database)
    assert database.complete([jobid, jobid, 999_999]) == {jobid}
    assert database.complete([jobid]) == set()
    assert database.complete([]) == set()
    assert [found.jobid for found in database.jobs()] == [other]


def test_many_jobs_are_completed_at_once(database: Database) -> None:
    jobids = {answer.jobid for answer in database.insert([job() for _ in range(2100)])}
    assert database.complete(jobids) == jobids


def test_the_record_of_a_completed_job_goes_with_it_and_others_stay(database: Database) -> None:
    jobids = [put(database) for _ in range(3)]
    for taken in claim(database, 2):
        settle(database, taken, kind="failed", message="why", when=Offset(0))
    database.complete([jobids[0], jobids[2]])
    assert database.failures(jobids[0]) == []
    assert [failure.message for failure in database.failures(jobids[1])] == ["why"]


# ---- ends without success


def settle(database: Database, of: Job | Handle, kind: Kind, **fields: Any) -> Settled:
    handle = of.handle if isinstance(of, Job) else of
    (settled,) = database.settle([Setback(handle=handle, kind=kind, **fields)])
    return settled


@pytest.mark.parametrize("state", HELD)
def test_a_failure_is_counted_saved_and_recorded(database: Database, clock: Clock, state: State) -> None:
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
    row = look(database, lapsed.jobid)
    now = NOON + LEASE + 1
    assert (row.state, row.failcount, row.run_after, row.attempt) == (State.WAITING, 1, now + 9, 1)
    (record,) = database.failures(lapsed.jobid)
    assert record == (1, now, "failed", "ValueError", "m", "t", "host:1")


def test_each_failure_waits_twice_as_long_the_third_eight_minutes(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    jobid = put(database)
    for failcount, seconds in ((1, 120), (2, 240), (3, 480)):
        now = clock.time()
        settled = settle(database, claim_one(database), "failed")
        row = look(database, jobid)
        assert row.failcount == settled.failcount == failcount
        assert row.run_after - now == settled.delay
        assert 0.9 * seconds <= row.run_after - now <= 1.1 * seconds
        clock.set(row.run_after)
    assert [record.attempt for record in database.failures(jobid)] == [1, 2, 3]


def test_a_job_is_dead_after_as_many_failures_as_it_may_have(database: Database) -> None:
    jobid = put(database)
    results = []
    for _ in range(3):
        (settled,) = database.settle(
            [Setback(handle=claim_one(database).handle, kind="failed", when=Offset(0))], max_failures=3
        )
        results.append((settled.state, settled.failcount, settled.delay))
    assert results == [(State.WAITING, 1, 0), (State.WAITING, 2, 0), (State.DEAD, 3, None)]
    row = look(database, jobid)
    assert (row.state, row.run_after, row.failcount) == (State.DEAD, NEVER, 3)
    assert claim(database) == []
    assert len(database.failures(jobid)) == 3


def test_a_job_is_dead_after_25_failures_unless_told_otherwise(database: Database, backend: Backend) -> None:
    jobid = put(database)
    backend.execute("UPDATE job SET failcount = 23")
    assert settle(database, Handle(jobid, 1), "failed").state is State.WAITING
    assert settle(database, Handle(jobid, 1), "failed").state is State.DEAD


def test_the_count_of_failures_stays_within_its_column(database: Database, backend: Backend) -> None:
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
def test_a_rescheduled_job_runs_then_and_is_not_counted_as_failed(
    database: Database, clock: Clock, when: Any, state: State, run_after: int
) -> None:
    clock.set(NOON)
    jobid = put(database)
    settled = settle(database, claim_one(database), "rescheduled", when=when)
    assert (settled.result, settled.state, settled.failcount) == ("applied", state, 0)
    row = look(database, jobid)
    assert (row.state, row.run_after, row.failcount) == (state, run_after, 0)


@pytest.mark.parametrize("kind", ["discarded", "parked"])
def test_what_is_discarded_or_parked_is_dead_at_once_and_uncounted(database: Database, kind: Kind) -> None:
    jobid = put(database)
    settled = settle(database, claim_one(database), kind, message="why")
    assert settled == Settled("applied", State.DEAD, 0, None)
    row = look(database, jobid)
    assert (row.state, row.run_after, row.failcount) == (State.DEAD, NEVER, 0)
    assert [(record.kind, record.message) for record in database.failures(jobid)] == [(kind, "why")]


def test_a_death_of_the_process_is_counted_and_the_attempt_goes_on(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    jobid = put(database)
    taken = claim_one(database)
    before = look(database, jobid)
    assert settle(database, taken, "crashed", message="killed").result == "applied"
    row = look(database, jobid)
    assert (row.crashes, row.failcount) == (1, 0)
    assert (row.state, row.attempt, row.run_after) == (before.state, before.attempt, before.run_after)
    assert [(record.kind, record.message) for record in database.failures(jobid)] == [("crashed", "killed")]
    assert database.renew([taken.handle], lease=LEASE) == {taken.handle}
    assert settle(database, taken, "failed").result == "applied"
    assert [record.kind for record in database.failures(jobid)] == ["crashed", "failed"]


def test_a_job_is_dead_after_the_last_death_it_may_cause(database: Database) -> None:
    jobid = put(database)
    states = []
    for _ in range(MAX_CRASHES):
        taken = claim_one(database)
        states.append(settle(database, taken, "crashed").state)
        database.give_back([taken.handle])
    assert states == [State.LEASED] * (MAX_CRASHES - 1) + [State.DEAD]
    row = look(database, jobid)
    assert (row.state, row.run_after, row.crashes) == (State.DEAD, NEVER, MAX_CRASHES)


def test_a_death_of_a_process_whose_attempt_is_over_is_not_counted(database: Database) -> None:
    jobid = put(database)
    taken = claim_one(database)
    database.release([taken])
    assert settle(database, taken, "crashed").result == "stale"
    assert look(database, jobid).crashes == 0


KINDS = ["failed", "rescheduled", "discarded", "parked"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("again", KINDS)
def test_an_end_reported_again_changes_nothing(
    database: Database, clock: Clock, kind: Kind, again: Kind
) -> None:
    clock.set(NOON)
    jobid = put(database)
    taken = claim_one(database)
    settle(database, taken, kind, message="first")
    before = (look(database, jobid), database.failures(jobid))
    clock.advance(1)
    assert settle(database, taken, again, message="second").result == "repeated"
    assert (look(database, jobid), database.failures(jobid)) == before


def test_an_end_reported_again_after_the_next_claim_changes_nothing(database: Database) -> None:
    jobid = put(database)
    taken = claim_one(database)
    settle(database, taken, "failed", when=Offset(0))
    claim_one(database)
    before = look(database, jobid)
    assert settle(database, taken, "failed").result == "repeated"
    assert look(database, jobid) == before


@pytest.mark.parametrize("kind", KINDS)
def test_an_end_of_an_attempt_that_lost_its_job_is_stale(
    database: Database, clock: Clock, kind: Kind
) -> None:
    clock.set(NOON)
    lapsed = leased_until(database, clock, State.SUSPECT)
    database.reclaim([(lapsed, True)], lease=LEASE)
    before = look(database, lapsed.jobid)
    assert settle(database, Handle(lapsed.jobid, 1, 1), kind).result == "stale"
    assert settle(database, Handle(lapsed.jobid, 1, 3), kind).result == "stale"
    assert look(database, lapsed.jobid) == before
    assert database.failures(lapsed.jobid) == []


def test_an_end_of_a_claim_that_was_released_is_stale(database: Database) -> None:
    put(database)
    taken = claim_one(database)
    database.release([taken])
    before = look(database, taken.jobid)
    assert settle(database, taken, "failed").result == "stale"
    assert look(database, taken.jobid) == before


@pytest.mark.parametrize("attempt", [None, 1])
def test_an_end_of_an_unknown_job_finds_it_gone(database: Database, attempt: int | None) -> None:
    assert settle(database, Handle(999_999, 1, attempt), "failed") == Settled("gone")
    assert database.failures(999_999) == []


def test_an_end_without_an_attempt_applies_whoever_holds_the_job(database: Database) -> None:
    jobid = put(database)
    unfenced = Handle(jobid, database.dbid)
    assert settle(database, unfenced, "failed", when=Offset(0)).failcount == 1
    taken = claim_one(database)
    assert settle(database, unfenced, "failed", when=Offset(0)).failcount == 2
    assert settle(database, taken, "failed").result == "repeated"
    claim_one(database)
    assert settle(database, unfenced, "rescheduled", when=Never()).state is State.DEAD


def test_many_ends_are_settled_together_and_answered_in_order(database: Database) -> None:
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
def test_any_text_of_an_error_is_recorded_as_far_as_it_fits(database: Database, text: str) -> None:
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


def test_the_end_of_a_long_trace_is_kept_and_the_start_of_a_long_message(database: Database) -> None:
    put(database)
    text = "start" + "x" * 100_000 + "end"
    taken = claim_one(database)
    settle(database, taken, "failed", message=text, trace=text)
    (record,) = database.failures(taken.jobid)
    assert record.message.startswith("start")
    assert record.trace.endswith("end")


def test_the_record_keeps_the_first_failures_and_the_newest(database: Database) -> None:
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


def test_the_record_of_a_job_of_many_attempts_and_few_failures_is_kept_whole(database: Database) -> None:
    jobid = put(database)
    for number in range(1, 81):
        taken = claim_one(database)
        if number % 4:
            database.release([taken])
        else:
            settle(database, taken, "failed", when=Offset(0))
    assert [record.attempt for record in database.failures(jobid)] == list(range(4, 81, 4))
    assert database.omitted_failures(jobid) == 0


def test_a_failure_reported_without_an_attempt_is_in_the_record(database: Database) -> None:
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
    assert (look(database, jobid).runs, look(database, jobid).run, look(database, other).runs) == (3, 3, 0)
    with pytest.raises(ConflictError):
        database.count_run(taken.handle)
    database.complete([jobid])
    with pytest.raises(ConflictError):
        database.count_run(again.handle)


# ---- functions


def test_nothing_is_set_for_a_function_at_first(database: Database) -> None:
    assert database.functions() == {}


def test_what_is_set_for_a_function_comes_back(database: Database) -> None:
    policy = FunctionPolicy(lease=30, deadline=600, renews=True, envelope="raw", max_failures=3)
    database.set_function("fün", policy)
    database.set_function("g", FunctionPolicy(renews=False))
    assert database.functions() == {"fün": policy, "g": FunctionPolicy(renews=False)}


def test_setting_one_thing_leaves_the_others(database: Database) -> None:
    database.set_function("f", FunctionPolicy(lease=30, renews=True))
    database.set_function("f", FunctionPolicy(lease=40, max_failures=3))
    assert database.functions() == {"f": FunctionPolicy(lease=40, renews=True, max_failures=3)}


def test_a_function_goes_back_to_the_defaults(database: Database) -> None:
    database.set_function("f", FunctionPolicy(lease=30))
    database.set_function("g", FunctionPolicy(lease=30))
    database.unset_function("f")
    assert database.functions().keys() == {"g"}


def test_a_function_may_have_its_own_number_of_failures(database: Database) -> None:
    database.set_function("f", FunctionPolicy(max_failures=2))
    mine, other = put(database), put(database, funcname="g")
    states = [settle(database, Handle(jobid, 1), "failed").state for jobid in (mine, mine, other, other)]
    assert states == [State.WAITING, State.DEAD, State.WAITING, State.WAITING]


# ---- for people


def test_a_retried_job_is_due_now_with_its_failures_forgiven(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    jobid = put(database)
    settle(database, claim_one(database), "parked", message="why")
    clock.advance(9)
    assert database.retry(jobid)
    row = look(database, jobid)
    assert (row.state, row.run_after, row.failcount, row.crashes) == (State.WAITING, NOON + 9, 0, 0)
    assert [record.message for record in database.failures(jobid)] == ["why"]
    assert claim_one(database).attempt == 2


def test_a_delayed_job_can_be_retried_now(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    jobid = put(database, delay=1000)
    assert database.retry(jobid)
    assert look(database, jobid).run_after == NOON


@pytest.mark.parametrize("state", HELD)
def test_a_job_that_is_held_cannot_be_retried(database: Database, clock: Clock, state: State) -> None:
    clock.set(NOON)
    lapsed = leased_until(database, clock, state)
    before = look(database, lapsed.jobid)
    assert not database.retry(lapsed.jobid)
    assert look(database, lapsed.jobid) == before


def test_a_job_that_is_gone_cannot_be_retried(database: Database) -> None:
    assert not database.retry(999_999)


def test_there_is_no_job_where_there_is_none(database: Database) -> None:
    assert database.get(999_999) is None
    assert database.failures(999_999) == []


def listed(database: Database, **options: Any) -> list[int]:
    return [found.jobid for found in database.jobs(**options)]


def test_jobs_are_listed_by_id_in_pages(database: Database) -> None:
    jobids = [answer.jobid for answer in database.insert([job() for _ in range(7)])]
    assert listed(database, limit=3) == jobids[:3]
    assert listed(database, limit=3, after=jobids[2]) == jobids[3:6]
    assert listed(database, limit=3, after=jobids[6]) == []


def test_jobs_are_listed_by_function_state_and_failures(
    database: Database, backend: Backend, clock: Clock
) -> None:
    clock.set(NOON)
    failed, parked, crashed, fresh = (put(database) for _ in range(4))
    other = put(database, funcname="g")
    settle(database, Handle(failed, 1), "failed")
    settle(database, Handle(parked, 1), "parked")
    backend.execute(f"UPDATE job SET crashes = 1 WHERE jobid = {crashed}")
    assert listed(database, funcname="g") == [other]
    assert listed(database, state=State.DEAD) == [parked]
    assert listed(database, state=State.WAITING) == [failed, crashed, fresh, other]
    assert listed(database, failed=True) == [failed, parked, crashed]
    assert listed(database, failed=True, funcname="g") == []
    assert listed(database, funcname="h") == []


def test_jobs_are_counted_by_function_and_state(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    database.insert([job(delay=3), job(delay=2), job(funcname="g")])
    settle(database, Handle(put(database), 1), "parked")
    database.claim(lane("g"), limit=1, lease=LEASE)
    assert database.counts() == [
        ("f", State.WAITING, 2, NOON + 2),
        ("f", State.DEAD, 1, NEVER),
        ("g", State.LEASED, 1, NOON + LEASE + 1),
    ]


def test_waiting_counts_due_delayed_and_backed_off_jobs(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    assert database.waiting() == (0, 0, 0)
    jobs = [job(), job(funcname="g"), job(), job(delay=1), job(delay=60)]
    failed, parked, *_ = database.insert(jobs)
    settle(database, Handle(failed.jobid, 1), "failed")
    settle(database, Handle(parked.jobid, 1), "parked")
    assert database.waiting() == (1, 2, 1)
    clock.set(NOON + 1)
    assert database.waiting() == (2, 1, 1)


def test_the_clock_is_the_databases(database: Database, clock: Clock) -> None:
    clock.set(NOON + 0.25)
    assert database.clock() == pytest.approx(NOON + 0.25, abs=0.001)


# ---- lanes


def lanes(database: Database) -> Sequence[tuple[Any, ...]]:
    return [tuple(found) for found in database.lanes().lanes]


def test_an_empty_database_has_no_lanes(database: Database) -> None:
    assert lanes(database) == []


def test_each_lane_shows_when_its_first_job_is_due(database: Database, clock: Clock) -> None:
    clock.set(NOON + 0.5)
    database.insert([job(delay=delay) for delay in (30, 10, 20)])
    database.insert(
        [job(funcname="g", priority="low", delay=5), job(funcname="g", priority="high", delay=40)]
    )
    put(database, funcname="h")
    database.claim(lane("h"), limit=1, lease=LEASE)
    # A delay is never short, so it is counted from the next whole second.
    assert lanes(database) == [
        ("g", State.WAITING, "high", NOON + 41),
        ("f", State.WAITING, "normal", NOON + 11),
        ("h", State.LEASED, "normal", NOON + LEASE + 1),
        ("g", State.WAITING, "low", NOON + 6),
    ]
    assert database.lanes().now == pytest.approx(NOON + 0.5, abs=0.001)


@pytest.mark.parametrize("state", HELD)
def test_a_lane_of_leases_shows_when_the_first_ends(database: Database, clock: Clock, state: State) -> None:
    clock.set(NOON)
    leased_until(database, clock, state)
    assert lanes(database) == [("f", state, "normal", NOON + LEASE + 1)]


def test_dead_jobs_make_no_lane(database: Database) -> None:
    settle(database, Handle(put(database), 1), "parked")
    settle(database, Handle(put(database, funcname="g"), 1), "rescheduled", when=Never())
    put(database, funcname="h")
    assert [found[0] for found in lanes(database)] == ["h"]


def test_many_functions_are_all_found(database: Database) -> None:
    names = [f"f{number}" for number in range(100)]
    database.insert([job(funcname=name) for name in names])
    assert sorted(found[0] for found in lanes(database)) == sorted(names)


# ---- all or nothing


def test_an_insert_that_fails_half_way_leaves_nothing(database: Database) -> None:
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


def test_ends_that_fail_half_way_leave_nothing(database: Database) -> None:
    jobid = put(database)
    taken = claim_one(database)
    # The kind is checked when a Setback is made, so that the seconds have to be wrong here.
    broken = Setback(handle=Handle(jobid, 1), kind="rescheduled", when=Offset("soon"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="delay"):
        database.settle([Setback(handle=taken.handle, kind="failed"), broken])
    assert look(database, jobid).state is State.LEASED
    assert database.failures(jobid) == []
