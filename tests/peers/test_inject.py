"""Clients in other languages that inject, and the worker of one that returns nothing."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from garivini import Client, State
from garivini.gearman import blocking
from garivini.gearman.protocol import Submission
from tests.docs.pages import ROOT, blocks
from tests.peers import peer
from tests.peers.databases import Place
from tests.peers.peer import PROGRAMS, SUFFIXES
from tests.peers.test_tools import tool
from tests.processes import PATIENCE, Command, command
from tests.servers import embedded

pytestmark = pytest.mark.servers

BYTES = bytes(range(256))
PAGE = peer.HERE.parents[1] / "docs/how-to/pure-gearman.md"


@pytest.fixture
def injector(database: Place, server: str, tmp_path: Path) -> Iterator[Command]:
    """An Injector beside the server, in a process of its own."""
    with command(
        tmp_path, "run", "injector", GARIVINI_DB=database.url, GARIVINI_JOB_SERVERS=server
    ) as running:
        running.wait_for("gearman.connected")
        yield running
        assert running.stop() == 0


@pytest.mark.parametrize("language", PROGRAMS)
def test_a_stock_client_injects(language: str, injector: Command, server: str, client: Client) -> None:
    script = str(peer.HERE / f"inject.{SUFFIXES[language]}")
    words = [PROGRAMS[language], script, *server.split(":"), BYTES.hex()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    first, again, later, both, nested, last = done.stdout.splitlines()
    assert json.loads(first)["duplicate"] is False
    assert json.loads(again) == {**json.loads(first), "duplicate": True}
    assert [each["duplicate"] for each in json.loads(both)] == [False, False]
    if language == "php":  # doNormal has no way to say why
        assert nested == "failed"
    else:
        assert "give the text of its JSON" in nested
    jobs = {job.jobid: job for job in client.list_jobs()}
    assert len(jobs) == 5
    one = jobs[json.loads(first)["jobid"]]
    assert (one.arg, one.uniqkey, one.coalesce) == ("Grüße".encode(), "k", "group")
    assert (one.flag, one.state, one.attempt) == ("controller", State.LEASED, 1)
    waits = jobs[json.loads(later)["jobid"]]
    assert waits.state is State.WAITING
    assert 3600 <= waits.run_after - waits.created <= 3601  # never early
    assert [jobs[each["jobid"]].arg for each in json.loads(both)] == [b"1", b"2"]
    assert jobs[json.loads(last)["jobid"]].arg == BYTES


def test_the_tool_injects(injector: Command, server: str, client: Client) -> None:
    said = tool(server, "-f", "inject_jobs", data=b'{"funcname": "turn", "arg": "x"}')
    assert json.loads(said) == {"jobid": 1, "dbid": 1, "duplicate": False}
    assert [job.arg for job in client.list_jobs()] == [b"x"]


def shown(folder: Path, server: str) -> dict[str, list[str]]:
    """Write the programs of the guide for a server; return the command of each, in the order of the page."""
    host, port = server.split(":")
    programs = {}
    found = re.findall(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", PAGE.read_text(), flags=re.M | re.S)
    for name, text in found:
        for old, new in {"127.0.0.1:4730": server, "127.0.0.1": host, "4730": port}.items():
            text = text.replace(old, new)
        (folder / name).write_text(text)
        program = {"sh": "sh", "php": "php", "pl": "perl"}[name.partition(".")[2]]
        programs[name] = [program, str(folder / name)]
    return programs


def output(words: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_what_the_guide_shows_injects(injector: Command, server: str, client: Client, tmp_path: Path) -> None:
    said = []
    for words in shown(tmp_path, server).values():
        done = output(words)
        assert (done.returncode, done.stderr) == (0, "")
        said.append(done.stdout.strip())
    ids = [job.jobid for job in client.list_jobs()]
    assert len(ids) == 4
    reason = "a function name has 1 to 200 bytes, this one has 0; nothing was stored"
    assert f'"\\n";  // {reason}\n' in PAGE.read_text()
    assert said == [
        f'{{"jobid":{ids[0]},"dbid":1,"duplicate":false}}',
        str(ids[1]),
        reason,
        f"{ids[2]} {ids[3]}",
    ]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_php_program_of_the_guide_reports_a_dead_job(
    injector: Command, server: str, client: Client, tmp_path: Path
) -> None:
    words = shown(tmp_path, server)["inject.php"]
    jobid = output(words).stdout.strip()
    assert output(words).stdout.strip() == jobid
    assert client.cancel_job((int(jobid), 1))
    done = output(words)
    assert done.returncode != 0
    assert f"job {jobid} has this key and is dead" in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["inject.php", "inject-task.php"])
def test_a_php_program_of_the_guide_does_not_wait_for_ever(
    name: str, either_server: str, tmp_path: Path
) -> None:
    (program, file) = shown(tmp_path, either_server)[name]
    text = Path(file).read_text()
    assert "setTimeout(10_000)" in text
    Path(file).write_text(text.replace("10_000", "100"))
    done = output([program, file])
    assert "may not have been stored" in done.stderr + done.stdout or "no answer" in done.stdout


def test_the_php_lines_of_the_readme_inject(injector: Command, server: str, client: Client) -> None:
    (block,) = [block for block in blocks(ROOT / "README.md") if block.language == "php"]
    host, port = server.split(":")
    done = output(["php", "-r", block.text.replace("'127.0.0.1', 4730", f"'{host}', {port}")])
    (job,) = client.list_jobs()
    assert (job.funcname, job.json, job.flag) == ("jobs.hello", {"name": "world"}, "shim")
    assert done.stdout == f'{{"jobid":{job.jobid},"dbid":1,"duplicate":false}} is committed\n'


def test_a_perl_worker_may_return_nothing(tmp_path: Path) -> None:
    with (
        embedded() as address,
        peer.run(["perl", str(peer.HERE / "empty_worker.pl"), *address.split(":")], tmp_path),
        blocking.Client(address) as caller,
    ):
        for _ in range(2):
            assert caller.run(Submission(b"nothing", b"x")) == b""
