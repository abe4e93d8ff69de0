"""Rules of functions beside the index for QueueRunners of the original, which ignore them."""

from collections.abc import Iterator

import pytest

from garivini import AsyncClient, Client, UsageError, events
from garivini.model.policy import FunctionPolicy
from garivini.store.database import Database
from garivini.store.original import report_inexact
from tests.commands import invoke, run
from tests.sql_servers import MariaDB

pytestmark = pytest.mark.servers


@pytest.fixture
def url(mariadb: MariaDB) -> Iterator[str]:
    """The URL of a database whose table has the index of the original."""
    url = mariadb.create_database()
    with Client(url) as client:
        client.shards[1].upgrade()
    mariadb.execute("CREATE INDEX run_after ON job (run_after)", url.rpartition("/")[2])
    yield url
    mariadb.drop_database(url)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with Client(url) as client:
        yield client.shards[1]


@pytest.mark.parametrize(
    "rule", [("--max-running", "2"), ("--rate", "5/s"), ("--fair",), ("--partition-max-running", "2")]
)
def test_functions_set_refuses_a_rule_unless_inexact(
    url: str, database: Database, rule: tuple[str, ...]
) -> None:
    refused = run("functions", "set", "f", *rule, GARIVINI_DB=url)
    assert (refused.returncode, database.functions()) == (2, {})
    assert "QueueRunners of the original can use this table" in refused.stderr
    assert invoke("functions", "set", "f", *rule, "--inexact", GARIVINI_DB=url).exit_code == 0
    assert database.functions()["f"].has_rules


def test_functions_set_accepts_settings_that_are_no_rules(url: str, database: Database) -> None:
    assert invoke("functions", "set", "f", "--lease", "60", GARIVINI_DB=url).exit_code == 0
    assert database.functions()["f"].lease == 60


def test_functions_set_accepts_a_rule_without_the_index(url: str, mariadb: MariaDB) -> None:
    mariadb.execute("DROP INDEX run_after ON job", url.rpartition("/")[2])
    assert invoke("functions", "set", "f", "--max-running", "2", GARIVINI_DB=url).exit_code == 0


async def test_pause_is_refused_unless_inexact(url: str, database: Database) -> None:
    async with AsyncClient(url) as client:
        with pytest.raises(UsageError, match="inexact=True"):
            await client.pause("f", wait=False)
        assert database.functions() == {}
        await client.pause("f", wait=False, inexact=True)
        assert await client.resume("f")
    assert run("functions", "pause", "f", "--no-wait", GARIVINI_DB=url).returncode == 2
    assert run("functions", "pause", "f", "--no-wait", "--inexact", GARIVINI_DB=url).returncode == 0


def test_report_inexact_names_declared_rules_in_one_event(url: str, database: Database) -> None:
    found: list[tuple[str, dict[str, object]]] = []
    unlisten = events.listen(lambda name, fields: found.append((name, fields)))
    given = {"b": FunctionPolicy(rate="5/s"), "a": FunctionPolicy(fair=True), "c": FunctionPolicy(lease=60)}
    report_inexact(database, {"c": given["c"]})
    assert found == []
    report_inexact(database, given)
    unlisten()
    assert found == [("functions.inexact", {"dbid": 1, "functions": "a, b"})]
