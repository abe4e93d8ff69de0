"""An admission of a function with many partitions examines few rows, by the counts of the servers."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from garivini.databases import DatabaseSettings
from garivini.model.job import Job
from garivini.model.policy import FunctionPolicy
from garivini.model.state import State
from garivini.model.turns import START, Place
from garivini.store.admission import admit
from garivini.store.claims import Lane
from garivini.store.database import Database
from garivini.store.statements import Statements
from tests.databases import numbers, sqlite_url

pytestmark = pytest.mark.slow

#: Due jobs of one partition, the oldest, and partitions with one job.
BIG: Final = 20_000
SMALL: Final = 5_000
LANE: Final = Lane("f", State.WAITING, "normal", 0)
LIMIT: Final = 100
#: Rows that one admission may read, and steps of SQLite's virtual machine: without bounds it would be
#: more than one row, and ten steps, per job.
MOST_ROWS: Final = 12_000
MOST_STEPS: Final = 150_000

FILL: Final = [
    "INSERT INTO job (funcname, {partition}, arg, run_after)"
    f" SELECT 'f', {partition}, '', {time} FROM {numbers}"
    for partition, time, numbers in (
        ("{big}", "seq", "{numbers_big}"),
        ("{small}", "1000000 + seq", "{numbers_small}"),
    )
]


def rows_on_mariadb(run: Statements) -> int:
    cursor: Any = run._cursor
    cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
    return sum(int(number) for _, number in cursor.fetchall())


def rows_on_postgresql(run: Statements) -> int:
    cursor: Any = run._cursor
    cursor.execute(
        "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_all_tables"
    )
    return int(cursor.fetchall()[0][0])


class Bounds:
    """Admissions of one QueueRunner, with what the largest of them has read."""

    def __init__(self, database: Database, rows: Callable[[Statements], int] | None) -> None:
        self.database = database
        self._rows = rows
        self.place: Place = START
        self.most = 0

    def admit(self) -> list[Job]:
        with self.database.transaction() as run:
            cursor: Any = run._cursor
            steps = 0
            if self._rows is None:

                def count() -> None:
                    nonlocal steps
                    steps += 100

                cursor.connection.set_progress_handler(count, 100)
                before = 0
            else:
                before = self._rows(run)
            jobs, _, self.place = admit(run, LANE, limit=LIMIT, lease=60, place=self.place)
            if self._rows is None:
                cursor.connection.set_progress_handler(None, 0)
            examined = steps if self._rows is None else self._rows(run) - before
        self.most = max(self.most, examined)
        return jobs


@contextmanager
def opened(url: str) -> Iterator[Database]:
    database = Database(DatabaseSettings(1, url))
    with closing(database):
        database.upgrade()
        database.check()
        yield database


@pytest.fixture(
    params=["sqlite", *(pytest.param(name, marks=pytest.mark.servers) for name in ("mariadb", "postgresql"))]
)
def bounds(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Bounds, int]]:
    """A database with the jobs, and the bound of what an admission may read."""
    if request.param == "sqlite":
        with opened(sqlite_url(tmp_path)) as database, closing(sqlite3.connect(tmp_path / "jobs.db")) as raw:
            more = "SELECT seq + 1 FROM n WHERE seq < {}"
            series = f"(WITH RECURSIVE n (seq) AS (SELECT 1 UNION ALL {more}) SELECT seq FROM n)"
            fill(raw.execute, '"partition"', "'p' || seq", series.format)
            raw.commit()
            yield Bounds(database, None), MOST_STEPS
        return
    server = request.getfixturevalue(request.param)
    with server.database() as url:
        name = url.rpartition("/")[2]
        with opened(url):
            pass
        if request.param == "mariadb":
            fill(lambda sql: server.execute(sql, name), "`partition`", "CONCAT('p', seq)", numbers)
        else:
            # Without statistics of such small tables it would read them whole.
            server.execute(f"ALTER DATABASE {name} SET enable_seqscan = off", name)
            series = "generate_series(1, {}) AS n (seq)"
            fill(lambda sql: server.execute(sql, name), "partition", "'p' || seq", series.format)
        rows = rows_on_mariadb if request.param == "mariadb" else rows_on_postgresql
        with opened(url) as database:
            yield Bounds(database, rows), MOST_ROWS


def fill(execute: Callable[[str], object], partition: str, small: str, series: Callable[[int], str]) -> None:
    for text in FILL:
        execute(
            text.format(
                partition=partition,
                big="'big'",
                small=small,
                numbers_big=series(BIG),
                numbers_small=series(SMALL),
            )
        )


def test_admit_hands_out_the_jobs_of_many_partitions_beside_a_large_one_in_bounded_steps(
    bounds: tuple[Bounds, int],
) -> None:
    runner, most = bounds
    runner.database.set_function("f", FunctionPolicy(partition_max_running=1))
    ran: set[str | None] = set()
    passes = 0
    while len(ran) < SMALL + 1:
        jobs = runner.admit()
        assert len({job.partition for job in jobs}) == len(jobs)
        runner.database.complete([job.jobid for job in jobs])
        ran.update(job.partition for job in jobs)
        passes += 1
        assert passes < 200
    assert 0 < runner.most < most


def test_admit_reaches_a_partition_with_room_past_thousands_without(bounds: tuple[Bounds, int]) -> None:
    runner, _ = bounds
    runner.database.set_function("f", FunctionPolicy(partition_max_running=1))
    held: set[str | None] = set()
    while len(held) < SMALL + 1:
        held.update(job.partition for job in runner.admit())
    assert runner.admit() == []
    jobid = runner.database.jobs(limit=1)[0].jobid
    runner.database.complete([jobid])  # of the large one
    passes = 0
    while not (jobs := runner.admit()):
        passes += 1
        assert passes < 6
    assert [job.partition for job in jobs] == ["big"]
