"""Bad input of every kind, as an application or a person gives it: an error of ours that says what to do.

Nothing of it is stored, nothing that was there is lost, and what comes beside it and after it goes on. The
rules of each kind stand with their parts: names, arguments and handles in test_job, times in test_policy,
databases in store/test_errors.
"""

import asyncio
import math
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, event

from garivini import AsyncClient, Client, Handle, UsageError, events
from garivini.cli import cli, main
from garivini.gearman.server import Server
from garivini.model.limits import MAX_ARG
from garivini.model.new_jobs import new_job
from garivini.roles import queue_runners
from garivini.roles.queue_runner import QueueRunnerSettings
from tests.databases import sqlite_url
from tests.system import Seen

#: Jobs that cannot be stored, and what is said.
JOBS: dict[str, tuple[dict[str, Any], str]] = {
    "a long name": ({"funcname": "f" * 201}, "1 to 200 bytes, this one has 201"),
    "no name": ({"funcname": ""}, "1 to 200 bytes"),
    "a NUL in a name": ({"funcname": "a\0b"}, "NUL"),
    "a line break in a name": ({"funcname": "two\nlines"}, "line break"),
    "a large argument": ({"arg": bytes(MAX_ARG + 1)}, "at most 16777215 bytes, .*: store it elsewhere"),
    "an argument that is an object": ({"arg": {"month": 11}}, r"json\.dumps"),
    "an unknown flag": ({"flag": "shimm"}, "one of shim, controller"),
    "a delay below 0": ({"run_after": -1}, "run_after"),
    "a delay that is a time": ({"run_after": 1_700_000_000}, "seconds from now"),
    "a delay without end": ({"run_after": math.inf}, "run_after"),
    "a long key": ({"unique": "k" * 256}, "at most 255 characters"),
    "a NUL in a key": ({"unique": "a\0b"}, "NUL"),
}


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database with its tables and one job in it."""
    url = sqlite_url(tmp_path)
    with Client(url) as client:
        client.insert_job("before")
    return url


def functions(url: str) -> list[str]:
    """Return the function of each job that is there."""
    with Client(url) as client:
        return [job.funcname for job in client.list_jobs()]


@pytest.mark.parametrize(("wrong", "message"), JOBS.values(), ids=JOBS)
def test_a_wrong_job_is_refused_and_others_are_inserted(
    url: str, wrong: dict[str, Any], message: str
) -> None:
    async def together() -> list[Any]:
        async with AsyncClient(url) as client:
            calls = [client.insert_job("beside"), client.insert_job(**{"funcname": "f", **wrong})]
            return await asyncio.gather(*calls, client.insert_job("beside"), return_exceptions=True)

    with Client(url) as client:
        with pytest.raises(UsageError, match=message):
            client.insert_job(**{"funcname": "f", **wrong})
        assert functions(url) == ["before"]
        client.insert_job("after")
    _, refused, _ = asyncio.run(together())
    assert isinstance(refused, UsageError)
    assert functions(url) == ["before", "after", "beside", "beside"]


# ---- handles

#: Every call that takes the handle of a job.
CALLS: dict[str, Callable[[Client, Any], object]] = {
    "complete_job": lambda client, handle: client.complete_job(handle),
    "complete_jobs": lambda client, handle: client.complete_jobs([handle]),
    "failed_job": lambda client, handle: client.failed_job(handle, "reason"),
    "reschedule_job": lambda client, handle: client.reschedule_job(handle, "+5"),
    "get_job": lambda client, handle: client.get_job(handle),
    "failures": lambda client, handle: client.failures(handle),
    "retry_job": lambda client, handle: client.retry_job(handle),
    "cancel_job": lambda client, handle: client.cancel_job(handle),
    "delete_jobs": lambda client, handle: client.delete_jobs([handle]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_malformed_handle_or_a_payload_that_is_not_json_changes_nothing(
    url: str, call: Callable[[Client, Any], object]
) -> None:
    with Client(url) as client:
        (before,) = client.list_jobs()
        for wrong in (None, 1, "1", b"", b"\xff", b"{jobid: 1}", b"[1, 1]", {"jobid": 1}, ("x", 1), (0, 1)):
            with pytest.raises(UsageError):
                call(client, wrong)
        with pytest.raises(UsageError, match="there is no database 9"):
            call(client, Handle(1, 9))
        assert client.list_jobs() == [before]


# ---- the command


def test_the_command_refuses_wrong_values_with_a_status_and_stores_nothing(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        (["insert", "f", "--nothing"], "No such option"),
        (["insert", "f", "--flag", "shimm"], "'shimm' is not one of"),
        (["insert", "f", "--priority", "urgent"], "'urgent' is not one of"),
        (["insert", "f" * 201], "1 to 200 bytes"),
        (["insert", ""], "1 to 200 bytes"),
        (["insert", "two\nlines"], "line break"),
        (["insert", "f", "--unique", "k" * 256], "at most 255 characters"),
        (["insert", "f", "--run-after", "-1"], "run_after"),
        (["insert", "f", "--run-after", "1700000000"], "seconds from now"),
        (["insert", "f", "--run-after", "1e300"], "run_after"),
        (["insert", "f", "--run-after", "nan"], "run_after"),
        (["insert", "f", "--run-after", "soon"], "'soon' is not a valid float"),
        (["jobs", "reschedule", "1", "--at", "soon"], "is not a time"),
        (["jobs", "reschedule", "1", "--at", "+99999999999"], "out of range"),
        (["jobs", "cancel", "1:2:3"], "is not the id of a job"),
        (["jobs", "cancel", "1x"], "is not the id of a job"),
        (["jobs", "delete", "--yes", "1", "-"], "is not the id of a job"),
        (["jobs", "retry", "0"], "is not the id of a job"),
        (["jobs", "list", "--limit", "0"], "not in the range"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--db", url])
        said = capsys.readouterr().err
        assert ended.value.code == 2, (arguments, said)
        assert message in said, (arguments, said)
        assert "Traceback" not in said
    too_much = CliRunner().invoke(cli, ["insert", "f", "-", "--db", url], input=bytes(MAX_ARG + 1))
    assert isinstance(too_much.exception, UsageError)
    assert functions(url) == ["before"]


@pytest.mark.parametrize(
    ("version", "message"), [("9999", "update garivini"), ("0000", "garivini db upgrade")]
)
def test_the_command_refuses_a_database_newer_or_older_than_the_code(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], version: str, message: str
) -> None:
    connection = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
    connection.execute("UPDATE garivini_version SET version_num = ?", [version])
    for arguments in (["insert", "f"], ["jobs", "list"], ["db", "check"], ["run", "queue-runner"]):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--db", url])
        assert ended.value.code == 78
        assert message in capsys.readouterr().err
    assert connection.execute("SELECT funcname FROM job").fetchall() == [("before",)]
    connection.close()


# ---- while it runs


@contextmanager
def read_only(file: str) -> Iterator[None]:
    """Let every new connection to a file be one that cannot write."""

    def connected(connection: sqlite3.Connection, _: object) -> None:
        (_, _, path) = connection.execute("PRAGMA database_list").fetchone()
        if path.endswith(file):
            connection.execute("PRAGMA query_only = ON")

    event.listen(Engine, "connect", connected)
    yield
    event.remove(Engine, "connect", connected)


async def test_a_database_that_cannot_be_written_holds_up_no_other_and_its_jobs_run_afterwards(
    tmp_path: Path,
) -> None:
    async def scenario(seen: Seen) -> None:
        databases = list(Client([sqlite_url(tmp_path, "well.db"), sqlite_url(tmp_path, "ill.db")]).shards)
        for database in databases:
            database.insert([new_job("f", b"")])
            database.close()
        stop = asyncio.Event()
        settings = QueueRunnerSettings(poll=0.05)
        async with Server(port=0) as server:
            with read_only("ill.db"):
                serving = asyncio.create_task(
                    queue_runners.serve(databases, [server.address], settings, stop=stop)
                )
                await seen.wait("jobs.dispatched")
                role = "queue-runner of database 2"
                await seen.until(lambda: any(it["role"] == role for it in seen.of("role.error")))
            assert [fields["dbid"] for fields in seen.of("jobs.dispatched")] == [1]
            error = next(it for it in seen.of("role.error") if it["role"] == role)
            assert "is read-only; check the permissions" in error["error"]
            databases[1].close()  # its new connections can write
            await seen.until(lambda: any(it["role"] == role for it in seen.of("role.recovered")))
            assert [fields["dbid"] for fields in seen.of("jobs.dispatched")] == [1, 2]
            stop.set()
            await serving

    seen = Seen()
    unlisten = events.listen(seen)
    try:
        await scenario(seen)
    finally:
        unlisten()
