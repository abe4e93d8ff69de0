"""Inserts whose unique keys have rules: alike in every kind of database."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from msgspec.structs import replace

from garivini.errors import DuplicateJobError, UsageError
from garivini.model.inserted import Inserted
from garivini.model.job import Job
from garivini.model.job_query import JobChange
from garivini.model.limits import NEVER
from garivini.model.outcome import Success
from garivini.model.policy import FunctionPolicy
from garivini.model.state import State
from garivini.model.unique import Unique
from garivini.model.when import At, Never
from garivini.store.database import Database
from tests.store.conformance.jobs import HELD, LEASE, NOON, claim, claim_one, job, put, settle, stored
from tests.store.conftest import Backend, Clock


def insert(database: Database, arg: bytes, delay: int = 0, key: str = "k", **rule: Any) -> Inserted:
    (answer,) = database.insert([job(arg, uniqkey=Unique(key, **rule), delay=delay)])
    return answer


def rows(database: Database) -> list[tuple[bytes, str | None, State]]:
    return [(found.arg, found.uniqkey, found.state) for found in database.jobs()]


def held_job(database: Database, **rule: Any) -> Job:
    insert(database, b"first", **rule)
    return claim_one(database)


# ---- scope and window


def test_insert_leaves_a_dead_job_its_key_by_default(database: Database) -> None:
    first = insert(database, b"first")
    settle(database, claim_one(database), "discarded")
    again = insert(database, b"again")
    assert again == Inserted(first.jobid, 1, new=False)
    assert again.dead


@pytest.mark.parametrize("rule", [{"on_duplicate": "replace"}, {"window": 60}])
def test_insert_with_other_rules_leaves_a_dead_job_its_key(database: Database, rule: Any) -> None:
    first = insert(database, b"first", **rule)
    settle(database, claim_one(database), "discarded")
    again = insert(database, b"again", **rule)
    assert again == Inserted(first.jobid, 1, new=False)
    assert again.dead
    assert not again.replaced


def test_insert_while_live_takes_the_key_of_a_dead_job(database: Database) -> None:
    first = insert(database, b"first", scope="while_live")
    assert not insert(database, b"dup", scope="while_live").new
    settle(database, claim_one(database), "discarded")
    second = insert(database, b"second", scope="while_live")
    assert second.new
    assert second.jobid != first.jobid
    assert rows(database) == [(b"first", None, State.DEAD), (b"second", "k", State.WAITING)]


def test_insert_in_a_window_returns_a_complete_job(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    first = insert(database, b"first", window=60)
    database.complete([first.jobid])
    clock.advance(59)
    again = insert(database, b"again", window=60)
    assert again == Inserted(first.jobid, 1, new=False)
    assert again.state is None
    clock.advance(1)
    assert insert(database, b"later", window=60).new
    assert rows(database) == [(b"later", "k", State.WAITING)]


def test_insert_in_a_window_returns_a_live_job_after_the_window(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    first = insert(database, b"first", window=60)
    clock.advance(61)
    assert insert(database, b"again", window=60) == Inserted(first.jobid, 1, new=False)


def test_insert_in_a_window_that_raises_has_the_existing_job(database: Database) -> None:
    first = insert(database, b"first", window=60)
    database.complete([first.jobid])
    with pytest.raises(DuplicateJobError, match="unique key 'k'") as caught:
        insert(database, b"again", window=60, on_duplicate="raise")
    assert caught.value.existing == Inserted(first.jobid, 1, new=False)


def test_forget_keys_deletes_those_whose_window_ended_a_minute_ago(
    database: Database, clock: Clock, backend: Backend
) -> None:
    clock.set(NOON)
    for key, window in (("a", 60), ("b", 61), ("c", 200)):
        insert(database, b"", key=key, window=window)
    clock.advance(122)
    assert database.forget_keys(1) == 1
    assert database.forget_keys(10) == 1
    assert database.forget_keys(10) == 0
    assert [key for (key,) in backend.execute("SELECT uniqkey FROM recent_key")] == ["c"]


# ---- duplicates


def test_insert_that_raises_stores_nothing_of_its_call(database: Database) -> None:
    first = insert(database, b"first")
    with pytest.raises(DuplicateJobError) as caught:
        database.insert([job(b"other"), job(b"dup", uniqkey=Unique("k", on_duplicate="raise"))])
    assert caught.value.existing == Inserted(first.jobid, 1, new=False)
    assert [arg for arg, *_ in rows(database)] == [b"first"]


def test_insert_that_replaces_changes_argument_and_time(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    first = insert(database, b"first", 600)
    answer = insert(database, b"second", 30, on_duplicate="replace")
    assert answer == Inserted(first.jobid, 1, new=False)
    assert answer.replaced
    assert (stored(database, first.jobid).arg, stored(database, first.jobid).run_after) == (
        b"second",
        NOON + 30,
    )


def test_insert_that_replaces_leaves_a_job_that_was_handed_out(database: Database) -> None:
    held = held_job(database)
    answer = insert(database, b"second", on_duplicate="replace")
    assert (answer.new, answer.replaced, answer.state) == (False, False, State.LEASED)
    database.release([held])  # it waits again, but a copy of it may exist
    assert not insert(database, b"third", on_duplicate="replace").replaced
    assert [arg for arg, *_ in rows(database)] == [b"first"]


def test_insert_that_debounces_puts_off_until_the_maximum(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    rule: dict[str, Any] = {"on_duplicate": "debounce", "max_delay": 25}
    first = insert(database, b"0", 10, **rule)
    due = []
    for number in range(1, 5):
        clock.advance(6)
        assert insert(database, b"%d" % number, 10, **rule).replaced
        due.append(stored(database, first.jobid).run_after - NOON)
    assert due == [16, 22, 25, 25]
    assert rows(database) == [(b"4", "k", State.WAITING)]


def test_insert_that_debounces_never_makes_a_job_due_earlier(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    first = insert(database, b"0", 100, on_duplicate="debounce", max_delay=50)
    insert(database, b"1", 10, on_duplicate="debounce", max_delay=50)
    assert stored(database, first.jobid).run_after == NOON + 100


def test_insert_in_one_list_replaces_in_order(database: Database) -> None:
    rule = Unique("k", on_duplicate="one_more")
    answers = database.insert([job(b"%d" % number, uniqkey=rule) for number in range(5)])
    assert [at.new for at in answers] == [True] + [False] * 4
    assert rows(database) == [(b"4", "k", State.WAITING)]


# ---- one more


ONE_MORE: dict[str, Any] = {"on_duplicate": "one_more"}


def queue_behind(database: Database, held: Job) -> None:
    for arg in (b"second", b"third"):
        answer = insert(database, arg, **ONE_MORE)
        assert answer == Inserted(held.jobid, 1, new=False)
        assert answer.queued
    assert [found.arg for found in database.jobs()] == [b"first"]


@pytest.mark.parametrize("others", [0, 1, 20])
@pytest.mark.parametrize("kept", [False, True])
def test_complete_promotes_the_newest_successor(database: Database, others: int, kept: bool) -> None:
    held = held_job(database, **ONE_MORE)
    queue_behind(database, held)
    jobids = [held.jobid, *(put(database, arg=b"other") for _ in range(others))]
    if kept:
        assert database.finish([Success(jobid, 1, retention=60) for jobid in jobids]) == set(jobids)
    else:
        assert database.complete(jobids) == set(jobids)
    assert rows(database) == [(b"third", "k", State.WAITING)]
    assert claim_one(database).attempt == 1


def test_complete_without_waiting_promotes_the_successor(database: Database) -> None:
    held = held_job(database, **ONE_MORE)
    queue_behind(database, held)
    assert database.complete([held.jobid], locked=set()) == {held.jobid}
    assert rows(database) == [(b"third", "k", State.WAITING)]


@pytest.mark.parametrize("how", ["discarded", "parked", "cancelled", "failed", "never"])
def test_settle_for_good_promotes_the_successor(database: Database, how: Any) -> None:
    held = held_job(database, **ONE_MORE)
    queue_behind(database, held)
    if how == "never":
        settle(database, held, "rescheduled", when=Never())
    elif how == "failed":
        database.set_function("f", FunctionPolicy(max_failures=1))
        settle(database, held, "failed")
    else:
        settle(database, held, how)
    assert rows(database) == [(b"first", None, State.DEAD), (b"third", "k", State.WAITING)]


@pytest.mark.parametrize("how", ["failed", "rescheduled", "released", "given back"])
def test_the_end_of_an_attempt_alone_does_not_promote(database: Database, how: Any) -> None:
    held = held_job(database, **ONE_MORE)
    queue_behind(database, held)
    if how == "released":
        database.release([held])
    elif how == "given back":
        database.give_back([held.handle])
    else:
        settle(database, held, how, when=At(NOON))
    assert rows(database) == [(b"first", "k", State.WAITING)]
    assert insert(database, b"fourth", **ONE_MORE).queued
    (again,) = claim(database)
    database.complete([again.jobid])
    assert rows(database) == [(b"fourth", "k", State.WAITING)]


@pytest.mark.parametrize(
    "change",
    [
        JobChange(action="cancel"),
        JobChange(action="discard"),
        JobChange(action="delete"),
        JobChange(action="reschedule", when=Never()),
    ],
    ids=lambda change: change.action,
)
def test_change_for_good_promotes_the_successor(database: Database, change: JobChange) -> None:
    held = held_job(database, **ONE_MORE)
    queue_behind(database, held)
    database.release([held])
    assert database.change([held.jobid], change, states=[State.WAITING]) == 1
    assert rows(database)[-1] == (b"third", "k", State.WAITING)
    assert len(rows(database)) == (1 if change.action == "delete" else 2)


def test_change_to_another_time_does_not_promote(database: Database) -> None:
    held = held_job(database, **ONE_MORE)
    queue_behind(database, held)
    database.release([held])
    database.change([held.jobid], JobChange(action="reschedule", when=At(NOON)), states=[State.WAITING])
    assert rows(database) == [(b"first", "k", State.WAITING)]


@pytest.mark.parametrize("how", ["DELETE FROM job", f"UPDATE job SET run_after = {NEVER}"])
def test_promote_successors_after_another_program_has_ended_the_job(
    database: Database, backend: Backend, how: str
) -> None:
    assert not database.promote_successors()
    held = held_job(database, **ONE_MORE)
    queue_behind(database, held)
    assert database.promote_successors()
    assert len(database.jobs()) == 1
    backend.execute(how)
    assert database.promote_successors()
    assert rows(database)[-1] == (b"third", "k", State.WAITING)
    assert not database.promote_successors()


@pytest.mark.parametrize("rule", [{}, ONE_MORE])
def test_promote_successors_drops_one_older_than_the_job_of_its_key(
    database: Database, backend: Backend, rule: Any
) -> None:
    queue_behind(database, held_job(database, **ONE_MORE))
    backend.execute("DELETE FROM job")
    assert insert(database, b"newer", **rule).new
    database.promote_successors()
    assert rows(database) == [(b"newer", "k", State.WAITING)]
    assert not database.promote_successors()


def test_insert_of_one_more_forgets_the_successor_of_a_deleted_job(
    database: Database, backend: Backend
) -> None:
    queue_behind(database, held_job(database, **ONE_MORE))
    backend.execute("DELETE FROM job")
    newer = insert(database, b"newer", **ONE_MORE)
    database.complete([newer.jobid])
    database.promote_successors()
    assert rows(database) == []


def test_debounce_of_a_held_job_puts_its_successor_off(database: Database, clock: Clock) -> None:
    clock.set(NOON)
    rule: dict[str, Any] = {"on_duplicate": "debounce", "max_delay": 15}
    held = held_job(database, **rule)
    for seconds in (10, 20):
        insert(database, b"at %d" % seconds, 10, **rule)
        clock.advance(10)
    database.complete([held.jobid])
    (successor,) = database.jobs()
    assert (successor.arg, successor.run_after, successor.created) == (b"at 20", NOON + 15, NOON)


def test_debounce_of_a_held_job_never_makes_its_successor_due_earlier(
    database: Database, clock: Clock
) -> None:
    clock.set(NOON)
    held = held_job(database, on_duplicate="debounce")
    for delay in (50, 10):
        insert(database, b"", delay, on_duplicate="debounce")
    database.complete([held.jobid])
    assert [found.run_after for found in database.jobs()] == [NOON + 50]


def test_a_successor_keeps_every_field(database: Database) -> None:
    held = held_job(database, **ONE_MORE)
    fields: dict[str, Any] = {"coalesce": "c", "flag": "controller", "priority": "high", "expires": 7}
    database.insert([job(b"\xff\0", uniqkey=Unique("k", **ONE_MORE), **fields)])
    database.complete([held.jobid])
    (found,) = database.jobs()
    assert (found.arg, found.coalesce, found.flag, found.priority, found.failcount) == (
        b"\xff\0",
        "c",
        "controller",
        "high",
        0,
    )


@pytest.mark.parametrize("state", HELD)
def test_insert_of_one_more_queues_behind_a_job_in_any_held_state(
    database: Database, backend: Backend, state: State
) -> None:
    held_job(database, **ONE_MORE)
    backend.execute(f"UPDATE job SET state = {int(state)}")
    assert insert(database, b"second", **ONE_MORE).queued


# ---- rules of functions


def test_insert_takes_the_rules_of_its_function(database: Database) -> None:
    database.set_function("f", FunctionPolicy(on_duplicate="one_more"))
    database.functions()
    assert put(database, uniqkey="k", arg=b"1") == put(database, uniqkey="k", arg=b"2")
    assert [arg for arg, *_ in rows(database)] == [b"2"]
    own = Unique("k", on_duplicate="existing")
    database.insert([job(b"3", uniqkey=own)])
    assert [arg for arg, *_ in rows(database)] == [b"2"]
    put(database, uniqkey="k", arg=b"of another", funcname="g")
    assert len(rows(database)) == 2


def test_insert_ignores_rules_that_another_program_has_written_wrong(
    database: Database, backend: Backend
) -> None:
    database.set_function("f", FunctionPolicy(on_duplicate="replace", unique_window=60))
    database.functions()
    assert put(database, uniqkey="k", arg=b"1") == put(database, uniqkey="k", arg=b"2")
    assert [arg for arg, *_ in rows(database)] == [b"2"]
    database.set_function("f", FunctionPolicy(on_duplicate="one_more", unique_scope="while_live_or_dead"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"scope": "for ever"},
        {"on_duplicate": "ignore"},
        {"window": 0},
        {"window": 1.5},
        {"max_delay": -1},
        {"window": 60, "on_duplicate": "debounce"},
        {"scope": "while_live_or_dead", "on_duplicate": "one_more"},
    ],
)
def test_a_unique_key_refuses_wrong_rules(wrong: Any) -> None:
    with pytest.raises(UsageError):
        Unique("k", **wrong)


# ---- at the same time


@pytest.mark.parametrize("rule", ["existing", "replace", "debounce", "one_more", "window"])
def test_insert_by_many_at_once_stores_one_job(database: Database, rule: Any) -> None:
    given: dict[str, Any] = {"window": 600} if rule == "window" else {"on_duplicate": rule}
    ready = threading.Barrier(8)

    def insert_some(thread: int) -> list[Inserted]:
        ready.wait()
        return [insert(database, b"%d %d" % (thread, n), 60, **given) for n in range(5)]

    with ThreadPoolExecutor(8) as threads:
        answers = [at for found in threads.map(insert_some, range(8)) for at in found]
    assert sum(at.new for at in answers) == 1
    assert len({at.jobid for at in answers}) == 1
    assert len(rows(database)) == 1


def test_one_more_among_claims_and_ends_loses_no_newest_argument(database: Database) -> None:
    """Each key's last argument is that of its last run, and no successor is left."""
    keys, writers, inserts = 3, 4, 12
    writing = threading.Event()
    writing.set()
    ran: dict[str, list[int]] = {str(key): [] for key in range(keys)}
    order: dict[str, list[int]] = {str(key): [] for key in range(keys)}
    locks = {str(key): threading.Lock() for key in range(keys)}

    def write(writer: int) -> None:
        for number in range(inserts):
            for key, lock in locks.items():
                value = writer * inserts + number
                with lock:  # so that the test knows the order
                    insert(database, b"%d" % value, key=key, **ONE_MORE)
                    order[key].append(value)

    def work() -> None:
        while True:
            last_round = not writing.is_set()
            held = claim(database, 5)
            for number, one in enumerate(held):
                assert one.uniqkey is not None
                ran[one.uniqkey].append(int(one.arg))
                if number % 2:
                    settle(database, one, "discarded")
                else:
                    database.complete([one.jobid])
            if last_round and not held:
                return

    with ThreadPoolExecutor(writers + 1) as threads:
        worker = threads.submit(work)
        list(threads.map(write, range(writers)))
        writing.clear()
        worker.result()
    assert {key: values[-1] for key, values in ran.items()} == {
        key: values[-1] for key, values in order.items()
    }
    assert not database.promote_successors()
    assert all(state is State.DEAD for *_, state in rows(database))


def test_a_lease_of_an_insert_counts_as_handed_out(database: Database) -> None:
    database.insert([replace(job(b"first", uniqkey=Unique("k", **ONE_MORE)), lease=LEASE)])
    assert insert(database, b"second", **ONE_MORE).queued


def test_insert_that_replaces_a_job_or_waits_for_its_end_has_its_own_partition(database: Database) -> None:
    def put_in(partition: str) -> None:
        key = Unique("k", on_duplicate="one_more")
        database.insert([job(uniqkey=key, partition=partition)])

    put_in("a")
    put_in("b")  # replaces it
    taken = claim_one(database)
    assert taken.partition == "b"
    put_in("c")
    put_in("d")  # replaces the successor
    database.complete([taken.jobid])
    assert claim_one(database).partition == "d"
