"""What is SQLite's alone: query plans, the cost of a pass, processes that share a file."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from garivini.databases import DatabaseSettings
from garivini.model.job import Job
from garivini.model.job_query import JobQuery
from garivini.model.limits import MAX_JOBID
from garivini.model.new_jobs import new_job
from garivini.model.state import State
from garivini.store.database import Database, Lane
from garivini.store.dialects.file_systems import network_file_system
from garivini.store.sql_files import load
from tests.databases import sqlite_url

STATEMENTS: Final = load("sqlite", "?")
LANE = {"funcname": "f0", "priority": 1, "limit": 50, "small": 4096}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database(DatabaseSettings(1, url))
    yield database
    database.close()


@pytest.fixture
def connection(tmp_path: Path, database: Database) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as connection:
        yield connection


def fill(connection: sqlite3.Connection, rows: int) -> None:
    """Fill the table: two functions, due and later, half of them with a key, some leased and some dead."""
    connection.execute(
        """
        WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?)
        INSERT INTO job (funcname, uniqkey, run_after, arg, state, priority)
        SELECT 'f' || (n % 2), CASE WHEN n / 2 % 2 THEN n END, n + n % 4 * 1000000000, x'00',
               n / 4 % 5, 1
          FROM n
        """,
        (rows,),
    )


def plan(connection: sqlite3.Connection, name: str, **values: Any) -> list[str]:
    text, bound = STATEMENTS[name].templates[0].bind(values)
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", bound)]


# ---- plans


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """A connection to a database with 10,000 jobs, for tests that change nothing."""
    directory = tmp_path_factory.mktemp("filled")
    sqlite_url(directory)
    with closing(sqlite3.connect(directory / "jobs.db", isolation_level=None)) as connection:
        fill(connection, 10_000)
        yield connection


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("due", LANE),
        ("expired", LANE | {"state": 1}),
        ("dispatched", LANE | {"age": 1, "since": 0, "after": 0}),
    ],
)
def test_claim_reads_the_head_of_a_lane_off_the_lane_index_without_a_sort(
    filled: sqlite3.Connection, name: str, values: dict[str, Any]
) -> None:
    steps = plan(filled, name, **values)
    assert len(steps) == 1
    assert "SEARCH job USING INDEX job_lane (funcname=? AND state=? AND priority=? AND run_after" in steps[0]


@pytest.mark.parametrize("analysed", [False, True])
def test_lanes_are_found_by_dives_and_never_by_reading_the_table(
    filled: sqlite3.Connection, analysed: bool
) -> None:
    filled.execute("BEGIN")
    if analysed:
        filled.execute("ANALYZE")
    steps = plan(filled, "lanes")
    filled.execute("ROLLBACK")
    of_jobs = [step for step in steps if " job" in step]
    assert of_jobs
    assert all("USING COVERING INDEX job_lane" in step for step in of_jobs)
    assert [step for step in of_jobs if step.startswith("SCAN")] == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("claim", {"jobids": [1, 2, 3], "now": 1, "lease_end": 60}),
        ("release", {"jobid": 1, "attempt": 1, "run_after": 1}),
        ("give_back", {"jobids": [1, 2, 3], "attempt": 1}),
        ("mark_leased", {"jobids": [1, 2, 3], "attempt": 1}),
        ("reclaim", {"jobid": 1, "attempt": 1, "state": 1, "lease": 60, "crashed": False}),
        (
            "extend",
            {"jobid": 1, "attempt": 1, "state": 1, "new_state": 1, "seconds": 1, "queued": False},
        ),
        ("end_early", {"jobids": [1, 2, 3], "attempt": 1, "lease": 60}),
        ("renew", {"jobids": [1, 2, 3], "attempt": 1, "lease": 60}),
        ("mine", {"jobids": [1, 2, 3], "attempt": 1}),
        ("get", {"jobid": 1}),
        ("put_back", {"jobid": 1, "attempt": 1, "state": 1, "failcount": 1, "delay": 1}),
        ("put_at", {"jobid": 1, "attempt": 1, "state": 1, "failcount": 1, "run_after": 1}),
        ("retry", {"jobids": [1]}),
        ("crash", {"jobid": 1, "attempt": 1}),
    ],
)
def test_jobs_are_found_by_their_ids(filled: sqlite3.Connection, name: str, values: dict[str, Any]) -> None:
    assert plan(filled, name, **values) == ["SEARCH job USING INTEGER PRIMARY KEY (rowid=?)"]


def test_jobs_without_a_gap_between_their_ids_are_found_by_the_ends(filled: sqlite3.Connection) -> None:
    steps = plan(filled, "complete_range", first=1, last=9)
    assert steps == ["SEARCH job USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"]


@pytest.mark.parametrize("name", ["standing", "complete"])
def test_statements_of_a_second_table_find_its_jobs_by_ids(filled: sqlite3.Connection, name: str) -> None:
    steps = plan(filled, name, jobids=[1, 2])
    assert "SEARCH job USING INTEGER PRIMARY KEY (rowid=?)" in steps
    assert [step for step in steps if "SCAN" in step] == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("recorded", {"jobid": 1, "attempt": 1}),
        ("failures", {"jobid": 1}),
        ("forget_failures", {"jobids": [1, 2]}),
    ],
)
def test_failures_are_found_by_their_key_without_a_sort(
    filled: sqlite3.Connection, name: str, values: dict[str, Any]
) -> None:
    (step,) = plan(filled, name, **values)
    assert step.startswith("SEARCH failure USING PRIMARY KEY (jobid=?")


def test_insert_finds_the_live_job_of_a_key_by_the_key(filled: sqlite3.Connection) -> None:
    (step,) = plan(filled, "live", funcname="f1", uniqkey="1")
    assert step == "SEARCH job USING COVERING INDEX job_uniqkey (funcname=? AND uniqkey=?)"


def test_match_reads_a_page_in_the_order_of_ids_without_a_sort(filled: sqlite3.Connection) -> None:
    query = JobQuery(funcname="f", error="E", error_text="m", arg_text="a")
    steps = plan(filled, "match", **query.values(), after=0, until=MAX_JOBID, limit=10)
    assert steps[0] == "SEARCH job USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"
    assert [step for step in steps if step.startswith(("SCAN", "USE TEMP"))] == []


def test_the_checks_of_plans_can_fail(connection: sqlite3.Connection) -> None:
    fill(connection, 100)
    connection.execute("DROP INDEX job_lane")
    with pytest.raises(sqlite3.OperationalError, match="no such index: job_lane"):
        plan(connection, "due", **LANE)
    rows = connection.execute("EXPLAIN QUERY PLAN SELECT * FROM job WHERE run_after < 5 ORDER BY run_after")
    assert [row[3] for row in rows] == ["SCAN job", "USE TEMP B-TREE FOR ORDER BY"]


# ---- cost


def steps_of(connection: sqlite3.Connection, name: str, **values: Any) -> int:
    """Count the instructions of SQLite's machine that a statement takes."""
    text, bound = STATEMENTS[name].templates[0].bind(values)
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    connection.set_progress_handler(step, 1)
    connection.execute(text, bound).fetchall()
    connection.set_progress_handler(None, 1)
    return count


def cost_of_a_pass(directory: Path, rows: int) -> int:
    """Lanes, the head of one, and its claim."""
    sqlite_url(directory, f"{rows}.db")
    with closing(sqlite3.connect(directory / f"{rows}.db", isolation_level=None)) as connection:
        fill(connection, rows)
        heads = connection.execute(*STATEMENTS["due"].templates[0].bind(LANE)).fetchall()
        assert len(heads) == 50
        return (
            steps_of(connection, "lanes")
            + steps_of(connection, "due", **LANE)
            + steps_of(connection, "expired", state=1, **LANE)
            + steps_of(connection, "claim", jobids=sorted(head[0] for head in heads), now=1, lease_end=60)
        )


def test_the_cost_of_a_pass_does_not_grow_with_the_backlog(tmp_path: Path) -> None:
    small, large = cost_of_a_pass(tmp_path, 2_000), cost_of_a_pass(tmp_path, 20_000)
    assert small > 1000
    assert large < 1.1 * small


def test_what_is_parked_costs_a_pass_nothing(connection: sqlite3.Connection, database: Database) -> None:
    database.insert([new_job("f", b"")])
    bare = steps_of(connection, "lanes") + steps_of(connection, "due", **LANE | {"funcname": "f"})
    database.insert([new_job("f", b"") for _ in range(2000)])
    connection.execute("UPDATE job SET run_after = 2147483647 WHERE jobid > 1")
    full = steps_of(connection, "lanes") + steps_of(connection, "due", **LANE | {"funcname": "f"})
    assert full < 1.1 * bare


# ---- other writers of text


def test_text_that_is_no_utf_8_neither_stops_the_lane_nor_is_changed(
    connection: sqlite3.Connection, database: Database
) -> None:
    connection.execute("INSERT INTO job (funcname, run_after, arg) VALUES ('f', 0, CAST(x'ff00fe' AS TEXT))")
    database.insert([new_job("f", b"after")])
    (jobid, _) = (found.jobid for found in database.jobs())
    lane = Lane("f", State.WAITING, "normal", 0)
    claimed = database.claim(lane, limit=10, lease=60)
    assert [taken.arg for taken in claimed] == [b"\xff\0\xfe", b"after"]
    found = database.get(jobid)
    assert isinstance(found, Job)
    assert found.arg == b"\xff\0\xfe"


# ---- settings of the file and its connections


def test_a_commit_is_on_the_disk_when_it_returns(tmp_path: Path, database: Database) -> None:
    database.upgrade()
    with database.connections.connection() as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_two_upgrades_of_a_new_file_at_once_make_one_schema(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    databases = [Database(DatabaseSettings(1, url)) for _ in range(2)]
    start = threading.Barrier(2)

    def upgrade(database: Database) -> None:
        start.wait()
        database.upgrade()
        database.insert([new_job("f", b"")])

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(upgrade, databases))
    assert len(databases[0].jobs()) == 2
    for database in databases:
        database.close()


# ---- processes


def test_after_a_fork_neither_parent_nor_child_loses_a_commit(database: Database, url: str) -> None:
    def insert(arg: bytes) -> None:
        database.insert([new_job("f", arg)])

    insert(b"before")
    child_is_ready, tell_parent = os.pipe()
    parent_is_ready, tell_child = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            insert(b"child")
            os.write(tell_parent, b".")
            os.read(parent_is_ready, 1)
            insert(b"child, after the parent has closed")
        finally:
            os._exit(0)
    os.read(child_is_ready, 1)
    insert(b"parent")
    database.close()
    os.write(tell_child, b".")
    os.waitpid(pid, 0)
    for descriptor in (child_is_ready, tell_parent, parent_is_ready, tell_child):
        os.close(descriptor)
    again = Database(DatabaseSettings(1, url))
    assert [found.arg for found in again.jobs()] == [
        b"before",
        b"child",
        b"parent",
        b"child, after the parent has closed",
    ]
    again.close()


def test_insert_of_many_returns_their_ids_in_a_callers_transaction_with_a_trigger(
    database: Database, connection: sqlite3.Connection
) -> None:
    connection.execute("CREATE TABLE audit (id INTEGER PRIMARY KEY, jobid INTEGER)")
    connection.execute(
        "CREATE TRIGGER audited AFTER INSERT ON job BEGIN INSERT INTO audit (jobid) VALUES (new.jobid); END"
    )
    connection.execute("INSERT INTO audit (id) VALUES (1000)")
    connection.execute("BEGIN")
    joined = database.insert([new_job("f", b"%d" % number) for number in range(50)], connection=connection)
    connection.execute("COMMIT")
    answers = joined + database.insert([new_job("f", b"%d" % number) for number in range(50, 100)])
    stored = dict(connection.execute("SELECT CAST(arg AS INTEGER), jobid FROM job"))
    assert [answer.jobid for answer in answers] == [stored[number] for number in range(100)]


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("nfs4", "nfs4"),
        ("cifs", "cifs"),
        ("fuse.glusterfs", "fuse.glusterfs"),
        ("ext4", None),
        ("fuse.x", None),
    ],
)
def test_network_file_system_returns_the_type_of_the_mount_that_a_file_is_on(
    tmp_path: Path, kind: str, found: str | None
) -> None:
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "1 0 0:99999 / /other rw shared:1 - nfs host:/ rw\n"
        f"2 1 {os.major(device)}:{os.minor(device)} /a /a\\040b rw,noatime shared:2 master:1 - {kind} x rw\n"
    )
    assert network_file_system(tmp_path / "jobs.db", mounts) == found


def test_network_file_system_returns_none_if_nothing_lists_the_mounts(tmp_path: Path) -> None:
    assert network_file_system(tmp_path / "jobs.db", tmp_path / "mounts") is None
