"""The model of the database against the real one: the same steps, the same answers, the same tables."""

import random
import sqlite3
from collections.abc import Callable
from functools import cache
from itertools import chain, count
from typing import Any, TypeVar
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from garivini.databases import DatabaseSettings
from garivini.model import when
from garivini.model.job import Handle, Job, NewJob
from garivini.model.limits import NEVER, PRIORITIES
from garivini.model.new_jobs import new_job
from garivini.model.outcome import Kind, Setback, Success
from garivini.model.policy import FunctionPolicy
from garivini.model.records import FailedAttempt
from garivini.model.retry import BackoffCurve, RetryEntry, RetryPolicy
from garivini.model.state import State
from garivini.model.unique import KeyRule
from garivini.model.when import At, Never, Offset
from garivini.store.database import Database, Lane, Lapsed
from tests.simulation.database import HELD, Model

_R = TypeVar("_R")

NOON = 1_800_000_000


class Clock:
    """The time of both."""

    def __init__(self) -> None:
        self.now = float(NOON)

    def time(self) -> float:
        return self.now


def real_database(clock: Clock) -> tuple[Database, sqlite3.Connection]:
    """Return a database in memory that follows the clock, and the connection that it has."""

    def strftime(form: str, moment: str) -> str:
        assert (form, moment) == ("%s", "now")
        return str(int(clock.now))

    def julianday(moment: str) -> float:
        assert moment == "now"
        return clock.now / 86400.0 + 2440587.5

    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.create_function("strftime", 2, strftime)
    connection.create_function("julianday", 1, julianday)
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)
    return Database(DatabaseSettings(1, engine)), connection


@cache
def schema() -> str:
    """Return the SQL that makes the tables. Made once: it takes longer than a run."""
    database, connection = real_database(Clock())
    database.upgrade()
    script = "\n".join(connection.iterdump())
    connection.close()
    return script


jobs = st.builds(
    NewJob,
    funcname=st.sampled_from(["f", "g"]),
    arg=st.sampled_from([b"", b"x" * 10, b"x" * 30]),
    uniqkey=st.sampled_from([None, None, None, "j", "k"]),
    coalesce=st.none(),
    flag=st.sampled_from(["shim", "controller"]),
    priority=st.sampled_from(PRIORITIES),
    delay=st.integers(0, 4),
    partition=st.sampled_from([None, "a", "a", "b"]),
    lease=st.sampled_from([0, 0, 0, 5]),
    rule=st.sampled_from(
        [
            None,
            None,
            KeyRule(on_duplicate="one_more"),
            KeyRule(on_duplicate="debounce", max_delay=6),
            KeyRule(on_duplicate="replace"),
            KeyRule(scope="while_live"),
        ]
    ),
)
leases = st.integers(3, 9)
#: Which of the handles, lapsed leases or jobs seen so far, the newest first: of now and of before.
picks = st.lists(st.integers(0, 40), min_size=1, max_size=6)
ends = st.sampled_from(
    [
        "failed",
        "failed",
        "rescheduled",
        "rescheduled",
        "discarded",
        "parked",
        "crashed",
        "crashed",
        "cancelled",
    ]
)
times = st.one_of(
    st.none(),
    st.builds(Offset, st.integers(0, 5)),
    st.builds(At, st.sampled_from([NOON - 5, NOON + 5, NEVER - 1, NEVER + 1])),
    st.just(Never()),
)


#: Retry policies without randomness.
RETRIES = [
    RetryPolicy(backoff=(1, 3)).text,
    RetryPolicy(backoff=(2,), errors=(RetryEntry("LookupError", discard=True),)).text,
    RetryPolicy(
        backoff=BackoffCurve(1, jitter=0), errors=(RetryEntry("KeyError", backoff=(4,)),), others="discard"
    ).text,
]


class Both(RuleBasedStateMachine):
    """Does everything twice."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.database, self.connection = real_database(self.clock)
        self.connection.executescript(schema())
        self.model = Model(1, self.clock.time)
        self.claimed: list[Job] = []
        self.lapsed: list[Lapsed] = []

    def teardown(self) -> None:
        self.connection.close()

    def both(self, call: Callable[[Any], _R]) -> _R:
        """Call it with each and compare the answers."""
        spread = random.Random(int(self.clock.now))
        expected = self.with_random(spread, call, self.database)
        rows = self.connection.execute("SELECT jobid FROM job ORDER BY jobid").fetchall()
        self.model.jobids = iter([jobid for (jobid,) in rows if jobid not in self.model.rows])
        spread = random.Random(int(self.clock.now))
        found = self.with_random(spread, call, self.model)
        assert found == expected
        return found

    def with_random(self, source: random.Random, call: Callable[[Any], _R], database: Any) -> _R:
        with patch.object(when, "random", source):
            return call(database)

    def handles(self, picked: list[int]) -> list[Handle]:
        newest = self.claimed[::-1]
        return [newest[index % len(newest)].handle for index in picked]

    # ---- jobs in and out

    @initialize(new=st.lists(jobs, min_size=3, max_size=8))
    def fill(self, new: list[NewJob]) -> None:
        self.insert(new)

    @rule(new=st.lists(jobs, min_size=1, max_size=3))
    def insert(self, new: list[NewJob]) -> None:
        expected = self.database.insert(new)
        # Which ids are new is the database's affair: they may have gaps.
        self.model.jobids = iter(sorted(answer.jobid for answer in expected if answer.new))
        assert self.model.insert(new) == expected

    @rule(seconds=st.sampled_from([0.3, 1.0, 2.5, 4.0, 9.0]))
    def advance(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(
        funcname=st.sampled_from(["f", "g"]),
        priority=st.sampled_from(PRIORITIES),
        limit=st.integers(1, 5),
        lease=leases,
        max_bytes=st.sampled_from([5, 25, 45, 10**6]),
    )
    def claim(self, funcname: str, priority: str, limit: int, lease: int, max_bytes: int) -> None:
        lane = Lane(funcname, State.WAITING, priority, 0)
        self.claimed += self.both(
            lambda database: database.claim(lane, limit=limit, lease=lease, max_bytes=max_bytes)
        )

    @rule(
        funcname=st.sampled_from(["f", "g"]),
        priority=st.sampled_from(PRIORITIES),
        limit=st.integers(1, 5),
        lease=leases,
    )
    def admit(self, funcname: str, priority: str, limit: int, lease: int) -> None:
        lane = Lane(funcname, State.WAITING, priority, 0)
        expected = self.database.admit(lane, limit=limit, lease=lease)
        found = self.model.admit(lane, limit=limit, lease=lease)
        assert found.jobs == expected.jobs
        if not self.model.policies.get(funcname, FunctionPolicy()).has_turns:
            # The real one has its time from a julian day, which is less exact.
            assert found.held_back == pytest.approx(expected.held_back, abs=0.001)
        elif found.held_back is not None:
            assert expected.held_back is not None
        self.claimed += found.jobs

    @rule(lease=leases)
    def claim_all(self, lease: int) -> None:
        for lane in self.model.lanes().lanes:
            if lane.state is State.WAITING:
                self.claimed += self.both(lambda database: database.claim(lane, limit=10, lease=lease))  # noqa: B023

    @precondition(lambda self: self.claimed)
    @rule(picked=picks)
    def release(self, picked: list[int]) -> None:
        newest = self.claimed[::-1]
        chosen = [newest[index % len(newest)] for index in picked]
        self.both(lambda database: database.release(chosen))

    @precondition(lambda self: self.claimed)
    @rule(picked=picks, lease=leases)
    def end_early(self, picked: list[int], lease: int) -> None:
        self.both(lambda database: database.end_early(self.handles(picked), lease=lease))

    @rule(
        funcname=st.sampled_from(["f", "g"]),
        priority=st.sampled_from(PRIORITIES),
        age=st.integers(0, 4),
        since=st.sampled_from([0, NOON - 1, NOON, NOON + 3]),
        after=st.integers(NOON - 1, NOON + 30),
        limit=st.integers(1, 4),
    )
    def dispatched(self, funcname: str, priority: str, age: int, since: int, after: int, limit: int) -> None:
        lane = Lane(funcname, State.LEASED, priority, 0)
        self.both(lambda database: database.dispatched(lane, age=age, since=since, after=after, limit=limit))

    # ---- leases that ran out

    @rule(lease=leases)
    def take_all_again(self, lease: int) -> None:
        """Let every lease run out and claim again; what was known of the attempts before is old now."""
        self.clock.now += 11
        for lane in self.model.lanes().lanes:
            if lane.state in HELD:
                lapsed = self.both(lambda database: database.expired(lane, limit=10))  # noqa: B023
                self.lapsed += lapsed
                steps = [(it, False) for it in lapsed]
                self.claimed += self.both(lambda database: database.reclaim(steps, lease=lease))  # noqa: B023

    @rule(limit=st.integers(1, 5))
    def expired(self, limit: int) -> None:
        for lane in self.model.lanes().lanes:
            if lane.state in HELD:
                self.lapsed += self.both(lambda database: database.expired(lane, limit=limit))  # noqa: B023

    @precondition(lambda self: self.lapsed)
    @rule(
        picked=picks,
        state=st.sampled_from([State.LEASED, State.RUNNING, State.SUSPECT]),
        seconds=st.integers(0, 6),
        queued=st.booleans(),
    )
    def extend(self, picked: list[int], state: State, seconds: int, queued: bool) -> None:
        newest = self.lapsed[::-1]
        steps = [(newest[index % len(newest)], state, seconds, queued) for index in picked]
        self.both(lambda database: database.extend(steps))

    @precondition(lambda self: self.lapsed)
    @rule(picked=picks, crashed=st.booleans(), lease=leases)
    def reclaim(self, picked: list[int], crashed: bool, lease: int) -> None:
        newest = self.lapsed[::-1]
        steps = [(newest[index % len(newest)], crashed) for index in picked]
        self.claimed += self.both(lambda database: database.reclaim(steps, lease=lease))

    @rule(jobids=st.lists(st.integers(1, 12), max_size=3), lease=leases)
    def adopt(self, jobids: list[int], lease: int) -> None:
        self.claimed += self.both(lambda database: database.adopt(jobids, lease=lease))

    # ---- what somebody else writes

    @precondition(lambda self: self.claimed)
    @rule(picked=st.integers(0, 3), seconds=st.sampled_from([1, 5, 12, 30]))
    def put_off_what_was_claimed(self, picked: int, seconds: int) -> None:
        self.put_off(self.claimed[-1 - picked % len(self.claimed)].jobid, seconds)

    @rule(jobid=st.integers(1, 12), seconds=st.sampled_from([0, 1, 5, 12, 30]))
    def put_off(self, jobid: int, seconds: int) -> None:
        self.connection.execute(
            "UPDATE job SET run_after = strftime('%s', 'now') + ? WHERE jobid = ?", [seconds, jobid]
        )
        self.connection.commit()
        self.model.put_off(jobid, seconds)

    @rule(jobid=st.integers(1, 12))
    def park_by_time(self, jobid: int) -> None:
        self.connection.execute("UPDATE job SET run_after = ? WHERE jobid = ?", [NEVER, jobid])
        self.connection.commit()
        self.model.put_off(jobid, NEVER - int(self.clock.now))

    @rule(jobids=st.lists(st.integers(1, 12), min_size=1, max_size=4, unique=True))
    def requeue(self, jobids: list[int]) -> None:
        self.both(lambda database: database.requeue(jobids))

    @rule(jobid=st.integers(1, 12))
    def delete(self, jobid: int) -> None:
        self.connection.execute("DELETE FROM job WHERE jobid = ?", [jobid])
        self.connection.execute("DELETE FROM failure WHERE jobid = ?", [jobid])
        self.connection.commit()
        self.model.rows.pop(jobid, None)
        self.model.records = {key: it for key, it in self.model.records.items() if key[0] != jobid}

    @rule()
    def promote_successors(self) -> None:
        self.both(lambda database: database.promote_successors())

    # ---- the ends of attempts

    @precondition(lambda self: self.claimed)
    @rule(picked=picks, lease=leases)
    def renew(self, picked: list[int], lease: int) -> None:
        self.both(lambda database: database.renew(self.handles(picked), lease=lease))

    @precondition(lambda self: self.claimed)
    @rule(picked=picks)
    def give_back(self, picked: list[int]) -> None:
        self.both(lambda database: database.give_back(self.handles(picked)))

    @precondition(lambda self: self.claimed)
    @rule(picked=picks)
    def mark_leased(self, picked: list[int]) -> None:
        self.both(lambda database: database.mark_leased(self.handles(picked)))

    @rule(jobids=st.lists(st.integers(1, 12), min_size=1, max_size=3))
    def complete(self, jobids: list[int]) -> None:
        self.both(lambda database: database.complete(jobids))

    @rule(jobids=st.lists(st.integers(1, 12), min_size=1, max_size=3, unique=True))
    def finish_with_follow_ups(self, jobids: list[int]) -> None:
        ends = [Success(jobid, None) for jobid in jobids]
        follow_ups = {jobid: [new_job("f", b"%d" % jobid)] for jobid in jobids}
        before = self.jobids()
        expected = self.database.finish(ends, follow_ups=follow_ups)
        self.model.jobids = chain(sorted(self.jobids() - before), count(10**6))
        assert self.model.finish(ends, follow_ups=follow_ups) == expected

    def jobids(self) -> set[int]:
        return {jobid for (jobid,) in self.connection.execute("SELECT jobid FROM job")}

    @precondition(lambda self: self.claimed)
    @rule(
        picked=picks,
        kind=ends,
        when=times,
        fenced=st.booleans(),
        most=st.integers(1, 4),
        classes=st.sampled_from([(), ("KeyError", "LookupError"), ("ValueError",)]),
    )
    def settle(
        self,
        picked: list[int],
        kind: Kind,
        when: Any,
        fenced: bool,
        most: int,
        classes: tuple[str, ...],
    ) -> None:
        setbacks = [
            Setback(
                handle=handle if fenced else Handle(handle.jobid, handle.dbid),
                kind=kind,
                error="Error",
                classes=classes,
                message=kind,
                worker="w",
                when=when,
            )
            for handle in self.handles(picked)
        ]
        self.both(lambda database: database.settle(setbacks, max_failures=most))

    @precondition(lambda self: self.claimed)
    @rule(picked=picks)
    def cancelled(self, picked: list[int]) -> None:
        self.both(lambda database: database.cancelled(self.handles(picked)))

    @rule(
        funcname=st.sampled_from(["f", "g"]),
        given=st.builds(
            FunctionPolicy,
            lease=st.sampled_from([None, 3, 9]),
            renews=st.sampled_from([None, True, False]),
            max_failures=st.sampled_from([None, 1, 2]),
            max_running=st.sampled_from([None, 1, 2]),
            rate=st.sampled_from([None, "1/s", "20/m", "500/h"]),
            burst=st.sampled_from([None, 2, 3]),
            partition_max_running=st.sampled_from([None, None, 1, 2]),
            partition_rate=st.sampled_from([None, None, "1/s", "20/m"]),
            fair=st.sampled_from([None, True, False]),
            retry=st.sampled_from([None, *RETRIES]),
        ),
        by_worker=st.booleans(),
    )
    def set_function(self, funcname: str, given: FunctionPolicy, by_worker: bool) -> None:
        if by_worker:
            self.both(lambda database: database.register_functions({funcname: given}))
        else:
            self.both(lambda database: database.set_function(funcname, given))
        self.both(lambda database: database.functions())

    @rule(
        funcname=st.sampled_from(["f", "g"]),
        until=st.one_of(st.builds(Offset, st.sampled_from([1, 5, 20])), st.just(Never())),
    )
    def pause(self, funcname: str, until: Any) -> None:
        self.both(lambda database: database.pause(funcname, until))
        self.both(lambda database: database.functions())

    @rule(funcname=st.sampled_from(["f", "g"]))
    def resume(self, funcname: str) -> None:
        self.both(lambda database: database.resume(funcname))
        self.both(lambda database: database.functions())

    # ---- the tables

    @invariant()
    def the_tables_are_the_same(self) -> None:
        found, expected = self.model.jobs(), self.database.jobs(limit=10_000)
        assert found == expected
        ends = self.connection.execute("SELECT jobid, state, lease_end FROM job ORDER BY jobid").fetchall()
        assert [(row.jobid, row.state, row.lease_end) for row in self.model.rows.values()] == ends
        names = ", ".join(("jobid", *FailedAttempt._fields))
        select = f"SELECT {names} FROM failure ORDER BY jobid, attempt, kind"
        rows = self.connection.execute(select).fetchall()
        assert [(key[0], *record) for key, record in sorted(self.model.records.items())] == rows

    @invariant()
    def the_successors_are_the_same(self) -> None:
        select = "SELECT jobid, funcname, uniqkey, arg, due, created FROM successor ORDER BY jobid"
        found = [
            (jobid, row.funcname, row.uniqkey, row.arg, row.run_after, row.created)
            for jobid, row in sorted(self.model.successors.items())
        ]
        assert found == self.connection.execute(select).fetchall()

    @invariant()
    def the_rates_are_used_alike(self) -> None:
        select = "SELECT funcname, rate_used_until FROM function WHERE rate_used_until IS NOT NULL"
        expected = dict(self.connection.execute(select).fetchall())
        assert self.model.used_until == pytest.approx(expected, abs=0.001)

    @invariant()
    def the_rates_of_partitions_are_used_alike(self) -> None:
        rows = self.connection.execute(
            'SELECT funcname, "partition", used_until FROM partition_rate'
        ).fetchall()
        expected = {(funcname, partition): used_until for funcname, partition, used_until in rows}
        assert self.model.partitions_used == pytest.approx(expected, abs=0.001)

    @invariant()
    def the_marks_are_the_same(self) -> None:
        assert self.model.marks() == self.database.marks()

    @invariant()
    def the_lanes_are_the_same(self) -> None:
        found, expected = self.model.lanes(), self.database.lanes()
        assert found.lanes == sorted(
            expected.lanes,
            key=lambda lane: (PRIORITIES.index(lane.priority), lane.due, lane.funcname, lane.state),
        )
        assert found.now == pytest.approx(expected.now, abs=0.001)
        assert [lane.due for lane in found.lanes] == [lane.due for lane in expected.lanes]


def comparison(runs: int) -> settings:
    """Return how the two are compared."""
    return settings(
        max_examples=runs,
        stateful_step_count=40,
        derandomize=True,
        report_multiple_bugs=False,
        # A failing run is short enough to read; making it shorter takes minutes.
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def test_the_model_does_what_the_database_does() -> None:
    run_state_machine_as_test(Both, settings=comparison(8))


@pytest.mark.slow
def test_the_model_does_what_the_database_does_in_many_runs() -> None:
    run_state_machine_as_test(Both, settings=comparison(500))
