"""The page of the contract: its types are those of the tables, its statements do what a client does."""

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import psycopg
import pymysql
import pytest
from sqlalchemy.engine import make_url

from garivini import Client, Job, State
from garivini.model.outcome import Setback
from garivini.store.database import Database
from tests.peers.databases import Place

PAGE: Final = Path(__file__).parents[2] / "docs/reference/contract.md"
#: How the page names the databases.
HEADINGS: Final = {"mariadb": "MariaDB and MySQL", "postgresql": "PostgreSQL", "sqlite": "SQLite"}
NAMES: Final = ["holds", "renew", "complete", "again", "dead", "record", "insert", "retry"]


def statements(kind: str) -> dict[str, list[str]]:
    """Return the statements of a database, each with its name."""
    _, _, rest = PAGE.read_text().partition(f"\n### {HEADINGS[kind]}\n")
    block = re.search(r"^```sql\n(.*?)^```$", rest, flags=re.M | re.S)
    assert block is not None
    found = re.split(r"^-- (\w+).*\n", block[1], flags=re.M)
    assert found.pop(0) == ""
    named = zip(found[::2], found[1::2], strict=True)
    return {name: [part.strip() for part in text.split(";\n") if part.strip()] for name, text in named}


def connect(place: Place) -> Any:
    """Connect as another program would, as the page says."""
    at = make_url(place.url)
    match place.kind:
        case "sqlite":
            connection = sqlite3.connect(at.database or "", isolation_level="IMMEDIATE")
            connection.execute("PRAGMA busy_timeout = 5000")
            return connection
        case "mariadb":
            return pymysql.connect(
                host=at.host or "",
                port=at.port or 0,
                user=at.username,
                password=str(at.password),
                database=at.database,
                charset="utf8mb4",
                init_command="SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            )
        case _:
            return psycopg.connect(place.url)


Run = Callable[..., int]


@pytest.fixture
def run(database: Place) -> Iterator[Run]:
    """Runs named statements of the page as one transaction; returns the rows of the first."""
    found = statements(database.kind)
    with closing(connect(database)) as connection:

        def run(*names: str, **values: Any) -> int:
            counts = []
            with closing(connection.cursor()) as cursor:
                for statement in [each for name in names for each in found[name]]:
                    if database.kind != "sqlite":
                        statement = re.sub(r"(?<!:):(\w+)", r"%(\1)s", statement)
                    cursor.execute(statement, values)
                    rows = len(cursor.fetchall()) if cursor.description else cursor.rowcount
                    counts.append(rows)
            connection.commit()
            return counts[0]

        yield run


def claimed(client: Client, **values: Any) -> Job:
    """Insert a job and take it as a QueueRunner does."""
    (database,) = client.shards
    jobid = client.insert_job("resize", **values).jobid
    (lane,) = [lane for lane in database.lanes().lanes if lane.state is State.WAITING][:1]
    (job,) = database.claim(lane, limit=1, lease=60)
    assert job.jobid == jobid
    return job


def now(client: Client, job: Job) -> Job:
    found = client.get_job(job)
    assert found is not None
    return found


def store(client: Client) -> Database:
    (database,) = client.shards
    return database


RECORD: Final = {"kind": "failed", "error": "E", "message": "Größe", "trace": "t", "worker": "w"}


def test_each_database_has_the_same_statements() -> None:
    plain = {}
    for kind, clock in (
        ("mariadb", "UNIX_TIMESTAMP()"),
        ("postgresql", "floor(extract(epoch FROM clock_timestamp()))::bigint"),
        ("sqlite", "strftime('%s', 'now')"),
    ):
        found = statements(kind)
        assert list(found) == NAMES
        text = ";\n".join(statement for each in found.values() for statement in each)
        assert clock in text
        plain[kind] = text.replace(clock, "NOW").replace("`", '"')
    assert plain["mariadb"] == plain["postgresql"] == plain["sqlite"]


def test_a_renewed_job_is_held_by_its_attempt_alone(client: Client, run: Run) -> None:
    job = claimed(client)
    assert run("holds", jobid=job.jobid, attempt=1) == 1
    for _ in range(2):
        run("renew", jobid=job.jobid, attempt=1, lease=100)
        assert run("holds", jobid=job.jobid, attempt=1) == 1
    assert now(client, job).state is State.RUNNING
    assert 99 <= now(client, job).run_after - store(client).clock() <= 101
    before = now(client, job)
    run("renew", jobid=job.jobid, attempt=2, lease=1000)
    assert run("holds", jobid=job.jobid, attempt=2) == 0
    assert now(client, job) == before


def test_a_completed_job_is_gone_with_its_record(client: Client, run: Run) -> None:
    job = claimed(client)
    assert run("again", "record", jobid=job.jobid, attempt=1, failcount=1, delay=120, **RECORD) == 1
    assert len(client.failures(job)) == 1
    assert run("complete", jobid=job.jobid) == 1
    assert client.get_job(job) is None
    assert client.failures(job) == []
    assert run("complete", jobid=job.jobid) == 0


def test_a_failed_job_stands_as_a_client_leaves_it(client: Client, run: Run) -> None:
    ours, theirs = claimed(client), claimed(client)
    database = store(client)
    setback = Setback(handle=ours.handle, kind="failed", error="E", message="Größe", trace="t", worker="w")
    database.settle([setback])
    delay = now(client, ours).run_after - int(database.clock())
    assert run("again", "record", jobid=theirs.jobid, attempt=1, failcount=1, delay=delay, **RECORD) == 1
    left, right = now(client, ours), now(client, theirs)
    for name in ("state", "failcount", "attempt", "crashes", "arg", "flag", "priority"):
        assert getattr(left, name) == getattr(right, name), name
    assert abs(left.run_after - right.run_after) <= 1
    (one,), (other,) = client.failures(ours), client.failures(theirs)
    for name in ("attempt", "kind", "error", "message", "trace", "worker"):
        assert getattr(one, name) == getattr(other, name), name
    assert abs(one.failed_at - other.failed_at) <= 1


def test_an_attempt_that_is_over_changes_nothing(client: Client, run: Run) -> None:
    job = claimed(client)
    assert run("again", jobid=job.jobid, attempt=1, failcount=0, delay=5) == 1
    assert 3 <= now(client, job).run_after - store(client).clock() <= 6
    before = now(client, job)
    assert run("again", jobid=job.jobid, attempt=1, failcount=7, delay=9) == 0
    assert run("dead", jobid=job.jobid, attempt=1, failcount=7) == 0
    assert run("dead", jobid=job.jobid, attempt=2, failcount=7) == 0
    run("renew", jobid=job.jobid, attempt=1, lease=60)
    assert run("holds", jobid=job.jobid, attempt=1) == 0
    assert now(client, job) == before


def test_again_and_dead_ignore_a_job_that_was_put_off(client: Client, run: Run, database: Place) -> None:
    job = claimed(client)
    with closing(connect(database)) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(f"UPDATE job SET run_after = run_after + 600 WHERE jobid = {job.jobid}")
        connection.commit()
    before = now(client, job)
    assert before.state is State.WAITING
    assert run("again", jobid=job.jobid, attempt=1, failcount=7, delay=9) == 0
    assert run("dead", jobid=job.jobid, attempt=1, failcount=7) == 0
    assert now(client, job) == before


def test_a_dead_job_is_never_claimed(client: Client, run: Run) -> None:
    job = claimed(client)
    assert run("dead", jobid=job.jobid, attempt=1, failcount=25) == 1
    assert (now(client, job).state, now(client, job).run_after) == (State.DEAD, 2147483647)
    assert store(client).lanes().lanes == []
    assert [dead.jobid for dead in client.failed_jobs()] == [job.jobid]
    assert client.retry_job(job)


@pytest.mark.parametrize("attempts", [0, 1])
def test_retry_brings_back_a_job_that_another_program_parked(
    client: Client, run: Run, database: Place, attempts: int
) -> None:
    jobid = claimed(client).jobid if attempts else client.insert_job("resize").jobid
    with closing(connect(database)) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(f"UPDATE job SET run_after = 2147483647, failcount = 3 WHERE jobid = {jobid}")
        connection.commit()
    assert [job.jobid for job in client.list_jobs(state="dead")] == [jobid]
    assert run("retry", jobid=jobid) == 1
    (job,) = client.list_jobs(state="waiting")
    assert (job.failcount, job.attempt) == (0, attempts)
    assert abs(job.run_after - store(client).clock()) < 5
    (lane,) = store(client).lanes().lanes
    (again,) = store(client).claim(lane, limit=1, lease=60)
    assert (again.jobid, again.attempt) == (jobid, attempts + 1)


def test_retry_brings_back_a_dead_job_and_leaves_a_leased_one(client: Client, run: Run) -> None:
    dead, leased = claimed(client), claimed(client)
    assert run("dead", jobid=dead.jobid, attempt=1, failcount=25) == 1
    before = now(client, leased)
    assert run("retry", jobid=leased.jobid) == 0
    assert now(client, leased) == before
    assert run("retry", jobid=dead.jobid) == 1
    assert (now(client, dead).state, now(client, dead).failcount) == (State.WAITING, 0)


def test_an_inserted_row_is_a_job_like_any_other(client: Client, run: Run) -> None:
    values = {"funcname": "resize", "coalesce": "c", "arg": bytes(range(256)), "delay": 0}
    assert run("insert", uniqkey="Größe", **values) == 1
    (job,) = client.list_jobs()
    assert (job.funcname, job.uniqkey, job.coalesce, job.arg) == ("resize", "Größe", "c", values["arg"])
    assert (job.flag, job.priority, job.attempt, job.state) == ("shim", "normal", 0, State.WAITING)
    assert abs(job.created - store(client).clock()) < 5
    assert isinstance(job.run_after, int)
    assert abs(job.run_after - store(client).clock()) < 5
    again = client.insert_job("resize", unique="Größe")
    assert (again.jobid, again.new) == (job.jobid, False)
    with pytest.raises((sqlite3.IntegrityError, pymysql.err.IntegrityError, psycopg.errors.UniqueViolation)):
        run("insert", uniqkey="Größe", **values)


def test_the_columns_have_the_types_that_are_said(database: Place) -> None:
    with closing(connect(database)) as connection, closing(connection.cursor()) as cursor:
        match database.kind:
            case "sqlite":
                cursor.execute("SELECT name, type FROM pragma_table_info('job')")
            case "mariadb":
                cursor.execute(
                    "SELECT column_name, column_type FROM information_schema.columns"
                    " WHERE table_schema = database() AND table_name = 'job' ORDER BY ordinal_position"
                )
            case _:
                cursor.execute(
                    "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
                    " WHERE attrelid = 'job'::regclass AND attnum > 0 ORDER BY attnum"
                )
        real = {name: spoken(kind) for name, kind in cursor.fetchall()}
    _, _, rest = PAGE.read_text().partition("\n## The row\n")
    head, _, *rows = [
        [cell.strip(" `") for cell in line.strip("|").split(" | ")]
        for line in rest.partition("\n## ")[0].splitlines()
        if line.startswith("|")
    ]
    place = next(n for n, name in enumerate(head) if name.partition(",")[0] in HEADINGS[database.kind])
    assert {row[0]: row[place].partition(",")[0] for row in rows} == real
    # The first eight are the original's.
    assert list(real)[:8] == [row[0] for row in rows][:8]


def spoken(kind: str) -> str:
    """Return a type as the page writes it."""
    kind = re.sub(r"int\(\d+\)", "int", kind)  # a width to show, not a size
    kind = re.sub(r"enum\(.*\)", "enum", kind)
    return kind.replace("character varying", "varchar").upper()
