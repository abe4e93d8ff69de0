"""All jobs that match: the calls of both clients and the commands, over several databases."""

import asyncio
import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from garivini import AsyncClient, BulkProgress, Client, JobQuery, RefusedError, State, UsageError
from garivini.cli.jobs.progress import Progress
from tests.commands import on_terminal, run
from tests.databases import sqlite_url
from tests.processes import PATIENCE, until

FILES: Final = ("a.db", "b.db")


@cache
def filled_files() -> list[bytes]:
    """Return two databases, with 1,500 jobs of one function and 3 of another in each."""
    with tempfile.TemporaryDirectory() as name:
        for dbid, file in enumerate(FILES, 1):
            with Client({dbid: sqlite_url(Path(name), file)}) as client:
                client.insert_jobs([["often", None, None, str(number)] for number in range(1500)])
                client.insert_jobs([["rare", None, None, f"100% {number}"] for number in range(3)])
        return [(Path(name) / file).read_bytes() for file in FILES]


@pytest.fixture
def urls(tmp_path: Path) -> list[str]:
    """Copies of the two, a test's own: to fill them takes longer than a test."""
    for file, contents in zip(FILES, filled_files(), strict=True):
        (tmp_path / file).write_bytes(contents)
    return [f"sqlite:///{tmp_path / file}" for file in FILES]


@pytest.fixture
def client(urls: list[str]) -> Iterator[Client]:
    with Client(urls) as client:
        yield client


RARE = JobQuery(funcname="rare")
OFTEN = JobQuery(funcname="often")


def states(client: Client, query: JobQuery) -> set[State]:
    return {job.state for job in client.search_jobs(query, limit=10_000)}


# ---- clients


def test_search_jobs_reads_each_database_and_continues_after_a_job(client: Client) -> None:
    found = client.search_jobs(RARE)
    assert [job.id for job in found] == [f"{dbid}:{jobid}" for dbid in (1, 2) for jobid in (1501, 1502, 1503)]
    first = client.search_jobs(RARE, limit=4)
    assert first == found[:4]
    assert first + client.search_jobs(RARE, after=first[-1]) == found
    assert client.search_jobs(RARE, after="1:1503") == found[3:]
    assert client.search_jobs(JobQuery(arg_text="% 1"), limit=1) == found[1:2]


def test_progress_rises_to_the_end_of_all_databases(client: Client) -> None:
    seen: list[BulkProgress] = []
    assert client.search_jobs(JobQuery(arg_text="none"), progress=seen.append) == []
    assert [done.examined for done in seen] == [100, 1100, 1503, 1603, 2603, 3006]
    assert [done.fraction for done in seen] == sorted(done.fraction for done in seen)
    assert seen[-1] == BulkProgress(3006, 0, 0, 0, 1.0)


def test_a_dry_run_counts_and_changes_nothing(client: Client) -> None:
    assert client.count_jobs(RARE) == 6
    assert client.cancel_all(OFTEN, dry_run=True) == BulkProgress(3006, 3000, 3000, 0, 1.0)
    assert states(client, JobQuery()) == {State.WAITING}


def test_cancel_all_and_retry_all_change_exactly_the_jobs_that_match(client: Client) -> None:
    assert client.cancel_all(OFTEN, "why").changed == 3000
    assert (states(client, OFTEN), states(client, RARE)) == ({State.DEAD}, {State.WAITING})
    assert client.cancel_all(OFTEN) == BulkProgress(3006, 3000, 0, 3000, 1.0)
    assert client.count_jobs(JobQuery(error_text="why")) == 3000
    assert client.retry_all(JobQuery(state="dead", error_text="why")).changed == 3000
    assert states(client, JobQuery()) == {State.WAITING}


def test_other_changes_of_all_jobs_that_match(client: Client) -> None:
    assert client.prioritize_all(RARE, "high").changed == 6
    assert {job.priority for job in client.search_jobs(RARE)} == {"high"}
    assert client.reschedule_all(RARE, 2_000_000_000).changed == 6
    assert {job.run_after for job in client.search_jobs(RARE)} == {2_000_000_000}
    assert client.discard_all(RARE, "gone").changed == 6
    assert client.failures("1:1501")[0].kind == "discarded"
    assert client.delete_all(JobQuery(error_text="gone")).changed == 6
    assert client.delete_all(OFTEN).changed == 3000
    assert client.count_jobs(JobQuery()) == 0


def test_discard_job_and_prioritize_job_change_one_waiting_job(client: Client) -> None:
    assert client.prioritize_job("2:1", "low")
    assert client.discard_job("2:1", "why")
    assert not client.prioritize_job("2:1", "low")
    assert not client.discard_job("2:4711")
    (job,) = client.search_jobs(JobQuery(state=State.DEAD))
    assert (job.id, job.priority) == ("2:1", "low")


def test_progress_can_end_a_change_and_what_was_changed_stays(client: Client) -> None:
    def stop(done: BulkProgress) -> None:
        seen.append(done)
        raise InterruptedError

    seen: list[BulkProgress] = []
    with pytest.raises(InterruptedError):
        client.cancel_all(OFTEN, progress=stop)
    assert seen == [BulkProgress(1000, 1000, 1000, 0, seen[0].fraction)]
    assert client.count_jobs(JobQuery(state="dead")) == 1000


def test_a_job_that_the_database_refuses_to_change_stops_no_other(client: Client, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as stranger:
        stranger.execute(
            "CREATE TRIGGER refuse BEFORE UPDATE ON job WHEN old.jobid % 700 = 0"
            " BEGIN SELECT raise(ABORT, 'not this one'); END"
        )
    assert client.cancel_all(OFTEN) == BulkProgress(3006, 3000, 2998, 2, 1.0)
    with pytest.raises(RefusedError, match="not this one"):
        client.prioritize_all(JobQuery(arg_text="699", state="waiting"), "low")  # no other job matches
    assert client.prioritize_all(JobQuery(state="waiting"), "low") == BulkProgress(3006, 8, 6, 2, 1.0)
    with closing(sqlite3.connect(tmp_path / "a.db")) as stranger:
        stranger.execute("CREATE TRIGGER all_of BEFORE UPDATE ON job BEGIN SELECT raise(ABORT, 'none'); END")
    with pytest.raises(RefusedError, match="none"):
        client.retry_all(JobQuery(state="dead"))


def test_wrong_arguments_are_refused_before_anything_is_done(client: Client) -> None:
    wrong: Any = {"funcname": "rare"}
    with pytest.raises(UsageError, match="JobQuery"):
        client.cancel_all(wrong)
    with pytest.raises(UsageError, match="JobQuery"):
        client.search_jobs(wrong)
    with pytest.raises(UsageError):
        client.reschedule_all(RARE, "soon")
    urgent: Any = "urgent"
    with pytest.raises(UsageError):
        client.prioritize_all(RARE, urgent)
    with pytest.raises(UsageError):
        client.search_jobs(RARE, after="3:1")
    assert states(client, JobQuery()) == {State.WAITING}


async def test_the_async_client_has_the_same_calls(client: Client, urls: list[str]) -> None:
    async with AsyncClient(urls) as waiting:
        seen: list[BulkProgress] = []
        assert await waiting.search_jobs(RARE, limit=4, progress=seen.append) == client.search_jobs(
            RARE, limit=4
        )
        assert seen[-1].matched == 4
        assert await waiting.count_jobs(RARE) == 6
        assert (await waiting.retry_all(RARE, dry_run=True)).changed == 6
        assert (await waiting.prioritize_all(RARE, "low")).changed == 6
        assert (await waiting.reschedule_all(RARE, "+60", progress=seen.append)).changed == 6
        assert seen[-1].changed == 6
        assert await waiting.prioritize_job("1:1501", "high")
        assert await waiting.discard_job("1:1501", "why")
        assert (await waiting.discard_all(RARE)).changed == 5
        assert (await waiting.cancel_all(RARE, "why")).skipped == 6
        assert (await waiting.delete_all(RARE)).changed == 6


async def test_a_cancelled_call_of_the_async_client_ends_after_its_page(
    client: Client, urls: list[str]
) -> None:
    async with AsyncClient(urls) as waiting:
        task = asyncio.create_task(waiting.cancel_all(OFTEN, progress=lambda _: task.cancel()))
        with pytest.raises(asyncio.CancelledError):
            await task
    assert client.count_jobs(JobQuery(state="dead")) in (1000, 1500)


# ---- commands


def jobs(urls: list[str], *arguments: str) -> tuple[int, str, str]:
    return run("jobs", *arguments, GARIVINI_DB=" ".join(urls))


def test_list_finds_jobs_by_filters_in_all_databases(client: Client, urls: list[str]) -> None:
    status, output, _ = jobs(urls, "list", "--arg-text", "0% 2", "-o", "jsonl")
    found = [json.loads(line) for line in output.splitlines()]
    assert (status, [(job["dbid"], job["arg"]) for job in found]) == (0, [(1, "100% 2"), (2, "100% 2")])
    assert jobs(urls, "list", "--function", "rare", "--created-from", "+60")[1] == "no job\n"
    assert jobs(urls, "list", "--function", "rare", "--created-from", "2020-01-01")[1].count("rare") == 6
    assert jobs(urls, "list", "--function", "rare", "--created-before", "-60")[1] == "no job\n"


def test_a_change_by_filters_says_how_many(client: Client, urls: list[str]) -> None:
    assert jobs(urls, "cancel", "--function", "rare", "--dry-run") == (
        0,
        "dry run, nothing was changed. 6 jobs would be cancelled; 3,006 examined\n",
        "",
    )
    assert jobs(urls, "cancel", "--function", "rare", "--reason", "why", "--yes")[:2] == (
        0,
        "6 jobs cancelled; 3,006 examined\n",
    )
    assert jobs(urls, "discard", "--function", "rare", "--yes")[1].startswith("0 jobs discarded; 6 skipped")
    assert jobs(urls, "retry", "--error-text", "why", "--yes")[1].startswith("6 jobs retried;")
    assert jobs(urls, "priority", "--function", "rare", "--to", "high", "--yes")[0] == 0
    assert jobs(urls, "reschedule", "--function", "rare", "--at", "2000000000", "--yes")[0] == 0
    assert {(job.priority, job.run_after) for job in client.search_jobs(RARE)} == {("high", 2_000_000_000)}
    assert jobs(urls, "delete", "--function", "rare", "--yes")[1] == "6 jobs deleted; 3,006 examined\n"


def test_priority_and_discard_change_jobs_that_are_named(client: Client, urls: list[str]) -> None:
    assert jobs(urls, "priority", "1:1", "2:1", "--to", "low")[:2] == (
        0,
        "1:1 given priority low\n2:1 given priority low\n",
    )
    assert jobs(urls, "discard", "1:1", "1:4711") == (
        1,
        "1:1 discarded\n",
        "garivini: not changed (not waiting): 1:4711\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["retry"], "name jobs by their ids, or give filters"),
        (["retry", "1:1", "--function", "rare"], "one of the two"),
        (["retry", "1:1", "--dry-run"], "--dry-run counts"),
        (["delete", "--function", "rare"], "give --yes"),
        (["cancel", "--failed"], "give --yes"),
        (["retry", "--failed", "--state", "dead", "--yes"], "exclude each other"),
        (["retry", "--created-from", "yesterday", "--yes"], "is not a time"),
        (["retry", "--error-text", "", "--yes"], "matches no job"),
    ],
)
def test_a_change_that_does_not_say_which_jobs_is_refused(
    client: Client, urls: list[str], arguments: list[str], message: str
) -> None:
    status, output, errors = jobs(urls, *arguments)
    assert (status, output) == (2, "")
    assert message in errors
    assert states(client, JobQuery()) == {State.WAITING}


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "left"), [("y", 3000), ("n", 3006)])
def test_a_terminal_asks_before_more_than_one_job_is_changed(
    client: Client, urls: list[str], answer: str, left: int
) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "wb", 0) as keyboard:
        process = subprocess.Popen(
            [sys.executable, "-m", "garivini", "jobs", "delete", "--function", "rare"],
            env={**os.environ, "GARIVINI_DB": " ".join(urls)},
            stdin=theirs,
            stdout=subprocess.PIPE,
            text=True,
        )
        os.close(theirs)
        keyboard.write(f"{answer}\n".encode())
        output, _ = process.communicate(timeout=PATIENCE)
    assert "6 jobs will be deleted. Continue?" in output
    assert client.count_jobs(JobQuery()) == left


def test_a_search_on_a_terminal_shows_how_far_it_has_come(
    client: Client, urls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("garivini.cli.jobs.progress._FIRST", 0.0)
    monkeypatch.setattr("garivini.cli.jobs.progress._INTERVAL", 0.0)
    arguments = ("jobs", "list", "--arg-text", "none")
    status, output = on_terminal(200, *arguments, GARIVINI_DB=" ".join(urls))
    assert status == 0
    assert "[####################] 100%: 3,006 examined, 0 found" in output
    assert output.endswith("\r\x1b[Kno job\n")


def test_ctrl_c_ends_a_search_after_its_page_and_says_how_far_it_came(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(signal.SIGINT)
    finished = []

    def search() -> None:
        with Progress() as progress:
            progress(BulkProgress(1000, 10, 9, 1, 0.25))
            os.kill(os.getpid(), signal.SIGINT)
            finished.append("the page in progress")
            progress(BulkProgress(2000, 20, 18, 2, 0.5))
            finished.append("another page")

    with pytest.raises(KeyboardInterrupt):
        search()
    assert finished == ["the page in progress"]
    assert signal.getsignal(signal.SIGINT) is before
    assert capsys.readouterr().err == (
        "garivini: stopped at 50%: 2,000 examined, 20 found, 18 changed, 2 skipped\n"
    )


@pytest.mark.slow
def test_ctrl_c_leaves_what_a_command_has_done(client: Client, urls: list[str], tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "b.db", isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        process = subprocess.Popen(
            [sys.executable, "-m", "garivini", "jobs", "cancel", "--function", "often", "--yes"],
            env={**os.environ, "GARIVINI_DB": " ".join(urls)},
            stderr=subprocess.PIPE,
            text=True,
        )
        # Then it waits for the lock, to write its first page of the second database.
        until(lambda: client.count_jobs(JobQuery(state="dead")) == 1500)
        process.send_signal(signal.SIGINT)
        stranger.execute("ROLLBACK")
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "2,503 examined, 2,500 found, 2,500 changed, 0 skipped" in errors
    assert client.count_jobs(JobQuery(state="dead")) == 2500


def test_a_second_ctrl_c_ends_a_page_that_hangs() -> None:
    def search() -> None:
        with Progress():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        search()


@pytest.mark.slow
def test_a_change_that_a_database_ends_says_how_far_it_came(
    client: Client, urls: list[str], tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "b.db")) as stranger:
        stranger.execute("CREATE TRIGGER none BEFORE UPDATE ON job BEGIN SELECT raise(ABORT, 'none'); END")
    status, output, errors = jobs(urls, "cancel", "--function", "often", "--yes")
    assert (status, output) == (1, "")
    assert errors.startswith(
        "garivini: stopped at 50%: 1,503 examined, 1,500 found, 1,500 changed, 0 skipped\n"
    )
    assert client.count_jobs(JobQuery(state="dead")) == 1500
