"""``garivini worker`` replaces its processes, reloads their code and selects functions. Real processes."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from garivini import Client, UsageError, Worker
from garivini.cli.worker import parse_size
from garivini.cli.worker_child import Selection
from garivini.worker.file_changes import FileChanges
from garivini.worker.replacement import resident_bytes
from tests.databases import sqlite_url
from tests.processes import PATIENCE, alive, command, replace_file, until
from tests.test_worker_process import Shop

JOBS = """
import asyncio, json, os, threading, time
from pathlib import Path

from garivini import Client, Worker

worker = Worker(Client(os.environ["GARIVINI_DB"]), os.environ["GARIVINI_JOB_SERVERS"])
kept = []


def note(name, *values):
    with open(name, "a") as file:
        file.write(json.dumps([os.getpid(), *values]) + "\\n")


@worker.function("counted")
def counted(job):
    note("counted", job.jobid)


@worker.function("grows")
def grows(job):
    kept.append(b"x" * int(job.arg))
    note("grows", job.jobid)


@worker.function("waits")
async def waits(job):
    note("waits", job.jobid)
    while not Path("go-on").exists():
        await asyncio.sleep(0.01)
    note("waited", job.jobid, job.stopping)


@worker.function("until_stopped")
def until_stopped(job):
    note("running", job.stopping)
    seen = []
    thread = threading.Thread(target=lambda: wait_for_stop(job, seen))
    thread.start()
    while not job.stopping:
        time.sleep(0.01)
    thread.join()
    note("stopped", *seen)


def wait_for_stop(job, seen):
    while not job.stopping:
        time.sleep(0.01)
    seen.append("thread")


@worker.function("until_stopped_async")
async def until_stopped_async(job):
    note("running", job.stopping)
    while not job.stopping:
        await asyncio.sleep(0.01)
    note("stopped", "async")
"""


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    found = Shop(tmp_path, JOBS)
    with command(tmp_path, "run", **found.environment) as roles:
        roles.wait_for("role.started")
        yield found
    found.client.close()


def notes(shop: Shop, name: str) -> list[list[Any]]:
    """Return what the functions have noted: the process, and further values."""
    file = shop.folder / name
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


# ---- --max-jobs and --max-memory


@pytest.mark.slow
def test_max_jobs_replaces_a_process_and_each_job_runs_once(shop: Shop) -> None:
    with shop.worker("--max-jobs", "5") as worker:
        for number in range(3):
            shop.client.insert_jobs([["counted", None, None, b""]] * 10)
            shop.until_empty()
            worker.wait_for("worker.stopped", number + 1)
        found = notes(shop, "counted")
        assert len({jobid for _, jobid in found}) == len(found) == 30
        assert len({pid for pid, _ in found}) >= 3
        assert worker.stop() == 0
        assert "reason='jobs'" in worker.output
        assert "child_died" not in worker.output


@pytest.mark.slow
def test_max_jobs_lets_a_long_job_end_while_the_next_process_runs_others(shop: Shop) -> None:
    with shop.worker("--max-jobs", "1", "--drain", "0.1") as worker:
        shop.client.insert_job("waits")
        until(lambda: notes(shop, "waits"))
        shop.client.insert_job("counted")
        worker.wait_for("worker.replaced")
        shop.client.insert_job("counted")  # one process is leaving, so the next has to stay
        shop.client.insert_job("counted")
        until(lambda: len(notes(shop, "counted")) == 3)
        old = notes(shop, "waits")[0][0]
        assert len({pid for pid, _ in notes(shop, "counted")}) == 2
        assert worker.output.count("worker.replaced") == 1
        assert alive(old)
        (shop.folder / "go-on").touch()
        until(lambda: notes(shop, "waited"))
        shop.until_empty()
        assert [pid for pid, *_ in notes(shop, "waits")] == [old]  # longer than --drain, and not interrupted
        assert notes(shop, "waited")[0][2] is True
        until(lambda: not alive(old))
        worker.wait_for("worker.replaced", 2)  # now the second may leave


@pytest.mark.slow
def test_a_signal_limits_the_drain_of_a_process_that_is_being_replaced(shop: Shop) -> None:
    with shop.worker("--max-jobs", "1", "--drain", "0.3") as worker:
        shop.client.insert_job("waits")
        until(lambda: notes(shop, "waits"))
        shop.client.insert_job("counted")
        worker.wait_for("worker.replaced")
        began = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - began < PATIENCE / 2
        assert "worker.drain_incomplete" in worker.output
        assert not alive(notes(shop, "waits")[0][0])


@pytest.mark.slow
def test_max_memory_replaces_a_process_that_has_grown(shop: Shop) -> None:
    with shop.worker("--max-memory", "256MiB") as worker:
        shop.client.insert_job("grows", "1000")
        until(lambda: notes(shop, "grows"))
        shop.client.insert_job("grows", str(256 << 20))
        worker.wait_for("reason='memory'")
        worker.wait_for("worker.stopped")
        shop.client.insert_job("counted")
        until(lambda: notes(shop, "counted"))
        pids = [pid for pid, _ in notes(shop, "grows") + notes(shop, "counted")]
        assert pids[0] == pids[1] != pids[2]
        assert "child_died" not in worker.output


def test_resident_bytes_grows_with_the_memory_in_use() -> None:
    before = resident_bytes()
    block = b"x" * (64 << 20)
    assert resident_bytes() - before >= 48 << 20
    del block


@pytest.mark.parametrize(
    ("text", "size"), [("1048576", 1 << 20), ("512MiB", 512 << 20), ("2 gib", 2 << 30), ("1KiB", 1024)]
)
def test_parse_size_takes_bytes_and_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["0", "-1", "512MB", "1.5GiB", "MiB", ""])
def test_parse_size_refuses_what_is_no_size(text: str) -> None:
    with pytest.raises(Exception, match="is not a size"):
        parse_size(text)


# ---- --reload


CHANGING = """
import os
from garivini import Client, Worker
import helper

worker = Worker(Client(os.environ["GARIVINI_DB"]), os.environ["GARIVINI_JOB_SERVERS"])


@worker.function("version")
def version(job):
    with open("versions", "a") as file:
        file.write(f"[{os.getpid()}, {helper.VERSION}]\\n")
"""


def versions_after(shop: Shop, count: int) -> list[int]:
    shop.client.insert_job("version")
    until(lambda: len(notes(shop, "versions")) == count)
    return [version for _, version in notes(shop, "versions")]


@pytest.mark.slow
def test_reload_runs_the_new_code_and_outlives_a_syntax_error(shop: Shop) -> None:
    (shop.folder / "work.py").write_text(CHANGING)
    helper = shop.folder / "helper.py"
    helper.write_text("VERSION = 1\n")
    with command(shop.folder, "worker", "work.py", "--reload", **shop.environment) as worker:
        assert versions_after(shop, 1) == [1]
        replace_file(helper, "VERSION = 2\n")
        worker.wait_for("reason='files'")
        assert versions_after(shop, 2) == [1, 2]
        replace_file(helper, "VERSION = (\n")
        worker.wait_for("SyntaxError")
        worker.wait_for("waiting for a change of a file")
        assert "helper.py" in worker.output
        replace_file(helper, "VERSION = 4\n")
        assert versions_after(shop, 3) == [1, 2, 4]
        assert "child_died" not in worker.output
        assert worker.stop() == 0


@pytest.mark.slow
def test_reload_waits_for_a_module_that_does_not_exist_yet(shop: Shop) -> None:
    (shop.folder / "work.py").unlink()
    with command(shop.folder, "worker", "work.py", "--reload", **shop.environment) as worker:
        worker.wait_for("waiting for a change of a file")
        (shop.folder / "helper.py").write_text("VERSION = 1\n")
        replace_file(shop.folder / "work.py", CHANGING)
        assert versions_after(shop, 1) == [1]
        assert worker.stop() == 0


@pytest.mark.slow
def test_a_worker_that_waits_for_a_change_ends_at_a_signal(shop: Shop) -> None:
    (shop.folder / "work.py").write_text("x = (\n")
    with command(shop.folder, "worker", "work.py", "--reload", **shop.environment) as worker:
        worker.wait_for("waiting for a change of a file")
        assert worker.stop(signal.SIGINT) == 0


def test_found_sees_a_change_between_the_start_and_the_first_call_but_no_time_in_the_future(
    tmp_path: Path,
) -> None:
    file = tmp_path / "a.py"
    file.write_text("")
    changed = file.stat().st_mtime_ns
    assert FileChanges(changed - 1).found([file])
    changes = FileChanges(changed)
    assert not changes.found([file])
    os.utime(file, ns=(changed + 10**15, changed + 10**15))
    assert changes.found([file])
    assert not changes.found([file])
    assert not FileChanges(changed).found([file])
    file.unlink()
    assert not changes.found([file])


# ---- job.stopping


@pytest.mark.slow
def test_stopping_becomes_true_in_def_thread_and_async_def_at_a_signal(shop: Shop) -> None:
    with shop.worker() as worker:
        shop.client.insert_job("until_stopped")
        shop.client.insert_job("until_stopped_async")
        until(lambda: len(notes(shop, "running")) == 2)
        assert [stopping for _, stopping in notes(shop, "running")] == [False, False]
        assert worker.stop() == 0
        assert sorted(kind for _, kind in notes(shop, "stopped")) == ["async", "thread"]
        assert shop.client.list_jobs() == []


# ---- --only and --exclude


def made_worker(folder: Path, *names: str) -> Worker:
    worker = Worker(Client(sqlite_url(folder)), "127.0.0.1:1")
    for name in names:
        worker.function(name)(lambda job: None)
    return worker


@pytest.mark.parametrize(
    ("only", "exclude", "left"),
    [
        ((), (), ["mail.send", "mail.sort", "pdf.make"]),
        (("mail.*",), (), ["mail.send", "mail.sort"]),
        (("mail.*", "pdf.*"), ("*.sort",), ["mail.send", "pdf.make"]),
        ((), ("mail.*", "no.such"), ["pdf.make"]),
    ],
)
def test_apply_leaves_the_selected_functions(
    tmp_path: Path, only: tuple[str, ...], exclude: tuple[str, ...], left: list[str]
) -> None:
    worker = made_worker(tmp_path, "mail.send", "mail.sort", "pdf.make")
    Selection(only, exclude).apply(worker)
    assert list(worker.functions) == left


def test_apply_refuses_a_glob_without_a_function_and_a_selection_of_none(tmp_path: Path) -> None:
    worker = made_worker(tmp_path, "mail.send")
    with pytest.raises(UsageError, match=r"--only male\.\* matches no function: there are mail\.send"):
        Selection(("mail.*", "male.*")).apply(worker)
    with pytest.raises(UsageError, match="leave no function"):
        Selection((), ("*",)).apply(worker)


@pytest.mark.slow
def test_worker_with_only_runs_no_other_functions(shop: Shop) -> None:
    with shop.worker("--only", "c*") as worker:
        other = shop.client.insert_job("grows", "1")
        shop.client.insert_job("counted")
        until(lambda: notes(shop, "counted"))
        assert "functions=['counted']" in worker.output
        assert shop.client.get_job(other) is not None
        assert notes(shop, "grows") == []


@pytest.mark.slow
def test_worker_with_only_of_no_function_ends_with_78(shop: Shop) -> None:
    with command(shop.folder, "worker", "work.py", "-p", "2", "--only", "x", **shop.environment) as worker:
        assert worker.process.wait(PATIENCE) == 78
        assert worker.output.count("--only x matches no function") == 1
