"""Rows that another program has written in odd ways: they are parked or shown, and all others go on."""

import asyncio
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import make_url

from garivini import Client
from garivini.cli import cli
from garivini.model.state import State
from tests.commands import run
from tests.databases import sqlite_url
from tests.processes import PATIENCE
from tests.servers import embedded
from tests.system import system

#: By what is wrong: columns and values in SQLite's SQL, and part of the reason for which it is parked; None
#: if it runs, "" if it is never due.
ROWS: dict[str, tuple[dict[str, str], str | None]] = {
    "a key that is not UTF-8": ({"uniqkey": "CAST(x'6be9' AS TEXT)"}, None),
    "a coalesce key that is not UTF-8": ({'"coalesce"': "CAST(x'ff' AS TEXT)"}, None),
    "a key that is a blob": ({"uniqkey": "x'6be900'"}, None),
    "a key that is a number": ({"uniqkey": "17"}, None),
    "a key that is too long": ({"uniqkey": f"'{'k' * 300}'"}, "more than 255 characters"),
    "a name that is not UTF-8": ({"funcname": "CAST(x'66e9' AS TEXT)"}, "not UTF-8"),
    "a name that is a blob": ({"funcname": "x'66'"}, "not UTF-8"),
    "a name that is an odd blob": ({"funcname": "x'00ff'"}, "not UTF-8"),
    "a name that is empty": ({"funcname": "''"}, ""),
    "a name that is too long": ({"funcname": f"'{'f' * 300}'"}, "more than 200 bytes"),
    "a name with a NUL": ({"funcname": "'a' || char(0) || 'b'"}, "NUL"),
    "a flag that is not UTF-8": ({"flag": "CAST(x'e9' AS TEXT)"}, "flag"),
    "a flag that is a blob": ({"flag": "x'00'"}, "flag"),
    "no flag": ({"flag": "NULL"}, None),
    "an argument that is a text": ({"arg": "'text'"}, None),
    "an argument that is a number": ({"arg": "12.5"}, None),
    "no argument": ({"arg": "NULL"}, None),
    "a large argument that is a text": ({"arg": "printf('%.20000c', 'x')"}, None),
    "a failcount that is a text": ({"failcount": "'many'"}, None),
    "a failcount that is huge": ({"failcount": "9223372036854775807"}, "out of range"),
    "an attempt that is a text": ({"attempt": "'first'"}, None),
    "an attempt that is a blob": ({"attempt": "x'ff'"}, None),
    "crashes that are a text": ({"crashes": "'none'"}, None),
    "a claim time that is a text": ({"since": "'now'"}, None),
    "a creation that is a text": ({"created": "CAST(x'ff' AS TEXT)"}, None),
    "a time with a fraction": ({"run_after": "1.5"}, None),
    "a time below 0": ({"run_after": "-5"}, "out of range"),
    "a time that is a text": ({"run_after": "'tomorrow'"}, ""),
    "a time that is a blob": ({"run_after": "x'ff'"}, ""),
    "a state with a fraction": ({"state": "1.5"}, ""),
    "a state of a later version": ({"state": "7"}, ""),
}


def put(path: str, columns: dict[str, str]) -> int:
    """Write a row past Garivini; return its id."""
    values = {"funcname": "'odd'", "run_after": "1", "arg": "'x'"} | columns
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.text_factory = bytes
        connection.execute("PRAGMA ignore_check_constraints = ON")  # those of another version
        cursor = connection.execute(
            f"INSERT INTO job ({', '.join(values)}) VALUES ({', '.join(values.values())})"
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid


async def test_odd_rows_in_sqlite_are_parked_or_run_and_others_go_on(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        ran: list[int] = []
        jobids: dict[str, int] = {}

        async def until(condition: Callable[[], bool], missing: Callable[[], Any]) -> None:
            try:
                async with asyncio.timeout(PATIENCE):
                    while not condition():
                        await asyncio.sleep(0.01)  # a function that has run says nothing itself
            except TimeoutError:
                pytest.fail(f"did not run: {missing()}")

        async def run(job: Any) -> None:
            ran.append(job.jobid)

        async def shown(*words: str) -> Any:
            return await queue.call(CliRunner().invoke, cli, [*words, "--db", queue.url])

        def waiting() -> list[str]:
            return [name for name, jobid in due.items() if jobid not in ran]

        for funcname in ("odd", "sound"):
            queue.worker.function(funcname)(run)
        path = make_url(queue.url).database or ""
        for name, (columns, _) in ROWS.items():
            jobids[name] = await queue.call(put, path, columns)
            result = await shown("jobs", "show", f"1:{jobids[name]}")
            assert result.exit_code == 0, (name, result.output, result.exception)
        sound = await queue.call(queue.client.insert_jobs, [["sound", None, None, b""]] * 3)
        due = {name: jobids[name] for name, (_, reason) in ROWS.items() if reason is None}
        due |= {f"sound {number}": inserted.jobid for number, inserted in enumerate(sound)}
        servers = ["--job-server", queue.address]
        for words in (["jobs", "list"], ["status", *servers], ["functions", "list"]):
            result = await shown(*words)
            assert result.exit_code == 0, (words, result.output, result.exception)
        assert "Traceback" not in (await shown("doctor", *servers)).output
        queue.start_worker()
        queue.start_queue_runner()
        await until(lambda: not waiting(), waiting)
        parked = [name for name, (_, reason) in ROWS.items() if reason]
        await queue.seen.wait("job.dead", len(parked))
        for name in parked:
            job = await queue.call(queue.database.get, jobids[name])
            assert job is not None, name
            assert job.state is State.DEAD, name
            (failed,) = await queue.call(queue.database.failures, jobids[name])
            assert failed.error == "BadRow", name
            assert (ROWS[name][1] or "") in failed.message, name
        last = await queue.call(queue.client.insert_job, "sound")
        await until(lambda: last.jobid in ran, lambda: last)
        assert sorted(ran) == sorted([*due.values(), last.jobid])


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("text_factory", bytes),
        ("row_factory", sqlite3.Row),
        (
            "row_factory",
            lambda cursor, row: {name[0]: value for name, value in zip(cursor.description, row, strict=True)},
        ),
    ],
)
def test_insert_by_a_connection_that_reads_rows_in_its_own_way_finds_its_keys(
    tmp_path: Path, attribute: str, value: Any
) -> None:
    url = sqlite_url(tmp_path)
    with (
        Client(url) as client,
        closing(sqlite3.connect(make_url(url).database or "")) as connection,
    ):
        setattr(connection, attribute, value)
        first = client.insert_job("f", unique="schlüssel", connection=connection)
        assert first.new
        again = client.insert_job("f", unique="schlüssel", connection=connection)
        assert (again.jobid, again.new) == (first.jobid, False)
        connection.commit()
        assert getattr(connection, attribute) is value
        assert [job.uniqkey for job in client.list_jobs()] == ["schlüssel"]


def test_commands_show_an_unknown_state_by_its_number(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    with Client(url) as client, embedded() as address:
        put(make_url(url).database or "", {"state": "7", "run_after": "2000000000"})
        client.insert_job("odd", dispatch=False)

        def shown(*words: str) -> str:
            servers = ["--job-server", address] if words[0] in ("status", "doctor") else []
            ended = run(*words, *servers, "--db", url)
            return re.sub(" +", " ", ended.stdout + ended.stderr)

        assert "1:1\todd\t7\t" in shown("jobs", "list")
        assert "state 7\nrun_after 2033-" in shown("jobs", "show", "1")
        assert "1 waiting, 1 in state 7" in shown("functions", "list")
        heading, row, *_ = shown("status").splitlines()
        assert dict(zip(heading.split("\t"), row.split("\t"), strict=True))["state 7"] == "1"
        assert "1 job of odd is in state 7, which this version does not know" in shown("doctor")
        assert '"state": "7"' in shown("jobs", "show", "1", "-o", "jsonl")
        assert "not waiting or dead" in shown("jobs", "retry", "1")
        assert client.delete_jobs([(1, 1)]) == 1
