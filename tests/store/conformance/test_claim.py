"""Claims, also of rows that another program has written: alike in every kind of database."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from garivini.model.inserted import Inserted
from garivini.model.job import Handle, Job
from garivini.model.limits import NEVER
from garivini.model.state import State
from garivini.model.when import At, Offset
from garivini.store.database import Database
from tests.store.conformance.jobs import (
    LEASE,
    NOON,
    claim,
    claim_one,
    job,
    lane,
    leased_until,
    put,
    settle,
    stored,
)
from tests.store.conftest import Backend, Clock


def test_claim_leases_the_job_and_raises_its_attempt(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    jobid = put(database, arg=b"x")
    clock.advance(5)
    claimed = claim_one(database)
    assert (claimed.jobid, claimed.arg, claimed.attempt, claimed.state) == (jobid, b"x", 1, State.LEASED)
    assert (claimed.run_after, claimed.lease, claimed.lease_end) == (NOON, LEASE, NOON + 5 + LEASE + 1)
    row = stored(database, jobid)
    assert (row.attempt, row.state, row.since, row.run_after) == (1, State.LEASED, NOON + 5, NOON + 66)


def test_claim_takes_jobs_in_the_order_in_which_they_are_due(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    delays = [7, 3, 9, 1, 5, 3, 8]
    answers = database.insert([job(delay=delay) for delay in delays])
    clock.advance(10)
    claimed = claim(database, 3) + claim(database, 3) + claim(database)
    assert [taken.run_after - NOON for taken in claimed] == sorted(delays)
    assert {taken.jobid for taken in claimed} == {answer.jobid for answer in answers}


def test_claim_takes_no_more_than_its_limit(database: Database) -> None:
    database.insert([job() for _ in range(5)])
    assert [len(claim(database, 2)) for _ in range(4)] == [2, 2, 1, 0]


def test_claim_takes_large_arguments_with_small_ones_as_far_as_they_fit(database: Database) -> None:
    args = [b"a" * 10, b"b" * 5000, b"c" * 4096, b"d" * 5000, b"e" * 10]
    jobids = [answer.jobid for answer in database.insert([job(arg) for arg in args])]
    assert [claimed.arg for claimed in claim(database, max_bytes=10_000)] == args[:3]
    assert [claimed.jobid for claimed in claim(database, max_bytes=100)] == jobids[3:4]  # alone it is taken
    assert [claimed.arg for claimed in claim(database, max_bytes=100)] == args[4:]
    assert claim(database) == []


def test_claim_takes_no_more_bytes_than_it_may(database: Database) -> None:
    database.insert([job(bytes(400)) for _ in range(5)])
    assert [len(claim(database, max_bytes=1000)) for _ in range(4)] == [2, 2, 1, 0]
    database.insert([job(bytes(400)) for _ in range(3)])
    assert len(claim(database, max_bytes=1200)) == 3


def test_claim_takes_a_job_of_too_many_bytes_alone(database: Database) -> None:
    database.insert([job(bytes(size)) for size in (5000, 10, 5000, 10)])
    assert [[len(taken.arg) for taken in claim(database, max_bytes=1000)] for _ in range(3)] == [
        [5000],
        [10],
        [5000],
    ]


def test_claim_lets_no_small_job_overtake_a_large_one(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    database.insert([job(bytes(size), delay=delay) for delay, size in enumerate((600, 600, 10))])
    clock.advance(10)
    assert [len(taken.arg) for taken in claim(database, max_bytes=1000)] == [600]
    assert [len(taken.arg) for taken in claim(database, max_bytes=1000)] == [600, 10]


def test_claim_takes_from_its_own_lane_only(database: Database) -> None:
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
def test_claim_takes_each_priority_as_a_lane_of_its_own(database: Database, priority: str) -> None:
    jobids = {name: put(database, priority=name) for name in ("high", "normal", "low")}
    (taken,) = database.claim(lane(priority=priority), limit=10, lease=LEASE)
    assert (taken.jobid, taken.priority) == (jobids[priority], priority)


@pytest.mark.parametrize("state", [State.LEASED, State.RUNNING, State.SUSPECT])
def test_claim_leaves_a_held_job_even_when_its_lease_is_over(
    database: Database, clock: Clock, state: State
) -> None:
    clock.set(NOON)
    leased_until(database, clock, state)
    clock.advance(10 * LEASE)
    assert claim(database) == []


@pytest.mark.parametrize("year", [2037, 2038, 2039, 2105])
def test_claim_never_takes_a_parked_job_even_after_2038(
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
    assert stored(database, dead).run_after == stored(database, parked_by_the_original).run_after == NEVER
    assert stored(database, parked_by_the_original).attempt == 0


def test_claim_goes_on_after_2038_beside_parked_jobs(
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


def test_claim_raises_the_attempt_and_nothing_lowers_it(database: Database, clock: Clock) -> None:
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
        assert stored(database, jobid).attempt == number


def test_claim_by_many_threads_gives_no_job_twice(database: Database) -> None:
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


def test_claim_and_complete_take_a_row_of_the_original(database: Database, backend: Backend) -> None:
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


def test_claim_takes_a_row_of_only_the_columns_without_a_default(
    database: Database, backend: Backend
) -> None:
    backend.execute("INSERT INTO job (funcname, run_after) VALUES ('f', 0)")
    claimed = claim_one(database)
    assert (claimed.arg, claimed.uniqkey, claimed.coalesce, claimed.flag) == (b"", None, None, "shim")


def test_claim_takes_a_null_flag_for_shim(database: Database, backend: Backend) -> None:
    backend.execute("INSERT INTO job (funcname, run_after, flag) VALUES ('f', 0, NULL)")
    assert claim_one(database).flag == "shim"
