"""Each statement of a search examines at most 1,000 rows, by the counts of the servers, found or not."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final

import pytest

from garivini.databases import DatabaseSettings
from garivini.model.job import Job
from garivini.model.job_query import JobQuery
from garivini.store import search
from garivini.store.database import Database
from garivini.store.search import Match, pages
from tests.databases import numbers
from tests.sql_servers import MariaDB, PostgreSQL
from tests.store.test_postgresql_plans import analysed, nodes, read

pytestmark = [pytest.mark.servers, pytest.mark.slow]

ROWS: Final = 20_000
#: Every 4,000th job is of another function, with another argument and failure, and dead.
FILL: Final = (
    "INSERT INTO job (funcname, uniqkey, arg, run_after, created, state, failcount) SELECT {name}, NULL,"
    " {arg}, CASE WHEN seq % 4000 = 0 THEN 2147483647 ELSE 1 END, 1 + seq,"
    " CASE WHEN seq % 4000 = 0 THEN 4 ELSE 0 END, 0 FROM {numbers} ORDER BY seq"
)
#: Each job has three records; those of the latest attempt decide.
FAILURES: Final = (
    "INSERT INTO failure SELECT jobid, number, 1, 'failed',"
    " CASE WHEN jobid % 4000 = 0 THEN 'Rare' ELSE 'E' END,"
    " CASE WHEN jobid % 4000 = 0 THEN 'a rare text' ELSE 'a text' END, '', '' FROM job,"
    " (SELECT 1 AS number UNION SELECT 2 UNION SELECT 3) AS attempts"
)

FINDS_FIVE: Final[list[dict[str, Any]]] = [
    {"funcname": "rare"},
    {"state": "dead"},
    {"failed": True},
    {"arg_text": "rare"},
    {"error": "Rare"},
    {"error_text": "rare"},
    {"funcname": "rare", "state": "dead", "arg_text": "rare", "error": "Rare", "created_from": 1},
]
FINDS_NONE: Final[list[dict[str, Any]]] = [
    {"funcname": "none"},
    {"state": "running"},
    {"uniqkey": "none"},
    {"arg_text": "none"},
    {"error": "None"},
    {"error_text": "none"},
    {"created_before": 1},
    {"due_from": 2},
]
QUERIES: Final = [
    pytest.param(JobQuery(**conditions), found, id=f"{found} by {', '.join(conditions)}")
    for found, every in ((5, FINDS_FIVE), (0, FINDS_NONE))
    for conditions in every
]


class Counted:
    """A database whose rows that each page examines are counted."""

    def __init__(self, match: Callable[..., tuple[list[Match], float]]) -> None:
        self._match = match
        self.rows: list[float] = []

    def newest(self) -> int:
        return ROWS

    def match(self, query: JobQuery, **page: int) -> list[Match]:
        matches, rows = self._match(query, **page)
        self.rows.append(rows)
        return matches

    def read_jobs(self, jobids: Sequence[int]) -> list[Job]:
        raise NotImplementedError


def check_pages(counted: Counted, query: JobQuery, found: int) -> None:
    examined = list(pages(counted, query))
    assert sum(page.examined for page in examined) == ROWS
    assert sum(len(page.matches) for page in examined) == found
    assert max(counted.rows) <= 1000
    assert min(counted.rows) >= min(page.examined for page in examined)  # something was counted


@contextmanager
def opened(url: str) -> Iterator[Database]:
    database = Database(DatabaseSettings(1, url))
    with closing(database):
        database.upgrade()
        database.check()
        yield database


@pytest.fixture(scope="module")
def on_mariadb(mariadb: MariaDB) -> Iterator[Database]:
    with mariadb.database() as url, opened(url) as database:
        name = url.rpartition("/")[2]
        rare = "IF(seq % 4000 = 0, 'rare', 'f')"
        mariadb.execute(FILL.format(name=rare, arg=rare, numbers=numbers(ROWS)), name)
        mariadb.execute(FAILURES, name)
        yield database


@pytest.fixture(scope="module")
def on_postgresql(postgresql: PostgreSQL) -> Iterator[Database]:
    with postgresql.database() as url, opened(url) as database:
        name = url.rpartition("/")[2]
        rare = "CASE WHEN seq % 4000 = 0 THEN 'rare' ELSE 'f' END"
        series = f"generate_series(1, {ROWS}) AS seq"
        postgresql.execute(FILL.format(name=rare, arg=f"({rare})::bytea", numbers=series), name)
        postgresql.execute(FAILURES, name)
        yield database


@pytest.mark.parametrize(("query", "found"), QUERIES)
def test_match_examines_no_more_than_a_thousand_rows_on_mariadb(
    on_mariadb: Database, query: JobQuery, found: int
) -> None:
    with on_mariadb.connections.connection() as connection, connection.cursor() as cursor:

        def rows_read() -> float:
            cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
            return float(sum(int(count) for _, count in cursor.fetchall()))

        def match(query: JobQuery, **page: int) -> tuple[list[Match], float]:
            with on_mariadb.reading() as run:
                run._cursor = cursor
                before = rows_read()
                own = rows_read() - before
                matches = search.match(run, query, **page)
                return matches, rows_read() - before - 2 * own

        check_pages(Counted(match), query, found)


@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize(("query", "found"), QUERIES)
def test_match_examines_no_more_than_a_thousand_rows_on_postgresql(
    on_postgresql: Database, query: JobQuery, found: int, plans: str
) -> None:
    with on_postgresql.connections.connection() as connection, connection.transaction():
        connection.execute(f"SET LOCAL plan_cache_mode = {plans}")

        def match(query: JobQuery, **page: int) -> tuple[list[Match], float]:
            return on_postgresql.match(query, **page), read(
                analysed(connection, "match", **query.values(), **page)
            )

        check_pages(Counted(match), query, found)


def test_the_count_of_rows_sees_a_condition_in_the_where_clause(on_postgresql: Database) -> None:
    with on_postgresql.connections.connection() as connection:
        text = "SELECT jobid FROM job WHERE jobid > 0 AND funcname || '' = 'none' ORDER BY jobid LIMIT 1000"
        ((plan,),) = connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}").fetchall()
        assert read([node for node in nodes(plan[0]["Plan"]) if "Relation Name" in node]) == ROWS
