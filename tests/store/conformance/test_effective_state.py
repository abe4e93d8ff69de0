"""The effective state of a row: each call follows one rule, whatever the columns are."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import pytest

from garivini.errors import ConflictError
from garivini.model.job import Handle
from garivini.model.limits import NEVER
from garivini.model.outcome import Report
from garivini.model.state import State
from garivini.store.database import Database, Lapsed
from tests.store.conformance.jobs import HELD, LEASE, NOON, claim, lane, listed, settle, stored
from tests.store.conftest import Backend, Clock

SINCE = NOON - 100


class Row(NamedTuple):
    """The columns that decide."""

    written: State
    run_after: int
    lease_end: int

    @property
    def state(self) -> State:
        """The effective state: the rule of ``docs/reference/row.md``."""
        if self.run_after == NEVER or self.written is State.DEAD:
            return State.DEAD
        if self.written in HELD and self.lease_end not in (0, self.run_after) and self.run_after >= SINCE:
            return State.WAITING
        return self.written

    @property
    def held(self) -> bool:
        return self.state in HELD

    @property
    def put_off(self) -> bool:
        return self.written in HELD and self.state is State.WAITING


ROWS = [
    Row(state, run_after, lease_end)
    for state in State
    for run_after in (1, NOON - 50, NOON + 50, NEVER)
    for lease_end in (0, run_after, NOON + 20)
]


@pytest.fixture
def rows(database: Database, backend: Backend, clock: Clock) -> dict[int, Row]:
    """Write a row of each kind, in attempt 1; return them by id."""
    clock.set(NOON)
    values = (
        f"('f', 'k{place}', 1, 1, {SINCE}, {row.written}, {row.run_after}, {row.lease_end})"
        for place, row in enumerate(ROWS)
    )
    backend.execute(
        "INSERT INTO job (funcname, uniqkey, priority, attempt, since, state, run_after, lease_end) "
        f"VALUES {', '.join(values)}"
    )
    found = backend.execute("SELECT jobid, uniqkey FROM job")
    return {jobid: ROWS[int(key[1:])] for jobid, key in found}


def ids(rows: dict[int, Row], condition: Callable[[Row], bool]) -> list[int]:
    return sorted(jobid for jobid, row in rows.items() if condition(row))


def test_get_and_live_return_the_effective_state(database: Database, rows: dict[int, Row]) -> None:
    expected = {jobid: row.state for jobid, row in rows.items()}
    assert {jobid: stored(database, jobid).state for jobid in rows} == expected
    live = [database.live("f", f"k{place}") for place in range(len(ROWS))]
    assert {found.jobid: found.state for found in live if found is not None} == expected


def test_jobs_and_counts_filter_and_count_by_the_effective_state(
    database: Database, rows: dict[int, Row]
) -> None:
    for state in State:
        assert listed(database, state=state) == ids(rows, lambda row, state=state: row.state is state)  # type: ignore[misc]
    assert listed(database, failed=True) == ids(rows, lambda row: row.state is State.DEAD)
    expected = Counter(row.state for row in rows.values())
    assert {count.state: count.jobs for count in database.counts()} == expected


@pytest.mark.parametrize("statement", ["mine", "held"])
def test_statements_of_the_fence_find_the_jobs_that_are_held(
    database: Database, rows: dict[int, Row], statement: str
) -> None:
    with database.transaction() as run:
        found = run(statement, jobids=sorted(rows), attempt=1)
    assert sorted(jobid for (jobid,) in found) == ids(rows, lambda row: row.held)


def test_dispatched_expired_and_claim_find_rows_by_the_rule(database: Database, rows: dict[int, Row]) -> None:
    in_gearman = database.dispatched(lane(state=State.LEASED), age=0)
    assert sorted(it.handle.jobid for it in in_gearman) == ids(
        rows, lambda row: row.state is State.LEASED and row.run_after > NOON
    )
    lapsed = [found for state in HELD for found in database.expired(lane(state=state), limit=100)]
    assert {found.jobid: found.put_off for found in lapsed} == {
        jobid: row.put_off
        for jobid, row in rows.items()
        if row.written in HELD and row.run_after <= NOON and (row.held or row.put_off)
    }
    database.requeue(sorted(rows))
    assert sorted(taken.jobid for taken in claim(database)) == ids(
        rows, lambda row: row.state is State.WAITING and row.run_after <= NOON
    )


# ---- writes


def lapsed_of(rows: dict[int, Row]) -> list[Lapsed]:
    return [
        Lapsed(jobid, 1, "shim", 0, SINCE, 100, row.written)
        for jobid, row in rows.items()
        if row.written in HELD
    ]


def count_runs(database: Database, handles: list[Handle]) -> None:
    for handle in handles:
        with suppress(ConflictError):
            database.count_run(handle)


def hold(database: Database, rows: dict[int, Row]) -> None:
    with database.transaction() as run:
        for jobid, row in rows.items():
            run("hold", jobid=jobid, attempt=1, run_after=row.run_after, seconds=60)


#: By name: a call for all rows, and the rows that it may change.
WRITES: dict[str, tuple[Callable[[Database, list[Handle], dict[int, Row]], Any], Callable[[Row], bool]]] = {
    "renew": (lambda database, handles, _: database.renew(handles, lease=1000), lambda row: row.held),
    "give_back": (lambda database, handles, _: database.give_back(handles), lambda row: row.held),
    "release": (
        lambda database, handles, _: database.release([stored(database, it.jobid) for it in handles]),
        lambda row: row.state is State.LEASED,
    ),
    "mark_leased": (
        lambda database, handles, _: database.mark_leased(handles),
        lambda row: row.state is State.RUNNING,
    ),
    "end_early": (
        lambda database, handles, _: database.end_early(handles, lease=LEASE),
        lambda row: row.state is State.LEASED,
    ),
    "extend": (
        lambda database, _, rows: database.extend([(it, it.state, 7, False) for it in lapsed_of(rows)]),
        lambda row: row.held and row.run_after <= NOON,
    ),
    "reclaim": (
        lambda database, _, rows: database.reclaim([(it, False) for it in lapsed_of(rows)], lease=LEASE),
        lambda row: row.held and row.run_after <= NOON,
    ),
    "requeue": (
        lambda database, _, rows: database.requeue(list(rows)),
        lambda row: row.put_off and row.run_after <= NOON,
    ),
    "count_run": (lambda database, handles, _: count_runs(database, handles), lambda row: row.held),
    "failed": (
        lambda database, handles, _: [settle(database, handle, "failed") for handle in handles],
        lambda row: row.held,
    ),
    "crashed": (
        lambda database, handles, _: [settle(database, handle, "crashed") for handle in handles],
        lambda row: row.held,
    ),
    "retry": (
        lambda database, _, rows: [database.retry(jobid) for jobid in rows],
        lambda row: not row.held,
    ),
    "hold": (lambda database, _, rows: hold(database, rows), lambda row: row.state is State.WAITING),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_write_changes_the_rows_that_the_rule_lets_it(
    database: Database, backend: Backend, rows: dict[int, Row], name: str
) -> None:
    write, may_change = WRITES[name]
    read = "SELECT jobid, state, run_after, lease_end, failcount, crashes, runs, attempt FROM job"
    before = set(backend.execute(read))
    write(database, [Handle(jobid, database.dbid, 1) for jobid in rows], rows)
    changed = {row[0] for row in set(backend.execute(read)) - before}
    assert sorted(changed) == ids(rows, may_change)


def test_report_keeps_lines_of_the_attempts_that_hold_their_jobs(
    database: Database, backend: Backend, rows: dict[int, Row]
) -> None:
    database.report([Report(Handle(jobid, database.dbid, 1), "data", b"x") for jobid in rows])
    found = backend.execute("SELECT jobid FROM report")
    assert sorted(jobid for (jobid,) in found) == ids(rows, lambda row: row.held)


def test_retry_returns_whether_the_job_was_waiting_or_dead(database: Database, rows: dict[int, Row]) -> None:
    assert {jobid: database.retry(jobid) for jobid in rows} == {
        jobid: not row.held for jobid, row in rows.items()
    }
