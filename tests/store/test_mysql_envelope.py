"""Workers of the Perl system get the bytes that were inserted when our dispatchers replace theirs."""

# ruff: noqa: F811
import json
from typing import Any

import pytest
from click.testing import CliRunner

from garivini import Client
from garivini.cli import cli
from garivini.cli.doctor.sql import grade
from garivini.model.payload import decode_payload
from garivini.model.policy import FunctionPolicy, Policies
from garivini.model.state import State
from garivini.store.database import Database, Lane
from garivini.store.schema import migration_sql
from garivini.submission import submission
from tests.store.test_errors import Opener
from tests.store.test_mysql_upgrade import Place, original, place  # noqa: F401

pytestmark = pytest.mark.servers

ARGS = ("Grüße €".encode(), bytes(range(256)))


def payloads(url: str, database: Database, funcname: str = "old") -> list[dict[str, Any]]:
    """Insert jobs and return what a dispatcher sends to a worker, as a Perl worker decodes it."""
    with Client(url) as client:
        client.insert_jobs([[funcname, None, None, arg] for arg in ARGS])
    policy = Policies(database.functions())[funcname]
    jobs = database.claim(Lane(funcname, State.WAITING, "normal", 0), limit=10, lease=60)
    sent = [submission(job, policy).data for job in jobs]
    assert [decode_payload(payload).arg for payload in sent] == list(ARGS)  # our workers read either form
    return [json.loads(payload) for payload in sent]


@pytest.mark.parametrize("how", ["upgrade", "db sql"])
def test_upgrade_of_a_perl_table_sends_perl_workers_the_bytes_that_were_inserted(
    original: Place,
    opened: Opener,
    how: str,
) -> None:
    if how == "db sql":
        original.script(migration_sql("mysql", existing=True))
    database = opened(original.url)
    database.upgrade()
    sent = payloads(original.url, database)
    assert [payload["arg"].encode("latin-1") for payload in sent] == list(ARGS)
    database.set_function("ours", FunctionPolicy(envelope="json"))
    assert payloads(original.url, database, "ours")[0]["arg"] == "Grüße €"


def test_upgrade_of_a_perl_table_that_failed_half_way_sets_the_envelope_when_it_goes_on(
    original: Place,
    opened: Opener,
) -> None:
    for statement in migration_sql("mysql", existing=True).split(";\n")[1:3]:
        original.execute(statement)
    database = opened(original.url)
    database.upgrade()
    assert database.functions() == {"": FunctionPolicy(envelope="latin-1")}


def test_upgrade_of_an_empty_database_keeps_the_json_envelope(
    place: Place,
    opened: Opener,
) -> None:
    database = opened(place.url)
    database.upgrade()
    assert database.functions() == {}
    assert payloads(place.url, database)[0]["arg"] == "Grüße €"


def test_functions_set_default_changes_the_envelope_of_functions_without_one(
    original: Place,
    opened: Opener,
) -> None:
    def run(*words: str) -> Any:
        return CliRunner().invoke(cli, ["functions", *words], env={"GARIVINI_DB": original.url})

    database = opened(original.url)
    database.upgrade()
    assert "(default)" in run("list").output
    assert run("set", "--default", "--envelope", "json").exit_code == 0
    assert payloads(original.url, database)[0]["arg"] == "Grüße €"
    assert run("set", "--default", "--reset").exit_code == 0
    assert database.functions() == {}
    for words in (["--default", "f"], [], ["--default", "--envelope", "raw"], ["--default", "--lease", "60"]):
        assert run("set", *words).exit_code != 0
    assert database.functions() == {}


def test_doctor_finds_a_perl_table_without_an_envelope(
    original: Place,
    opened: Opener,
) -> None:
    database = opened(original.url)
    database.upgrade()

    def found() -> list[str]:
        findings = grade("mysql", "d", database.facts())
        return [finding.do for finding in findings if "default_envelope" in finding.says]

    assert found() == []
    database.unset_function("")
    assert "functions set --default --envelope latin-1" in found()[0]
    database.set_function("", FunctionPolicy(envelope="json"))
    assert found() == []
