"""What pages show, with real processes."""

import os
import shlex
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from garivini import (
    Client,
)
from garivini.cli.options import DEFAULT_DATABASE, DEFAULT_SERVER
from tests import processes
from tests.docs.pages import DOCS, block_of, blocks, changed
from tests.processes import PATIENCE, until
from tests.servers import embedded, free_port


@pytest.mark.slow
def test_the_synopsis_runs(folder: Path) -> None:
    text = block_of("reference/calls.md", "synopsis").text
    with embedded() as server:
        (folder / "synopsis.py").write_text(text.replace(DEFAULT_SERVER, server))
        with processes.command(folder, "run", "queue-runner", GARIVINI_JOB_SERVERS=server):
            log = folder / "synopsis.log"
            with log.open("wb") as output:
                synopsis = processes.started(
                    [sys.executable, "-u", "synopsis.py"], cwd=folder, stdout=output, stderr=output
                )
                with synopsis as process:
                    until(lambda: "Hello world" in log.read_text(), log.read_text)
                    until(lambda: Client(DEFAULT_DATABASE).list_jobs() == [])
                    process.terminate()
                    assert process.wait(PATIENCE) == 0


@pytest.mark.slow
def test_the_tests_that_are_shown_pass(folder: Path) -> None:
    for block in blocks(DOCS / "how-to/test-your-jobs.md"):
        if "file" in block.marks:
            (folder / block.marks["file"]).write_text(block.text)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "."],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    assert "2 passed" in result.stdout


@pytest.mark.slow
def test_the_tutorial_works_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step: the files, the commands in their order, and what the reader is told to see."""
    monkeypatch.chdir(tmp_path)
    server, web = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    environment = {"GARIVINI_JOB_SERVERS": server, "GARIVINI_DB": DEFAULT_DATABASE}
    found = blocks(DOCS / "tutorial/first-job.md")

    def here(text: str) -> str:
        host, port = web.split(":")
        return text.replace(DEFAULT_SERVER, server).replace(f'"{host}", 8000', f'"{host}", {port}')

    def run(*words: str) -> str:
        result = subprocess.run(
            [sys.executable, "-m", "garivini", *words],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, (words, result.stdout, result.stderr)
        return result.stdout

    files = {block.marks["file"]: block.text for block in found if "file" in block.marks}
    for name, text in files.items():
        (tmp_path / name).write_text(here(text))
    lines = [line for block in found if block.language == "sh" for line in block.text.splitlines()]
    steps = iter(lines[lines.index("pytest") :])

    def step(expected: str) -> list[str]:
        line = next(steps)
        assert line.startswith(expected), line
        return shlex.split(line)[1:]

    def post(words: list[str]) -> str:
        request = urllib.request.Request(f"http://{web}/", data=words[words.index("-d") + 1].encode())
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            assert response.status == 202
            return str(response.read().decode())

    assert step("pytest") == []
    subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider"], check=True)
    with processes.command(tmp_path, *step("garivini dev"), **environment) as dev:
        dev.wait_for("worker.started")
        assert run(*step("garivini insert")) == "1:1\n"
        dev.wait_for("Welcome, Ada!")
        until(lambda: Client(DEFAULT_DATABASE).list_jobs() == [])
        assert run(*step("garivini jobs list")) == "no job\n"
        step("python web.py")
        with processes.started([sys.executable, "web.py"], stderr=subprocess.DEVNULL):
            until(lambda: _listens(web))
            assert post(step("curl")) == "accepted as job 1:2\n"
            dev.wait_for("Welcome, Grace!")
            (snippet,) = [block for block in found if block.language == "python" and not block.marks]
            subprocess.run([sys.executable, "-c", here(snippet.text)], check=True)
            dev.wait_for("Welcome, Edsger!")
            assert post(step("curl")) == "accepted as job 1:4\n"
        dev.wait_for("job.failed")
        until(lambda: [job.jobid for job in Client(DEFAULT_DATABASE).failed_jobs()] == [4])
        assert "1:4" in run(*step("garivini jobs list --failed"))
        assert "KeyError: 'fr'" in run(*step("garivini jobs show"))
        (change,) = [block for block in found if "change" in block.marks]
        changed(tmp_path / change.marks["change"], change)
        dev.wait_for("worker.started", 2)
        run(*step("garivini jobs retry"))
        dev.wait_for("Welcome, Simone!")
        until(lambda: run("jobs", "list") == "no job\n")
        assert list(steps) == []
        assert dev.stop() == 0


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except ConnectionRefusedError:
        return False
    return True
