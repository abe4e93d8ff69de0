"""Which index each statement uses on a million rows of which the server has no statistics."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

import pymysql
import pytest

from garivini.databases import DatabaseSettings
from garivini.model.job_query import JobQuery
from garivini.model.limits import MAX_JOBID
from garivini.model.state import State
from garivini.store.database import Database, Lane
from garivini.store.sql_files import SqlTemplate, load
from tests.databases import mysql_plan, numbers
from tests.sql_servers import MariaDBOrMySQL

pytestmark = [pytest.mark.servers, pytest.mark.slow]

#: Rows of the table; a plan depends on what the server believes, the time on how many there are.
ROWS: Final = [100_000, pytest.param(1_000_000, marks=pytest.mark.soak)]
LANE: Final = {"funcname": "f0", "priority": 1, "limit": 1000, "small": 4096}
JOBIDS: Final = list(range(1, 2001, 2))

#: Ten functions; of each, waiting ones (due and later), leased, running and dead ones; half with a key.
FILL: Final = """
INSERT INTO job (funcname, uniqkey, run_after, arg, state, priority)
SELECT CONCAT('f', seq % 10), IF(seq % 20 < 10, seq, NULL), seq + (seq DIV 10 % 4) * 1000000000,
       REPEAT('x', 60), ELT(1 + seq DIV 40 % 4, 0, 1, 2, 4), 1
  FROM {}
"""

REPORTS: Final = f"INSERT INTO report SELECT seq, 1, 0, 'data', 0, '' FROM {numbers(20_000)}"
#: Half of them have expired.
FINISHED: Final = f"""
INSERT INTO finished SELECT seq, 'f', NULL, 1, 0, 0, 0, seq % 2 * 4000000000, '', '', NULL
  FROM {numbers(20_000)}
"""
#: The tables have no rows of functions that other tests use.
SIDE_ROWS: Final = (
    f"INSERT INTO turn SELECT seq, 'turns', 1, seq, 0 FROM {numbers(20_000)}",
    f"INSERT INTO turn_partition SELECT 'turns', 1, seq FROM {numbers(20_000)}",
    f"""
    INSERT INTO outbox (target, id, funcname, uniqkey, arg, flag, priority, run_after)
    SELECT 1 + seq % 2, LPAD(seq, 32, '0'), 'f', '', '', 'shim', 1, 0 FROM {numbers(20_000)}
    """,
)
TABLES: Final = "('job', 'report', 'finished', 'turn', 'turn_partition', 'outbox')"


@pytest.fixture(scope="module", params=ROWS)
def filled(request: pytest.FixtureRequest) -> Iterator[tuple[Database, Any]]:
    """A database with the rows, and a connection of ours to it, for tests that change nothing."""
    settings = [
        "innodb-buffer-pool-size=512M",
        "loose-innodb-log-file-size=512M",
        "innodb-stats-auto-recalc=OFF",
    ]
    with MariaDBOrMySQL(*settings) as server, server.database() as url:
        database = Database(DatabaseSettings(1, url))
        database.upgrade()
        name = url.rpartition("/")[2]
        filling = pymysql.connect(
            host=server.host,
            port=server.port,
            user="root",
            password=server.password,
            database=name,
            autocommit=True,
        )
        with closing(filling), filling.cursor() as cursor:
            cursor.execute(FILL.format(numbers(request.param)))
            cursor.execute(REPORTS)
            cursor.execute(FINISHED)
            for text in SIDE_ROWS:
                cursor.execute(text)
            # As if the table had been filled since the server looked at it last.
            cursor.execute(f"UPDATE mysql.innodb_table_stats SET n_rows = 0 WHERE table_name IN {TABLES}")
            cursor.execute(f"UPDATE mysql.innodb_index_stats SET stat_value = 1 WHERE table_name IN {TABLES}")
            cursor.execute("FLUSH TABLES")
        with database.connections.connection() as connection:
            yield database, connection
        database.close()


def rows_of(connection: Any, text: str, values: Any = None) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(text, values)
        return list(cursor.fetchall())


def plan(
    connection: Any, template: SqlTemplate, rows: Any = (), **values: Any
) -> list[tuple[str, str, str, str]]:
    """Return table, access, key and the rest of each step of a statement's plan."""
    text, bound = template.bind(values, rows)
    return [row for row in mysql_plan(connection, text, bound) if row[0] and "<" not in row[0]]


def templates(name: str) -> tuple[SqlTemplate, ...]:
    return load("mysql", "%s")[name].templates


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("due", LANE),
        ("expired", LANE | {"state": 1}),
        ("expired", LANE | {"state": 2}),
        ("dispatched", LANE | {"age": 1, "since": 0, "after": 0}),
        ("bundle_page", LANE | {"skip": 0}),
    ],
)
def test_claim_reads_the_head_of_a_lane_off_the_lane_index_without_a_sort(
    filled: tuple[Database, Any], name: str, values: dict[str, Any]
) -> None:
    ((table, access, key, extra),) = plan(filled[1], templates(name)[0], **values)
    assert (table, access, key) == ("job", "range", "job_lane")
    assert "filesort" not in extra
    assert "temporary" not in extra


def test_lanes_take_a_place_by_a_dive_into_the_lane_index(filled: tuple[Database, Any]) -> None:
    places = [
        {"funcname": name, "state": state, "priority": 1, "run_after": 2**32}
        for name in ("", "f3", "f9")
        for state in (-1, 0, 4)
    ]
    found = plan(filled[1], templates("lanes")[0], places)
    assert len(found) == 9
    for table, access, key, extra in found:
        assert (table, access, key) == ("job", "range", "job_lane")
        assert "Using index" in extra
        assert "filesort" not in extra


def test_counts_read_the_lane_index_alone(filled: tuple[Database, Any]) -> None:
    ((_, access, key, extra),) = plan(filled[1], templates("counts")[0])
    assert (access, key) == ("index", "job_lane")
    assert extra == "Using index"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("claim", {"jobids": JOBIDS, "now": 1, "lease_end": 60}),
        ("mark_bundle", {"jobids": JOBIDS, "call": "1:1"}),
        ("release", {"jobid": 1, "attempt": 1, "run_after": 1}),
        ("give_back", {"jobids": JOBIDS, "attempt": 1}),
        ("mark_leased", {"jobids": JOBIDS, "attempt": 1}),
        ("reclaim", {"jobid": 1, "attempt": 1, "state": 1, "lease": 60, "crashed": False}),
        ("extend", {"jobid": 1, "attempt": 1, "state": 1, "new_state": 1, "seconds": 1, "queued": False}),
        ("end_early", {"jobids": JOBIDS, "attempt": 1, "lease": 60}),
        ("renew", {"jobids": JOBIDS, "attempt": 1, "lease": 60}),
        ("mine", {"jobids": JOBIDS, "attempt": 1}),
        ("complete", {"jobids": JOBIDS}),
        ("complete_one", {"jobid": 1}),
        ("complete_range", {"first": min(JOBIDS), "last": max(JOBIDS)}),
        ("held", {"jobids": JOBIDS, "attempt": 1}),
        ("keep", {"jobid": 1, "attempt": 1, "worker": "", "result": b"", "retention": 1, "ran": 0.5}),
        ("standing", {"jobids": [1]}),
        ("lockable", {"jobids": JOBIDS}),
        ("known", {"jobids": JOBIDS}),
        ("dead", {"jobids": JOBIDS}),
        ("funcnames", {"jobids": JOBIDS}),
        ("adoptable", {"jobids": JOBIDS}),
        ("adopt", {"jobids": JOBIDS, "lease": 60}),
        ("get", {"jobid": 1}),
        ("put_back", {"jobid": 1, "attempt": 1, "state": 1, "failcount": 1, "delay": 1}),
        ("put_at", {"jobid": 1, "attempt": 1, "state": 1, "failcount": 1, "run_after": 1}),
        ("retry", {"jobids": JOBIDS}),
        ("jobs", {"jobids": JOBIDS}),
        ("lock_states", {"jobids": JOBIDS}),
        ("record_ends", {"jobids": JOBIDS, "kind": "cancelled", "message": ""}),
        ("put_all_back", {"jobids": JOBIDS, "delay": 1}),
        ("put_all_at", {"jobids": JOBIDS, "run_after": 1}),
        ("set_priority", {"jobids": JOBIDS, "priority": 0}),
        ("crash", {"jobid": 1, "attempt": 1}),
    ],
)
def test_jobs_are_found_by_their_ids(filled: tuple[Database, Any], name: str, values: dict[str, Any]) -> None:
    for template in templates(name):
        for table, access, key, extra in plan(filled[1], template, **values):
            if table == "job":
                assert (access, key) in (("range", "PRIMARY"), ("const", "PRIMARY"))
            assert "filesort" not in extra


def test_the_live_job_of_a_key_and_a_page_of_jobs_are_found_by_their_keys(
    filled: tuple[Database, Any],
) -> None:
    ((_, access, key, extra),) = plan(filled[1], templates("live")[0], funcname="f1", uniqkey="1")
    assert (access, key, extra) == ("const", "job_uniqkey", "Using index")
    page = {**JobQuery(funcname="f1", error="E").values(), "after": 0, "until": MAX_JOBID, "limit": 1000}
    (job, *records) = plan(filled[1], templates("match")[0], **page)
    assert job[:3] == ("job", "range", "PRIMARY")
    assert "filesort" not in job[3]
    assert {(access, key) for _, access, key, _ in records} == {("ref", "PRIMARY")}


def test_reports_are_found_by_their_job(filled: tuple[Database, Any]) -> None:
    _, connection = filled
    with_records = plan(connection, templates("with_records")[0], jobids=JOBIDS)
    assert [(table, key) for table, _, key, _ in with_records] == [
        ("failure", "PRIMARY"),
        ("report", "PRIMARY"),
        ("successor", "PRIMARY"),
        ("batch_member", "PRIMARY"),
    ]
    assert with_records[1][1] == "range"  # the other table is empty: a list of ids is more than its index
    any_records = plan(connection, templates("any_records")[0], first=JOBIDS[0], last=JOBIDS[-1])
    assert {(access, key) for table, access, key, _ in any_records if table} == {("range", "PRIMARY")}
    for name, values in (
        ("forget_reports", {"jobids": JOBIDS}),
        ("forget_finished", {"jobids": JOBIDS}),
        ("records", {"jobids": JOBIDS}),
        ("lockable_records", {"jobids": JOBIDS}),
        ("reports", {"jobid": 5}),
        ("failed", {"after": 5, "limit": 1000}),
        ("failure_texts", {"after": 5, "size": 500, "limit": 1000}),
        ("kept_funcnames", {"jobids": JOBIDS}),
        ("kept_jobs", {"after": 5, "limit": 1000}),
        ("dead", {"jobids": JOBIDS}),  # the last step is that of the records
    ):
        (_, access, key, extra) = plan(connection, templates(name)[0], **values)[-1]
        assert key == "PRIMARY"
        assert access in ("range", "ref", "eq_ref")
        assert "filesort" not in extra
    line = {"jobid": 5, "attempt": 1, "kind": "data", "body": b"", "limit": 1000}
    text, bound = templates("add_line")[0].bind(line)
    # The last number of an attempt is the end of its range in the key.
    assert any("optimized away" in extra for *_, extra in mysql_plan(connection, text, bound))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("recorded", {"jobid": 5, "attempt": 1}),
        ("failures", {"jobid": 5}),
        ("omit_failures", {"jobid": 5, "after": 1, "before": 3}),
        ("forget_turns", {"jobids": JOBIDS}),
        ("forget_turn_partitions", {"funcname": "turns", "priority": 1, "partitions": ["1", "2", "3"]}),
        ("outbox_sizes", {"target": 1, "id": f"{9000:032}", "limit": 200}),
        ("outbox", {"target": 1, "ids": [f"{number:032}" for number in range(1, 400, 2)]}),
        ("leave_outbox", {"target": 1, "ids": [f"{number:032}" for number in range(1, 400, 2)]}),
        ("retarget", {"target": 1, "ids": [f"{number:032}" for number in range(1, 400, 2)], "home": 3}),
    ],
)
def test_side_tables_are_read_by_their_keys(
    filled: tuple[Database, Any], name: str, values: dict[str, Any]
) -> None:
    (_, access, key, extra) = plan(filled[1], templates(name)[0], **values)[-1]
    assert key == "PRIMARY"
    assert access in ("range", "ref", "eq_ref")
    assert "filesort" not in extra


@pytest.mark.parametrize("name", ["complete", "complete_range"])
def test_complete_touches_no_more_reports_than_it_has_jobs(filled: tuple[Database, Any], name: str) -> None:
    _, connection = filled
    jobids = list(range(10_001, 11_001))
    values = {"jobids": jobids, "first": jobids[0], "last": jobids[-1]}
    with connection.cursor() as cursor:
        for _ in range(2):  # the first time it also reads statistics of the tables
            cursor.execute("BEGIN")
            before = reads(connection)
            for template in templates(name) + templates("any_records") + templates("with_records"):
                cursor.execute(*template.bind(values))
            touched = reads(connection) - before
            cursor.execute("ROLLBACK")
    # Per job: its row, a dive into each table of records, its report, and a row of the union. Once: the dives
    # of any_records, the one to the first job, and the end of the union.
    assert 1000 <= touched <= 5 * 1000 + 4


def test_what_has_been_kept_for_long_enough_is_found_by_its_time(filled: tuple[Database, Any]) -> None:
    ((_, access, key, extra),) = plan(filled[1], templates("outlived")[0], limit=100)
    assert (access, key) == ("range", "finished_expires")
    assert "filesort" not in extra


def reads(connection: Any) -> int:
    """Return how many rows and index entries this connection has touched so far."""
    return sum(int(value) for _, value in rows_of(connection, "SHOW SESSION STATUS LIKE 'Handler_read%'"))


def test_a_pass_touches_no_more_than_it_takes(filled: tuple[Database, Any]) -> None:
    database, _ = filled
    database.clock()  # has a connection ready, which is then the one that all these calls get

    def touched() -> int:
        with database.connections.connection() as connection:
            return reads(connection)

    before = touched()
    assert len(database.lanes().lanes) == 30
    assert 30 <= touched() - before < 30 * 10
    before = touched()
    assert len(database.claim(Lane("f0", State.WAITING, "normal", 0), limit=50, lease=60)) == 50
    assert 50 <= touched() - before < 50 * 8
    before = touched()
    assert len(database.expired(Lane("f0", State.LEASED, "normal", 0), limit=50)) == 50
    assert 50 <= touched() - before < 50 * 3


def test_admit_counts_no_more_jobs_in_flight_than_the_limit(filled: tuple[Database, Any]) -> None:
    _, connection = filled
    values = {"funcname": "f0", "limit": 50}
    ((table, access, key, _),) = plan(connection, templates("in_flight")[0], **values)
    assert (table, access, key) == ("job", "range", "job_lane")
    before = reads(connection)
    ((count,),) = rows_of(connection, *templates("in_flight")[0].bind(values, ()))
    assert count == 50
    assert 50 <= reads(connection) - before < 50 * 4


def test_the_checks_of_plans_can_fail(filled: tuple[Database, Any]) -> None:
    (template,) = templates("due")
    text = template.parts[0].replace("FORCE INDEX (job_lane)", "IGNORE INDEX (job_lane)")
    ((_, _, key, extra),) = plan(filled[1], SqlTemplate((text, "", ""), "%s"), **LANE)
    assert key != "job_lane"
    assert "filesort" in extra
