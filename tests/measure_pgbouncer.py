"""A drain through PgBouncer beside one on a direct connection: the ratio, and what each sends to the server.

``python -m tests.measure_pgbouncer [ROUNDS [JOBS]]``. It takes a minute or two. Both sides run in turn on one
PostgreSQL, so the ratio of a round compares neighbours. The counts are of one more round per side.
"""

import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import click

from garivini.cli.bench.measures import MEASURES, Size
from garivini.cli.bench.setup import Setup
from tests.poolers import pgbouncer
from tests.sql_servers import PostgreSQL

#: What the server has run for a database: kind of statement, calls, milliseconds of planning and of running.
_COUNTS: Final = """
SELECT left(ltrim(regexp_replace(query, '\\s+', ' ', 'g')), 70), sum(calls)::bigint,
       sum(total_plan_time), sum(total_exec_time)
  FROM pg_stat_statements JOIN pg_database ON oid = dbid
 WHERE datname = %s
 GROUP BY 1 ORDER BY 2 DESC
"""


@contextmanager
def sides(server: PostgreSQL) -> Iterator[dict[str, Setup]]:
    """Yield the set-up of a drain on each kind of connection, with its own database and processes."""
    with ExitStack() as stack:
        found = {}
        for name in ("direct", "pooled"):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            url = stack.enter_context(server.database())
            if name == "pooled":
                url = stack.enter_context(pgbouncer(url, default_pool_size=20))
            found[name] = stack.enter_context(Setup(folder, None, 100, 1, url))
        yield found


def drained(setup: Setup, jobs: int) -> float:
    """Drain a backlog; return its jobs per second."""
    result = MEASURES["drain"].ours(setup, Size(jobs, 2.0))
    assert result.delivery.right, result.delivery
    setup.store.clear()
    return result.values["jobs/s"]


def ratio(rounds: int, jobs: int) -> None:
    """Print the rates of some rounds, and the median of their ratios."""
    with PostgreSQL() as server, sides(server) as both:
        for setup in both.values():
            drained(setup, jobs // 10)
        ratios = []
        for number in range(rounds):
            # Neither side is always the second one.
            names = ("direct", "pooled") if number % 2 else ("pooled", "direct")
            rates = {name: drained(both[name], jobs) for name in names}
            ratios.append(rates["pooled"] / rates["direct"])
            click.echo(
                f"direct {rates['direct']:8,.0f}/s, pooled {rates['pooled']:8,.0f}/s: {ratios[-1]:.2f}"
            )
        click.echo(f"pooled / direct: median {statistics.median(ratios):.2f} of {rounds} rounds")


def counts(jobs: int) -> None:
    """Print the statements of one drain on each side."""
    settings = ("shared_preload_libraries=pg_stat_statements", "pg_stat_statements.track_planning=on")
    with PostgreSQL(*settings) as server, sides(server) as both:
        server.execute("CREATE EXTENSION pg_stat_statements")
        for name, setup in both.items():
            drained(setup, jobs // 10)
            server.execute("SELECT pg_stat_statements_reset()")
            drained(setup, jobs)
            rows = server.execute(_COUNTS, parameters=[setup.url.rpartition("/")[2]])
            click.echo(f"\n{name}: {sum(row[1] for row in rows)} statements for {jobs} jobs")
            for words, calls, planning, running in rows:
                click.echo(f"{calls:7} {planning:9.1f} ms planning {running:9.1f} ms running  {words}")


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    jobs = given[1] if len(given) > 1 else 20_000
    ratio(given[0] if given else 9, jobs)
    counts(jobs)
