"""Exit statuses and messages of the commands, as docs/reference/commands.md lists them, and their signals."""

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import garivini
from garivini import Client, State
from garivini.cli.signals import exit_on_sigterm, sigterm_deferred
from garivini.gearman.blocking import Client as GearmanClient
from garivini.gearman.protocol import Submission
from tests.commands import invoke, run
from tests.databases import sqlite_url
from tests.processes import PATIENCE, command, replace_file, started, until
from tests.servers import embedded, free_port


@pytest.fixture
def url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path)


@pytest.fixture
def address() -> Iterator[str]:
    with embedded() as address:
        yield address


# ---- what was done


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["delete", "--yes"], "no such job"),
        (["cancel"], "no such job, or it is dead already"),
        (["retry"], "not waiting or dead"),
        (["reschedule", "--at", "+60"], "no such job"),
    ],
)
def test_jobs_that_are_not_there_are_named_with_status_1_and_the_others_done(
    url: str, words: list[str], why: str
) -> None:
    name, *options = words
    result = run("jobs", name, "999", *options, "--db", url)
    assert (result.returncode, result.stderr) == (1, f"garivini: not changed ({why}): 999\n")
    Client(url).insert_job("f")
    result = run("jobs", name, "999", "1", *options, "--db", url)
    assert (result.returncode, result.stderr) == (1, f"garivini: not changed ({why}): 999\n")
    assert "1" in result.stdout


def test_retry_cancel_reschedule_and_set_report_what_they_did(url: str) -> None:
    with Client(url) as client:
        client.insert_jobs([["f", None, None, ""]] * 2)
        assert invoke("jobs", "cancel", "1", "1:2", "--db", url).stdout == "1:1 cancelled\n1:2 cancelled\n"
        assert [job.state for job in client.list_jobs()] == [State.DEAD] * 2
        assert invoke("jobs", "retry", "1", "--db", url).stdout == "1:1 will run now\n"
        assert invoke("jobs", "reschedule", "1", "--at", "+9", "--db", url).stdout == "1:1 rescheduled\n"
    done = invoke("functions", "set", "f", "--lease", "60", "--db", url).stdout
    assert done.startswith("f is set in database 1")


def test_delete_asks_in_the_singular_for_one_job(url: str) -> None:
    Client(url).insert_job("f")
    refused = run("jobs", "delete", "1", "--db", url)
    assert "Delete 1 job for good?" in refused.stdout
    assert (refused.returncode, refused.stderr.splitlines()[-1]) == (130, "garivini: aborted")
    assert len(Client(url).list_jobs()) == 1


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["jobs", "list", "--nothing"], ["jobs", "show", "x"], ["insert"], ["jobs"]]
)
def test_wrong_usage_is_status_2_with_the_one_prefix(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert "Error:" not in result.stderr
    if arguments != ["jobs"]:  # which shows its help
        assert result.stderr.splitlines()[-1].startswith("garivini: ")


# ---- the table


def test_health_is_2_and_the_others_1_for_what_does_not_answer(url: str) -> None:
    places = ("--db", url, "--job-server", "127.0.0.1:1")
    assert [run(name, *places).returncode for name in ("health", "doctor", "status")] == [2, 1, 1]


def test_health_and_doctor_are_1_and_status_0_for_a_fault(url: str, address: str) -> None:
    with GearmanClient(address) as client:
        client.submit([Submission(b"f", b"")])
    places = ("--db", url, "--job-server", address)
    assert [run(name, *places).returncode for name in ("health", "doctor", "status")] == [1, 1, 0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["jobs", "list"],
        ["jobs", "show", "1"],
        ["jobs", "retry", "1"],
        ["jobs", "cancel", "1"],
        ["jobs", "reschedule", "1", "--at", "+1"],
        ["jobs", "delete", "1", "--yes"],
        ["functions", "list"],
        ["functions", "set", "f", "--lease", "60"],
        ["insert", "f"],
        ["db", "check"],
    ],
)
def test_a_database_away_is_69_and_one_without_tables_78(tmp_path: Path, arguments: list[str]) -> None:
    sqlite3.connect(tmp_path / "empty.db").close()
    away = run(*arguments, "--db", f"sqlite:///{tmp_path}/none/jobs.db")
    assert (away.returncode, away.stderr.count("\n")) == (69, 1)
    assert away.stderr.startswith("garivini: ")
    empty = run(*arguments, "--db", f"sqlite:///{tmp_path}/empty.db")
    assert (empty.returncode, empty.stderr.count("\n")) == (78, 1)
    assert "garivini db upgrade" in empty.stderr


@pytest.mark.slow
def test_a_locked_database_is_75(url: str, tmp_path: Path) -> None:
    Client(url).insert_job("f")
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as other:
        other.execute("BEGIN IMMEDIATE")
        result = run("jobs", "cancel", "1", "--db", url)
    assert (result.returncode, result.stderr.count("\n")) == (75, 1)


# ---- an address that is taken


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run", "dev"])
@pytest.mark.parametrize("taken_by", ["a server", "something else"])
def test_an_address_that_is_taken_is_status_1(url: str, tmp_path: Path, name: str, taken_by: str) -> None:
    with embedded() as address, socket.create_server(("127.0.0.1", 0)) as other:
        if taken_by == "something else":
            address = f"127.0.0.1:{other.getsockname()[1]}"
        result = subprocess.run(
            [sys.executable, "-m", "garivini", name, "--db", url, "--job-server", address],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
    assert result.returncode == 1
    assert f"garivini: cannot listen on {address}: another program listens there" in result.stderr
    assert result.stderr.count("garivini: ") == 1
    assert "try: garivini insert" not in result.stdout


@pytest.mark.slow
def test_dev_announces_its_address_once_it_listens(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    arguments = ("dev", "--db", f"sqlite:///{tmp_path}/new.db", "--job-server", address)
    with command(tmp_path, *arguments, PYTHONUNBUFFERED="1") as dev:
        dev.wait_for(f"Gearman server at {address}")
        with GearmanClient(address) as client:
            client.echo()
        assert dev.stop() == 0


@pytest.mark.slow
def test_dev_reports_a_broken_module_once_and_starts_the_mended_one(tmp_path: Path) -> None:
    good = (
        "import os\nfrom garivini import Client, Worker\n"
        "worker = Worker(Client(os.environ['GARIVINI_DB']), os.environ['GARIVINI_JOB_SERVERS'])\n"
        "@worker.function('f')\ndef f(job): pass\n"
    )
    (tmp_path / "work.py").write_text("def f(:\n")
    environment = {
        "GARIVINI_DB": f"sqlite:///{tmp_path}/new.db",
        "GARIVINI_JOB_SERVERS": f"127.0.0.1:{free_port()}",
    }
    with command(tmp_path, "dev", "work.py", "-p", "2", **environment) as dev:
        dev.wait_for("garivini: the worker has ended; it is restarted when a file changes")
        replace_file(tmp_path / "work.py", good)
        dev.wait_for("worker.started", 2)
        assert dev.output.count("SyntaxError") == 1
        assert dev.output.count("the worker has ended") == 1
        assert dev.stop() == 0


# ---- signals


def test_sigterm_ends_process_1_from_the_first_moment_on() -> None:
    """The signal comes as soon as the command begins to import: process 1 has no default for it."""
    code = """
import os, signal, sys
from garivini import __main__

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "garivini.cli":
            assert "click" not in sys.modules
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as the kernel does for process 1
            os.kill(pid, signal.SIGTERM)

pid = os.getpid()
os.getpid = lambda: 1
sys.meta_path.insert(0, Finder())
sys.argv = ["garivini", "db", "sql", "sqlite"]
__main__.main()
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 143


def in_namespace(*words: str) -> list[str]:
    program = shutil.which("unshare")
    if program is None or subprocess.run([program, "--pid", "--fork", "true"], check=False).returncode:
        pytest.skip("a pid namespace is not permitted here")
    return [program, "--pid", "--fork", "--kill-child", *words]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run", "worker", "dev", "db"])
def test_sigterm_ends_process_1_of_a_container(url: str, tmp_path: Path, name: str) -> None:
    (tmp_path / "work.py").write_text("import time\ntime.sleep(60)\n")
    arguments = {
        "run": ["run"],
        "worker": ["worker", "work.py", "-p", "1"],
        "dev": ["dev"],
        "db": ["db", "drain", "1"],  # waits for the job
    }[name]
    urls = url
    if name == "db":
        with Client(url) as client:
            client.insert_job("f")
            (database,) = client.shards
            (lane,) = database.lanes().lanes
            database.claim(lane, limit=1, lease=600)
        sqlite_url(tmp_path, "second.db")
        urls = f"{url} sqlite:///{tmp_path}/second.db"
    environment = {"GARIVINI_DB": urls, "GARIVINI_JOB_SERVERS": f"127.0.0.1:{free_port()}"}
    with started(
        in_namespace(sys.executable, "-m", "garivini", *arguments),
        env={**os.environ, **environment},
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        until(lambda: children.read_text().split())
        first = int(children.read_text().split()[0])

        def caught() -> bool:
            found = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{first}/status").read_text())
            return found is not None and bool(int(found[1], 16) >> signal.SIGTERM - 1 & 1)

        until(caught)
        os.kill(first, signal.SIGTERM)
        assert process.wait(PATIENCE) in (0, 143)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run", "worker", "dev"])
def test_sigterm_at_any_moment_of_the_start_ends_the_command(url: str, tmp_path: Path, name: str) -> None:
    (tmp_path / "work.py").write_text(
        "import os\nfrom garivini import Client, Worker\n"
        "worker = Worker(Client(os.environ['GARIVINI_DB']), os.environ['GARIVINI_JOB_SERVERS'])\n"
        "@worker.function('f')\ndef f(job): pass\n"
    )
    arguments = [name, *(["work.py", "-p", "2"] if name == "worker" else [])]
    environment = {"GARIVINI_DB": url, "GARIVINI_JOB_SERVERS": f"127.0.0.1:{free_port()}"}
    for tenth in range(12):
        with started(
            [sys.executable, "-m", "garivini", *arguments],
            env={**os.environ, **environment},
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            time.sleep(tenth / 10)  # the moment is the point
            process.terminate()
            assert process.wait(PATIENCE) in (0, -signal.SIGTERM), tenth


def test_sigterm_deferred_lets_a_process_that_starts_be_registered() -> None:
    registered = []

    def start() -> None:
        with sigterm_deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            registered.append(1)
        registered.append(2)

    with pytest.raises(SystemExit) as ended, exit_on_sigterm():
        start()
    assert registered == [1]
    assert ended.value.code == 128 + signal.SIGTERM


@pytest.mark.slow
def test_demo_ends_what_it_has_started_when_it_is_told_to_end(tmp_path: Path) -> None:
    # To list the library of this Python, as it does by default, takes longer than the rest.
    tree = str(Path(garivini.__file__).parent)
    with command(tmp_path, "demo", "--files", "300", tree, TMPDIR=str(tmp_path)) as demo:
        listed = Path(f"/proc/{demo.process.pid}/task/{demo.process.pid}/children")
        until(lambda: len(listed.read_text().split()) == 3, lambda: demo.output)
        children = listed.read_text().split()
        assert demo.stop() == 143
        assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert not list(tmp_path.glob("garivini-demo-*"))
