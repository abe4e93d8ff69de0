"""What the server counts for the life of plain jobs: a new rule must not add a statement or a round trip."""

from collections import Counter
from collections.abc import Iterator
from typing import Final, Protocol

import pytest

from garivini import Client
from garivini.model.job import Job
from garivini.model.outcome import Setback
from garivini.model.policy import FunctionPolicy
from garivini.model.state import State
from garivini.store.database import Lane
from tests.sql_servers import MariaDB, PostgreSQL

pytestmark = pytest.mark.servers

#: Jobs of a batch.
MANY = 100


class Count(Protocol):
    """Returns how many statements of each kind a server has run."""

    def __call__(self) -> Counter[str]: ...


@pytest.fixture(scope="module")
def mariadb_count() -> Iterator[tuple[str, Count]]:
    with MariaDB() as server, server.database() as url:

        def count() -> Counter[str]:
            rows = server.execute("SHOW GLOBAL STATUS LIKE 'Com\\_%'")
            return Counter({name.removeprefix("Com_"): int(number) for name, number in rows})

        yield url, count


@pytest.fixture(scope="module")
def postgresql_count() -> Iterator[tuple[str, Count]]:
    with PostgreSQL("shared_preload_libraries=pg_stat_statements") as server, server.database() as url:
        server.execute("CREATE EXTENSION pg_stat_statements")

        def count() -> Counter[str]:
            # BEGIN and COMMIT are left out: this server counts them only until they are prepared.
            rows = server.execute(
                "SELECT lower(split_part(ltrim(query), ' ', 1)), sum(calls)::bigint FROM pg_stat_statements"
                " JOIN pg_database ON oid = dbid WHERE datname = %s AND query !~* '^(begin|commit)'"
                " GROUP BY 1",
                parameters=[url.rpartition("/")[2]],
            )
            return Counter(dict(rows))

        yield url, count


class Life:
    """Steps of the life of plain jobs."""

    def __init__(self, client: Client, jobs: int) -> None:
        (self._database,) = client.shards
        self._client = client
        self._jobs = jobs
        self._held: list[Job] = []

    def insert(self) -> None:
        self._client.insert_jobs([["f", None, None, b"x"]] * self._jobs)

    def claim(self) -> None:
        lane = Lane("f", State.WAITING, "normal", 0)
        self._held = self._database.claim(lane, limit=self._jobs, lease=60)
        assert len(self._held) == self._jobs

    def renew(self) -> None:
        self._database.renew([job.handle for job in self._held], lease=60)

    def complete(self) -> None:
        self._database.complete([job.jobid for job in self._held])

    def fail(self) -> None:
        self._database.settle([Setback(handle=self._held[0].handle, kind="failed")])


_COMPLETE: Final = {"delete": 1, "select": 1}  # the second is whether there are records
_CHANGE: Final = {"select": 1, "update": 1}
_FAIL: Final = {"select": 1, "insert": 1, "update": 1}
_TRANSACTION: Final = {"begin": 1, "commit": 1}
#: By server, what each step costs, whatever the number of jobs.
EXPECTED: Final[dict[str, dict[str, dict[str, int]]]] = {
    "mariadb": {
        "insert": {"insert": 1},
        "claim": _TRANSACTION | _CHANGE,
        "renew": _TRANSACTION | _CHANGE,
        "complete": _TRANSACTION | _COMPLETE,
        "fail": _TRANSACTION | _FAIL,
    },
    "postgresql": {
        "insert": {"insert": 1},
        "claim": _CHANGE,
        "renew": _CHANGE,
        "complete": _COMPLETE,
        "fail": _FAIL,
    },
}
#: Many jobs have no RETURNING there, so the time is read first.
MANY_ON_MARIADB: Final = {"insert": {"insert": 1, "select": 1}}


@pytest.mark.parametrize("jobs", [1, MANY])
@pytest.mark.parametrize("name", ["mariadb", "postgresql"])
def test_the_life_of_plain_jobs_costs_these_statements(
    request: pytest.FixtureRequest, name: str, jobs: int
) -> None:
    url, count = request.getfixturevalue(f"{name}_count")
    with Client(url) as client:
        (database,) = client.shards
        database.upgrade()
        database.set_function("other", FunctionPolicy(max_running=1, retention=60, dead_retention=1))
        life = Life(client, jobs)
        steps = (life.insert, life.claim, life.renew, life.complete, life.insert, life.claim, life.fail)
        for step in steps:  # what happens once per connection
            step()
        before = count()
        own = count() - before  # what counting costs
        found = {}
        for step in steps:
            before = count()
            step()
            found[step.__name__] = dict(count() - before - own)
    expected = EXPECTED[name]
    if name == "mariadb" and jobs == MANY:
        expected = expected | MANY_ON_MARIADB
    assert found == expected
