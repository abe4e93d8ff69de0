"""What every database with a server of its own must do: roles, and servers that go, freeze or refuse."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import create_engine

from garivini import events
from garivini.errors import OutcomeUnknownError, RefusedError, SchemaError, UnreachableError
from garivini.model.job import Handle
from garivini.model.new_jobs import new_job
from garivini.model.outcome import Report, Setback
from garivini.model.state import State
from garivini.store import records, write_access
from garivini.store.database import Database, Lane
from tests.databases import MySQLRoles, PostgreSQLRoles
from tests.processes import PATIENCE
from tests.sql_servers import SERVERS, SQLServer
from tests.store.test_errors import CALLS, Opener, insert

pytestmark = pytest.mark.servers

#: What a call may take at most where the URL says that two seconds of silence are enough.
BOUND = 8.0

Roles = MySQLRoles | PostgreSQLRoles


@pytest.fixture(params=SERVERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(kind: str, request: pytest.FixtureRequest) -> SQLServer:
    """The session's server: not to be stopped, frozen or set."""
    server: SQLServer = request.getfixturevalue(kind)
    return server


@pytest.fixture
def roles(kind: str, request: pytest.FixtureRequest) -> Roles:
    roles: Roles = request.getfixturevalue("mysql_roles" if kind == "mariadb" else "postgresql_roles")
    roles.empty()
    return roles


@pytest.fixture
def database(roles: Roles, opened: Opener) -> Database:
    return opened(roles.runtime)


@pytest.fixture
def own_server(kind: str, request: pytest.FixtureRequest) -> SQLServer:
    server: SQLServer = request.getfixturevalue(f"own_{kind}")
    return server


@pytest.fixture
def own(own_server: SQLServer, opened: Opener) -> Database:
    """A database with one job on a server of the test's own, where two seconds of silence are too long."""
    url = own_server.create_database()
    patient = opened(url)
    patient.upgrade()
    insert(patient)
    database = opened(f"{url}?read_timeout=2&connect_timeout=2")
    database.check()
    return database


@contextmanager
def within(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


# ---- roles


def test_calls_of_a_viewer_read_and_may_not_write(roles: Roles, database: Database, opened: Opener) -> None:
    insert(database)
    viewer = opened(roles.viewer)
    (found,) = viewer.jobs()
    assert [entry.jobs for entry in viewer.counts()] == [1]
    assert len(viewer.lanes().lanes) == 1
    assert viewer.failures(found.jobid) == []
    assert viewer.functions() == {}
    for call in (
        insert,
        lambda viewer: viewer.complete([found.jobid]),
        lambda viewer: viewer.retry(found.jobid),
    ):
        with pytest.raises(RefusedError, match=r"lacks a privilege .*job"):
            call(viewer)
    assert viewer.jobs() == [found]


def test_insert_by_the_first_user_gives_a_database_its_id_and_several_at_once_agree(
    roles: Roles, opened: Opener
) -> None:
    start = threading.Barrier(6)

    def first(dbid: int) -> bool:
        database = opened(roles.runtime, dbid)
        start.wait()
        try:
            insert(database)
        except SchemaError as error:
            return "calls itself database" not in str(error)
        return True

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(first, range(1, 7))).count(True) == 1


# ---- a server that goes


def test_insert_replaces_a_session_that_the_server_ended(
    server: SQLServer, roles: Roles, database: Database
) -> None:
    insert(database)
    assert server.end_sessions(f"{roles.name}_runtime") >= 1
    insert(database)
    assert len(database.jobs()) == 2


def test_complete_deletes_what_is_reported_while_it_waits(
    server: SQLServer, roles: Roles, database: Database, opened: Opener
) -> None:
    jobids = [answer.jobid for answer in database.insert([new_job("f", b"", flag="controller")] * 3)]
    *_, job = database.claim(Lane("f", State.WAITING, "normal", 0), limit=3, lease=60)
    with ThreadPoolExecutor(1) as threads:
        with opened(roles.runtime).transaction() as run:
            records.report(run, [Report(job.handle, "data", b"x")])
            done = threads.submit(database.complete, jobids)
            server.until_one_waits()
        assert done.result(PATIENCE) == set(jobids)
    assert database.reports(job.jobid) == []


@pytest.mark.slow
def test_calls_report_a_server_that_is_gone_and_find_it_again(own_server: SQLServer, own: Database) -> None:
    own_server.kill()
    for call in CALLS.values():
        with pytest.raises(UnreachableError, match="cannot be reached"):
            call(own)
    own_server.start()
    insert(own)
    assert len(own.jobs()) == 2


@pytest.mark.slow
def test_transaction_whose_server_dies_at_the_commit_has_an_unknown_outcome(
    own_server: SQLServer, own: Database
) -> None:
    with pytest.raises(OutcomeUnknownError, match="lost at the commit"), own.transaction():
        own_server.kill()


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_calls_to_a_frozen_server_end_in_bounded_time(
    own_server: SQLServer, own: Database, call: Any
) -> None:
    own_server.freeze()
    # An insert is one statement and its own commit: the server may do it when it goes on.
    error = OutcomeUnknownError if call is CALLS["insert"] else UnreachableError
    with within(BOUND), pytest.raises(error, match=r"no answer for 2 s|timed out"):
        call(own)
    with within(BOUND), pytest.raises(UnreachableError, match="cannot be reached"):
        call(own)  # on a connection that cannot be made
    own_server.thaw()
    call(own)
    insert(own)
    assert own.jobs()


@pytest.mark.slow
def test_transaction_whose_server_freezes_at_the_commit_has_an_unknown_outcome(
    own_server: SQLServer, own: Database
) -> None:
    with within(BOUND), pytest.raises(OutcomeUnknownError, match="lost at the commit"), own.transaction():
        own_server.freeze()
    own_server.thaw()
    insert(own)


@pytest.mark.slow
def test_insert_on_a_callers_connection_to_a_read_only_server_leaves_the_connection_alone(
    own_server: SQLServer, opened: Opener
) -> None:
    url = own_server.create_database()
    own = opened(url)
    own.upgrade()
    drivers = {"mysql": "mysql+pymysql", "postgresql": "postgresql+psycopg"}
    engine = create_engine(url.replace(own_server.scheme, drivers[own_server.scheme], 1))
    own_server.set_read_only(True)
    with engine.connect() as connection:
        with pytest.raises(UnreachableError, match="takes no writes") as raised:
            own.insert([new_job("f", b"")], connection=connection)
        assert (raised.value.read_only, raised.value.transient) == (True, False)
        connection.rollback()
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    of_engine = opened(engine)
    with pytest.raises(UnreachableError, match="takes no writes"):
        insert(of_engine)
    own_server.set_read_only(False)
    insert(of_engine)
    assert len(of_engine.jobs()) == 1
    engine.dispose()


@pytest.mark.slow
def test_a_read_only_server_is_read_and_its_refusals_say_that_it_takes_no_writes(
    own_server: SQLServer, own: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(events, "_listeners", [lambda name, _: seen.append(name)])
    monkeypatch.setattr(write_access, "_CHECK_INTERVAL", 0.05)
    own_server.set_read_only(True)
    assert len(own.jobs()) == 1  # a new connection is no better, and is used as it is
    # A former primary lacks the newest jobs: that it does not find one means nothing.
    unknown = Setback(handle=Handle(99, own.dbid, 1), kind="failed")
    for call in (insert, lambda it: it.complete([1]), lambda it: it.settle([unknown])):
        with pytest.raises(UnreachableError, match="takes no writes: it is read-only") as raised:
            call(own)
        assert raised.value.read_only
    assert len(own.jobs()) == 1
    assert seen == ["database.read_only"]
    own_server.set_read_only(False)
    insert(own)  # without a call that closes connections
    assert seen == ["database.read_only", "database.writable"]
