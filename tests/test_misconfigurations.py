"""Misconfigurations of real servers: ``garivini doctor`` finds each, and its advice ends it."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import psycopg
import pytest
from click.testing import CliRunner
from sqlalchemy import make_url

from garivini.cli import cli
from tests.poolers import pgbouncer
from tests.servers import embedded
from tests.sql_servers import PostgreSQL, SQLServer
from tests.system import upgraded

#: Makes a misconfiguration, given a server and the URL of a database with tables. Yields the URL to examine,
#: and a function that follows the advice and returns the URL from then on.
Make = Callable[[Any, str], AbstractContextManager[tuple[str, Callable[[], str]]]]


@contextmanager
def asynchronous_role(server: PostgreSQL, url: str) -> Iterator[tuple[str, Callable[[], str]]]:
    role = make_url(url).username
    server.execute(f"ALTER ROLE {role} SET synchronous_commit = off")

    def follow() -> str:
        server.execute(f"ALTER ROLE {role} RESET synchronous_commit")
        return url

    yield url, follow


@contextmanager
def shared_pool(server: PostgreSQL, url: str) -> Iterator[tuple[str, Callable[[], str]]]:
    with pgbouncer(url, default_pool_size=1) as through:
        with psycopg.connect(through, autocommit=True) as other:
            other.execute("SET extra_float_digits = 0")
            other.execute("SET statement_timeout = '1h'")

        def follow() -> str:
            # As with a user of its own: its sessions are new.
            server.end_sessions(make_url(url).username or "")
            return through

        yield through, follow


@contextmanager
def prepared_behind_pooler(server: PostgreSQL, url: str) -> Iterator[tuple[str, Callable[[], str]]]:
    with pgbouncer(url) as through:
        yield f"{through}?prepare_threshold=100", lambda: through


#: Those of a Galera cluster are in ``tests/store/test_galera.py``, which has one.
#: By name: the kind of server, what makes it, the grade, and words of the finding and of the advice.
ROWS: Final[dict[str, tuple[type[SQLServer], Make, str, str, str]]] = {
    "synchronous_commit off for the role": (
        PostgreSQL,
        asynchronous_role,
        "advice",
        "synchronous_commit is off: a crash may undo a transaction of your own",
        "RESET synchronous_commit",
    ),
    "a pool of PgBouncer shared with a program that SETs": (
        PostgreSQL,
        shared_pool,
        "fault",
        "settings_of_others is extra_float_digits, statement_timeout: another program has left these",
        "a database user of its own",
    ),
    "prepared statements behind PgBouncer": (
        PostgreSQL,
        prepared_behind_pooler,
        "advice",
        "prepare_threshold is given: the pooler may run a statement in a session in which",
        "remove prepare_threshold from the URL",
    ),
}


def examine(url: str, address: str) -> list[dict[str, Any]]:
    arguments = ["doctor", "--job-server", address, "-o", "json"]
    result = CliRunner().invoke(cli, arguments, env={"GARIVINI_DB": url}, catch_exceptions=False)
    found: list[dict[str, Any]] = json.loads(result.stdout)
    assert result.exit_code == any(finding["grade"] == "fault" for finding in found)
    return [finding for finding in found if finding["grade"] != "ok"]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with embedded() as address:
        yield address


@pytest.mark.servers
@pytest.mark.parametrize("name", ROWS)
def test_doctor_finds_a_misconfiguration_and_its_advice_ends_it(
    request: pytest.FixtureRequest, address: str, name: str
) -> None:
    kind, make, grade, says, do = ROWS[name]
    server = request.getfixturevalue("postgresql" if kind is PostgreSQL else "mariadb")
    with server.database() as url:
        upgraded(url).close()
        before = examine(url, address)
        with make(server, url) as (examined, follow):
            (finding,) = [finding for finding in examine(examined, address) if finding not in before]
            assert finding["grade"] == grade
            assert says in finding["says"]
            assert do in finding["do"]
            assert examine(follow(), address) == before
