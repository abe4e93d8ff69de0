"""PostgreSQL's plans: each statement of a pass enters by its index, whatever the planner believes."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

import psycopg
import pytest

from garivini.databases import DatabaseSettings
from garivini.model.job_query import JobQuery
from garivini.model.limits import MAX_JOBID
from garivini.model.state import State
from garivini.store.database import Database
from garivini.store.dialects.postgresql import PostgreSQL as Dialect
from garivini.store.sql_files import load
from tests.sql_servers import PostgreSQL

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(300)]

STATEMENTS: Final = load("postgresql", Dialect.placeholder, Dialect.array)
LANE: Final = {"funcname": "f0", "priority": 1, "limit": 1000, "small": 4096}
IDS: Final = list(range(1, 1001))

#: Two functions, due and later, half of them with a key, in every state.
FILL: Final = """
    INSERT INTO job (funcname, uniqkey, run_after, arg, state, priority)
    SELECT 'f' || (n % 2), CASE WHEN n / 2 % 2 = 1 THEN n END, n + (n % 4) * 1000000000::bigint, '',
           n / 4 % 5, 1
      FROM generate_series(1, {}) AS n
"""

#: Half of them have expired.
FINISHED: Final = """
    INSERT INTO finished
    SELECT n, 'f', NULL, 1, 0, 0, 0, n % 2 * 4000000000::bigint, '', '' FROM generate_series(1, 20000) AS n
"""


#: What the planner believes, and how many rows there are.
TABLES: Final = [
    # Of fewer it would read a part of the lane index for 1,000 ids.
    ("no statistics", 1_000_000),
    ("statistics of few rows", 300_000),
    ("statistics of other rows", 300_000),
    pytest.param(("statistics of few rows", 1_000_000), marks=pytest.mark.soak),
    pytest.param(("statistics of other rows", 1_000_000), marks=pytest.mark.soak),
]


@pytest.fixture(scope="module", params=TABLES, ids=lambda table: f"{table[0]}, {table[1]} rows")
def url(request: pytest.FixtureRequest, postgresql: PostgreSQL) -> Iterator[str]:
    """A database with very many jobs."""
    statistics, rows = request.param
    with postgresql.database() as url:
        database = Database(DatabaseSettings(1, url))
        database.upgrade()
        database.check()
        database.close()
        name = url.rpartition("/")[2]

        def execute(sql: str) -> None:
            postgresql.execute(sql, name)

        for table in ("job", "failure", "function", "report", "finished"):
            execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        if statistics == "statistics of few rows":
            execute(FILL.format(100))
            execute("ANALYZE")
            execute("DELETE FROM job")
        elif statistics == "statistics of other rows":
            # As if the lane that is full now had held a thousandth of the rows.
            execute(
                "INSERT INTO job (funcname, run_after) SELECT 'g', n FROM generate_series(1, 200000) AS n"
            )
            execute("INSERT INTO job (funcname, run_after) SELECT 'f0', n FROM generate_series(1, 500) AS n")
            execute("ANALYZE")
            execute("DELETE FROM job")
        execute(FILL.format(rows))
        yield url


@pytest.fixture(params=["force_custom_plan", "force_generic_plan"])
def connection(url: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A connection as ours, in a transaction that is taken back; with both plans of a prepared statement."""
    database = Database(DatabaseSettings(1, url))
    with database.connections.connection() as connection:
        # Counting a million rows may take longer than an answer of a live server: plans are the subject here.
        connection.read_timeout = None
        connection.execute("BEGIN")
        connection.execute(f"SET LOCAL plan_cache_mode = {request.param}")
        yield connection
        connection.execute("ROLLBACK")
    database.close()


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def analysed(connection: Any, name: str, **values: Any) -> list[dict[str, Any]]:
    """Run a statement; return the steps of its plan that touch a table, with what they did."""
    text, bound = STATEMENTS[name].templates[-1].bind(values)
    for number in range(len(bound)):
        text = text.replace("%s", f"${number + 1}", 1)
    connection.execute(f"PREPARE examined AS {text}".encode())
    call = f"EXECUTE examined ({', '.join(['%s'] * len(bound))})" if bound else "EXECUTE examined"
    client = psycopg.ClientCursor(connection)
    ((plan,),) = client.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {call}", bound or None).fetchall()
    connection.execute("DEALLOCATE examined")
    every = list(nodes(plan[0]["Plan"]))
    return [node for node in every if "Scan" in node["Node Type"] and "Relation Name" in node]


def read(steps: list[dict[str, Any]]) -> float:
    """Rows that the steps looked at."""
    return float(
        sum(
            (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
            for node in steps
        )
    )


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("due", LANE),
        ("expired", LANE | {"state": 1}),
        ("dispatched", LANE | {"age": 1, "since": -1, "after": 0}),
        ("bundle_page", LANE | {"skip": 0}),
    ],
)
def test_claim_reads_the_head_of_a_lane_off_the_lane_index(
    connection: Any, name: str, values: dict[str, Any]
) -> None:
    (step,) = analysed(connection, name, **values)
    assert (step["Node Type"], step["Index Name"]) == ("Index Scan", "job_lane")
    assert "run_after" in step["Index Cond"]
    assert step["Actual Rows"] == 1000
    assert read([step]) == 1000


def test_claim_leaves_a_lane_with_nothing_due_at_once(connection: Any) -> None:
    connection.execute("UPDATE job SET run_after = 4000000000 WHERE jobid <= 1000")
    connection.execute(
        "INSERT INTO job (funcname, run_after) SELECT 'later', 4e9 FROM generate_series(1, 2000)"
    )
    assert read(analysed(connection, "due", **LANE | {"funcname": "later"})) == 0
    assert read(analysed(connection, "expired", **LANE | {"funcname": "later", "state": 0})) == 0


@pytest.mark.parametrize("after", [0, 100_000])
def test_a_page_of_turns_is_read_off_the_lane_index(connection: Any, after: int) -> None:
    connection.execute("INSERT INTO turn SELECT n, 'f0', 1, '', n FROM generate_series(4, 20000, 20) AS n")
    place = {"after": after, "after_jobid": after}
    steps = analysed(connection, "lane_page", funcname="f0", priority=1, limit=500, **place)
    found = {(step["Relation Name"], step["Node Type"], step["Index Name"]) for step in steps}
    assert found == {("job", "Index Scan", "job_lane"), ("turn", "Index Scan", "turn_pkey")}
    # A page of each part at most, and the turns of the page.
    assert read(steps) <= 3 * 500


def test_a_page_of_turns_ignores_statistics_of_jobs_that_were_due_together(connection: Any) -> None:
    # As if a large batch had been inserted within one second, and had ended since the last ANALYZE.
    connection.execute(
        "INSERT INTO job (funcname, run_after, priority) SELECT 'past', 5, 1 FROM generate_series(1, 50000)"
    )
    connection.execute("ANALYZE job")
    connection.execute("DELETE FROM job WHERE funcname = 'past'")
    steps = analysed(connection, "lane_page", funcname="past", priority=1, limit=500, after=5, after_jobid=0)
    assert {step["Index Name"] for step in steps if step["Relation Name"] == "job"} == {"job_lane"}
    assert read(steps) == 0


@pytest.mark.parametrize("name", ["in_flight", "in_flight_calls"])
def test_admit_counts_no_more_jobs_in_flight_than_the_limit(connection: Any, name: str) -> None:
    (step,) = analysed(connection, name, funcname="f0", limit=50)
    assert (step["Node Type"], step["Index Name"]) == ("Index Scan", "job_lane")
    assert read([step]) == 50


def test_lanes_are_found_by_dives(connection: Any) -> None:
    steps = analysed(connection, "lanes")
    assert {(step["Node Type"], step["Index Name"]) for step in steps} == {("Index Only Scan", "job_lane")}
    assert read(steps) < 30


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("claim", {"jobids": IDS, "now": 1, "lease_end": 60}),
        ("mark_bundle", {"jobids": IDS, "call": "1:1"}),
        ("renew", {"jobids": IDS, "attempt": 0, "lease": 60}),
        ("mine", {"jobids": IDS, "attempt": 0}),
        ("end_early", {"jobids": IDS, "attempt": 0, "lease": 60}),
        ("give_back", {"jobids": IDS, "attempt": 0}),
        ("mark_leased", {"jobids": IDS, "attempt": 0}),
        ("release", {"jobid": 5, "attempt": 0, "run_after": 1}),
        ("reclaim", {"jobid": 5, "attempt": 0, "state": 1, "lease": 60, "crashed": False}),
        ("extend", {"jobid": 5, "attempt": 0, "state": 1, "new_state": 1, "seconds": 1, "queued": False}),
        ("put_back", {"jobid": 5, "attempt": 0, "state": 1, "failcount": 1, "delay": 1}),
        ("put_at", {"jobid": 5, "attempt": 0, "state": 1, "failcount": 1, "run_after": 1}),
        ("lockable", {"jobids": IDS}),
        ("adoptable", {"jobids": IDS}),
        ("adopt", {"jobids": IDS, "lease": 60}),
        ("crash", {"jobid": 5, "attempt": 0}),
        ("retry", {"jobids": IDS}),
        ("lock_states", {"jobids": IDS}),
        ("put_all_back", {"jobids": IDS, "delay": 1}),
        ("put_all_at", {"jobids": IDS, "run_after": 1}),
        ("set_priority", {"jobids": IDS, "priority": 0}),
        ("get", {"jobid": 5}),
        ("jobs", {"jobids": IDS}),
    ],
)
def test_jobs_are_found_by_their_ids(connection: Any, name: str, values: dict[str, Any]) -> None:
    (step,) = analysed(connection, name, **values)
    assert (step["Node Type"], step["Index Name"]) == ("Index Scan", "job_pkey")
    assert read([step]) <= 1000


def test_insert_finds_the_live_job_of_a_key_by_the_key(connection: Any) -> None:
    (step,) = analysed(connection, "live", funcname="f0", uniqkey="6")
    assert step["Index Name"] == "job_uniqkey"
    assert read([step]) == 1


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("complete", {"jobids": IDS}),
        ("complete_one", {"jobid": 5}),
        ("complete_range", {"first": min(IDS), "last": max(IDS)}),
        ("standing", {"jobids": IDS}),
        ("forget_failures", {"jobids": IDS}),
        ("forget_reports", {"jobids": IDS}),
        ("forget_finished", {"jobids": IDS}),
        ("any_records", {"first": min(IDS), "last": max(IDS)}),
        ("held", {"jobids": IDS, "attempt": 0}),
        ("add_line", {"jobid": 5, "attempt": 1, "kind": "data", "body": b"", "limit": 1000}),
        ("keep", {"jobid": 30_000, "attempt": 1, "worker": "", "result": b"", "retention": 1, "ran": 0.5}),
        ("reports", {"jobid": 5}),
        ("finished", {"jobid": 5}),
        ("failures", {"jobid": 5}),
        ("recorded", {"jobid": 5, "attempt": 1}),
        ("failed", {"after": 5, "limit": 1000}),
        ("failure_texts", {"after": 5, "size": 500, "limit": 1000}),
        ("funcnames", {"jobids": IDS}),
        ("kept_funcnames", {"jobids": IDS}),
        ("kept_jobs", {"after": 5, "limit": 1000}),
        ("dead", {"jobids": IDS}),
        ("record_ends", {"jobids": IDS, "kind": "cancelled", "message": ""}),
        ("match", {**JobQuery(state=State.DEAD).values(), "after": 0, "until": MAX_JOBID, "limit": 1000}),
        ("match", {**JobQuery(error="E").values(), "after": 0, "until": MAX_JOBID, "limit": 100}),
    ],
)
def test_no_second_table_is_read_as_a_whole(connection: Any, name: str, values: dict[str, Any]) -> None:
    connection.execute(
        "INSERT INTO failure SELECT n, 1, 0, 'failed', '', '', '', '' FROM generate_series(1, 20000) AS n"
    )
    connection.execute("INSERT INTO report SELECT n, 1, 0, 'data', 0, '' FROM generate_series(1, 20000) AS n")
    connection.execute(FINISHED)
    steps = analysed(connection, name, **values)
    assert {step["Node Type"] for step in steps} <= {"Index Scan", "Index Only Scan"}
    assert read(steps) <= 3000


def test_what_has_been_kept_for_long_enough_is_found_by_its_time(connection: Any) -> None:
    connection.execute(FINISHED)
    (step,) = analysed(connection, "outlived", limit=100)
    assert (step["Node Type"], step["Index Name"]) == ("Index Scan", "finished_expires")
    assert read([step]) == 100


def test_counts_read_the_lane_index(connection: Any) -> None:
    (step,) = analysed(connection, "counts")
    assert (step["Node Type"], step["Index Name"]) == ("Index Only Scan", "job_lane")


def cost_of_a_claim(database: Database, rows: int) -> int:
    """Pages that a claim of 1,000 reads, of a lane of so many rows."""
    with database.connections.connection() as connection:
        connection.execute("TRUNCATE job")
        connection.execute(
            "INSERT INTO job (funcname, run_after) SELECT 'f', n FROM generate_series(1, %s) n", [rows]
        )
        connection.execute("BEGIN")
        pages = 0
        jobids: list[int] = []
        for name, values in (
            ("due", {"funcname": "f", "priority": 1, "limit": 1000, "small": 4096}),
            ("claim", {"jobids": jobids, "now": 1, "lease_end": 60}),
        ):
            text, bound = STATEMENTS[name].templates[0].bind(values)
            ((plan,),) = connection.execute(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}", bound
            ).fetchall()
            top = plan[0]["Plan"]
            pages += top["Shared Hit Blocks"] + top["Shared Read Blocks"]
            if name == "due":
                jobids += sorted(row[0] for row in connection.execute(text, bound).fetchall())
        connection.execute("ROLLBACK")
    assert len(jobids) == 1000
    return pages


@pytest.mark.parametrize("backlog", [200_000, pytest.param(2_000_000, marks=pytest.mark.soak)])
def test_claim_costs_no_more_with_a_larger_backlog(postgresql: PostgreSQL, backlog: int) -> None:
    with postgresql.database() as url:
        database = Database(DatabaseSettings(1, f"{url}?read_timeout=200"))
        database.upgrade()
        small, large = cost_of_a_claim(database, 20_000), cost_of_a_claim(database, backlog)
        database.close()
    assert small > 1000
    assert large < 1.3 * small


def test_a_plan_that_reads_the_table_would_be_seen(url: str) -> None:
    with closing(psycopg.connect(url)) as connection:
        connection.execute("DROP INDEX job_lane")
        (step,) = analysed(connection, "due", **LANE)
        assert step["Node Type"] != "Index Scan" or step["Index Name"] != "job_lane"
        assert read([step]) > 1000
