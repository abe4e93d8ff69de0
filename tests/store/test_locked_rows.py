"""Rows that another transaction has locked: they are left, and all others written at once."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Final

import pytest
from sqlalchemy import Engine, create_engine

from garivini.databases import DatabaseSettings
from garivini.errors import ConflictError
from garivini.model.job import Handle, Job
from garivini.model.job_query import JobChange
from garivini.model.new_jobs import new_job
from garivini.model.outcome import Report, Setback, Success
from garivini.model.state import State
from garivini.model.when import Offset
from garivini.store.database import Database, Lane, Lapsed
from garivini.store.dialects.dialect import Dialect
from tests.databases import MySQLRoles, PostgreSQLRoles
from tests.processes import PATIENCE
from tests.store.conftest import BACKENDS, Backend

pytestmark = pytest.mark.servers

LANE: Final = Lane("f", State.WAITING, "normal", 0)
#: Seconds that such a call may take. One that waits for a lock takes longer, in these tests.
AT_ONCE: Final = PATIENCE
LOCK_WAIT: Final = 2 * PATIENCE
DRIVERS: Final = {"mysql": "mysql+pymysql", "postgresql": "postgresql+psycopg"}


def roles_of(request: pytest.FixtureRequest, backend: Backend) -> MySQLRoles | PostgreSQLRoles:
    name = "mysql_roles" if "ariaDB" in type(backend).__name__ or "MySQL" in type(backend).__name__ else ""
    roles: MySQLRoles | PostgreSQLRoles = request.getfixturevalue(name or "postgresql_roles")
    return roles


@pytest.fixture(params=[name for name in BACKENDS if name != "sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """A database that has locks of rows, whose calls wait for one for long where they do."""
    monkeypatch.setattr(Dialect, "lock_timeout", LOCK_WAIT)
    return BACKENDS[request.param](request, tmp_path, monkeypatch)


@pytest.fixture
def engine(request: pytest.FixtureRequest, backend: Backend) -> Iterator[Engine]:
    """Makes connections of another program."""
    scheme, _, rest = roles_of(request, backend).runtime.partition("://")
    engine = create_engine(f"{DRIVERS[scheme]}://{rest}")
    yield engine
    engine.dispose()


@pytest.fixture
def jobs(database: Database) -> list[Job]:
    database.insert([new_job("f", b"x") for _ in range(6)])
    return database.claim(LANE, limit=10, lease=60)


@contextmanager
def locked(engine: Engine, jobids: list[int], table: str = "job") -> Iterator[None]:
    with engine.connect() as connection, connection.begin() as transaction:
        for jobid in jobids:
            connection.exec_driver_sql(f"SELECT 1 FROM {table} WHERE jobid = {jobid} FOR UPDATE")
        yield
        transaction.rollback()


def lapsed(job: Job) -> Lapsed:
    return Lapsed(job.jobid, 1, "shim", 0, job.since, 0, State.LEASED)


def setbacks(jobs: list[Job]) -> list[Setback]:
    return [Setback(handle=job.handle, kind="failed") for job in jobs]


#: Each call, with the state of the jobs that it has changed (None: they are gone).
CALLS: Final[dict[str, tuple[Callable[[Database, list[Job], set[int]], Any], State | None]]] = {
    "complete": (lambda db, jobs, left: db.complete([job.jobid for job in jobs], locked=left), None),
    "finish": (
        lambda db, jobs, left: db.finish([Success(job.jobid, 1, retention=60) for job in jobs], locked=left),
        None,
    ),
    "settle": (lambda db, jobs, left: db.settle(setbacks(jobs), locked=left), State.WAITING),
    "renew": (
        lambda db, jobs, left: db.renew([job.handle for job in jobs], lease=9, locked=left),
        State.RUNNING,
    ),
    "give_back": (
        lambda db, jobs, left: db.give_back([job.handle for job in jobs], locked=left),
        State.WAITING,
    ),
    "release": (lambda db, jobs, left: db.release(jobs, locked=left), State.WAITING),
    "adopt": (
        lambda db, jobs, left: db.adopt([job.jobid for job in jobs], lease=9, locked=left),
        State.RUNNING,
    ),
    "extend": (
        lambda db, jobs, left: db.extend(
            [(lapsed(job), State.SUSPECT, 9, False) for job in jobs], locked=left
        ),
        State.SUSPECT,
    ),
    "reclaim": (
        lambda db, jobs, left: db.reclaim([(lapsed(job), False) for job in jobs], lease=9, locked=left),
        State.LEASED,
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_leave_what_another_has_locked_and_do_the_rest(
    backend: Backend, database: Database, engine: Engine, jobs: list[Job], name: str
) -> None:
    backend.execute("UPDATE job SET run_after = 5")  # so that those leases have run out
    before = {job.jobid: job for job in database.jobs()}
    call, state = CALLS[name]
    taken = {jobs[1].jobid, jobs[4].jobid}
    left = {4711}  # of an earlier try
    with locked(engine, sorted(taken)):
        began = time.monotonic()
        call(database, jobs, left)
        assert time.monotonic() - began < AT_ONCE
    assert left == taken
    after = {job.jobid: job for job in database.jobs()}
    for job in jobs:
        found = after.get(job.jobid)
        if job.jobid in taken:
            assert found == before[job.jobid]
        elif state is None:
            assert found is None
        else:
            assert found is not None
            assert (found.state, found != before[job.jobid]) == (state, True)
    call(database, jobs, left)
    assert left == set()


def test_mark_leased_end_early_and_report_leave_what_another_has_locked(
    database: Database, engine: Engine, jobs: list[Job]
) -> None:
    handles = [job.handle for job in jobs]
    left: set[int] = set()
    with locked(engine, [jobs[0].jobid]):
        database.end_early(handles, lease=60, locked=left)
        assert left == {jobs[0].jobid}
        lane = Lane("f", State.LEASED, "normal", 0)
        assert sorted(row.jobid for row in database.expired(lane, limit=10)) == [
            job.jobid for job in jobs[1:]
        ]
        database.report([Report(handle, "data", b"a line") for handle in handles], locked=left)
        assert left == {jobs[0].jobid}
    assert [bool(database.reports(job.jobid)) for job in jobs] == [False] + [True] * 5
    database.renew(handles, lease=60)
    with locked(engine, [jobs[0].jobid]):
        database.mark_leased(handles, locked=left)
        assert left == {jobs[0].jobid}
    assert [job.state for job in database.jobs()] == [State.RUNNING] + [State.LEASED] * 5


def test_expired_passes_over_what_another_has_locked(
    backend: Backend, database: Database, engine: Engine, jobs: list[Job]
) -> None:
    backend.execute("UPDATE job SET run_after = 5")
    lane = Lane("f", State.LEASED, "normal", 0)
    with locked(engine, [job.jobid for job in jobs[:4]]):
        assert sorted(row.jobid for row in database.expired(lane, limit=2)) == [job.jobid for job in jobs[4:]]


def test_settle_returns_which_it_has_left(database: Database, engine: Engine, jobs: list[Job]) -> None:
    gone = Setback(handle=Handle(10**9, 1, 1), kind="failed")
    with locked(engine, [jobs[0].jobid]):
        found = database.settle([*setbacks(jobs[:2]), gone], locked=set())
    assert [settled.result for settled in found] == ["locked", "applied", "gone"]


@pytest.mark.parametrize("table", ["failure", "report"])
@pytest.mark.parametrize("name", ["complete", "finish", "settle"])
def test_calls_leave_a_job_of_which_another_has_locked_a_record(
    database: Database,
    engine: Engine,
    jobs: list[Job],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    table: str,
) -> None:
    """As a transaction that cleans up old records would."""
    # MySQL waits at least a second for a lock if it must.
    monkeypatch.setattr(type(database.connections.dialect), "shorten_lock_wait", lambda *_: round(LOCK_WAIT))
    for job in jobs[:3]:
        database.settle([Setback(handle=job.handle, kind="crashed")])
        database.report([Report(job.handle, "data", b"a line") for _ in range(2)])
    call, state = CALLS[name]
    left: set[int] = set()
    # Not the default of MariaDB and MySQL, which locks the gaps beside a record too.
    committed = engine.execution_options(isolation_level="READ COMMITTED")
    with committed.connect() as connection, connection.begin():
        connection.exec_driver_sql(
            f"SELECT 1 FROM {table} WHERE jobid = {jobs[1].jobid} ORDER BY attempt LIMIT 1 FOR UPDATE"
        )
        began = time.monotonic()
        call(database, jobs, left)
        assert time.monotonic() - began < AT_ONCE
    assert left == {jobs[1].jobid}
    found = {job.jobid: job.state for job in database.jobs()}
    others = {job.jobid: state for job in jobs if job is not jobs[1] and state is not None}
    assert found == others | {jobs[1].jobid: State.LEASED}
    call(database, jobs, left)
    assert left == set()


def test_finish_that_waits_for_no_lock_meets_a_conflict_if_another_table_has_one(
    database: Database, engine: Engine, jobs: list[Job]
) -> None:
    with engine.connect() as connection, connection.begin() as transaction:
        connection.exec_driver_sql(
            "INSERT INTO finished (jobid, funcname, attempt, failcount, created, finished_at, expires,"
            f" worker) VALUES ({jobs[0].jobid}, 'f', 1, 0, 0, 0, 0, '')"
        )
        began = time.monotonic()
        with pytest.raises(ConflictError):
            database.finish([Success(job.jobid, 1, retention=60) for job in jobs], locked=set())
        assert time.monotonic() - began < AT_ONCE
        transaction.rollback()
    assert len(database.jobs()) == 6
    # The session waits for locks again.
    with (
        closing(database.with_lock_timeout(0.2)) as hasty,
        locked(engine, [jobs[0].jobid]),
        pytest.raises(ConflictError),
    ):
        hasty.complete([jobs[0].jobid])


@pytest.mark.parametrize("owned", [True, False])
def test_with_lock_timeout_sets_it_for_those_connections_alone(
    request: pytest.FixtureRequest, backend: Backend, engine: Engine, jobs: list[Job], owned: bool
) -> None:
    patient = Database(DatabaseSettings(1, roles_of(request, backend).runtime if owned else engine))
    hasty = patient.with_lock_timeout(0.2)
    with locked(engine, [jobs[0].jobid]):
        began = time.monotonic()
        for _ in range(2):
            with pytest.raises(ConflictError):
                hasty.complete([jobs[0].jobid])
        assert time.monotonic() - began < AT_ONCE
    assert hasty.complete([jobs[0].jobid]) == {jobs[0].jobid}
    if not owned and type(backend).__name__ != "PostgreSQLDatabase":
        with engine.connect() as connection:
            # What the caller's engine gives to others is as it was.
            found = connection.exec_driver_sql("SELECT @@SESSION.innodb_lock_wait_timeout").scalar()
            assert found == 50
    hasty.close()
    patient.close()


@pytest.mark.parametrize("action", ["retry", "cancel", "discard", "delete", "reschedule", "prioritize"])
def test_change_leaves_what_another_has_locked_and_does_the_rest(
    database: Database, engine: Engine, action: Any
) -> None:
    jobids = [answer.jobid for answer in database.insert([new_job("f", b"x", delay=60) for _ in range(6)])]
    before = {job.jobid: job for job in database.jobs()}
    taken = {jobids[1], jobids[4]}
    when = Offset(5) if action == "reschedule" else None
    change = JobChange(action=action, when=when, priority="low")
    with locked(engine, sorted(taken)):
        began = time.monotonic()
        assert database.change(jobids, change, states=change.states) == 4
        assert time.monotonic() - began < AT_ONCE
    after = {job.jobid: job for job in database.jobs()}
    assert {jobid for jobid in jobids if after.get(jobid) == before[jobid]} == taken
