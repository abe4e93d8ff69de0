"""``--forks``: tests in processes that one collection serves; what is lost is reported."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.forks import pieces
from tests.source import ROOT

TESTS: Final = """
import os, socket, time
from pathlib import Path
import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def session():
    yield
    (HERE / f"ended-{os.getpid()}").touch()


@pytest.mark.parametrize("number", range(200))
def test_passes(session, number):
    (HERE / f"ran-{number}").touch()


def test_fails():
    print("captured")
    assert 1 == 2


def test_is_skipped():
    pytest.skip("why not")


def test_crashes():
    os._exit(0)


def test_is_next():
    pass


def test_is_killed():
    os.kill(os.getpid(), 9)
"""
LEAK: Final = """
import socket


def test_leaks():
    cycle = [socket.socket()]
    cycle.append(cycle)
"""


def run(folder: Path, text: str, *options: str) -> tuple[int, str]:
    (folder / "test_it.py").write_text(text)
    words = ["-q", "-p", "tests.forks", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(folder)]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *words, *options, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.parametrize(("count", "workers"), [(1, 1), (1, 8), (7, 3), (4000, 3)])
def test_pieces_have_each_test_once_and_short_ones_last(count: int, workers: int) -> None:
    found = list(pieces(count, workers))
    assert [number for piece in found for number in range(*piece)] == list(range(count))
    lengths = [stop - start for start, stop in found]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] == 1


@pytest.mark.slow
def test_forks_run_each_test_and_report_those_whose_process_was_lost(tmp_path: Path) -> None:
    status, output = run(tmp_path, TESTS, "--forks", "4", "-rfs")
    assert status == 1, output
    assert len(list(tmp_path.glob("ran-*"))) == 200
    assert "captured" in output
    assert "why not" in output
    assert "test_crashes - its process was killed or crashed" in output
    # A process takes its next test before it runs one, so the one that crashed may have taken either of the
    # last two with it.
    was_run = "test_is_killed - its process was killed or crashed" in output
    assert was_run or "test_is_killed - it was not run: its process was lost" in output
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped)", output)}
    assert sum(counts.values()) == 205
    assert (counts["skipped"], counts["failed"] - 3) in ((1, 0), (1, 1))
    # Each process that was not lost has ended its session.
    assert len(list(tmp_path.glob("ended-*"))) == (2 if was_run else 3)


@pytest.mark.slow
def test_forks_report_tests_that_no_process_is_left_for(tmp_path: Path) -> None:
    status, output = run(
        tmp_path, "import os\ndef test_a():\n    os._exit(0)\ndef test_b(): pass", "--forks", "1"
    )
    assert status == 1, output
    assert "test_b - it was not run: its process was lost" in output


@pytest.mark.slow
def test_forks_stop_after_the_first_failure(tmp_path: Path) -> None:
    text = "import pytest\n@pytest.mark.parametrize('n', range(2000))\ndef test_a(n): assert n != 5"
    status, output = run(tmp_path, text, "--forks", "2", "-x")
    assert status == 1, output
    assert "stopping after 1 failures" in output
    assert int(output.split(" passed")[0].split()[-1]) < 1900


@pytest.mark.slow
def test_forks_fail_if_the_last_test_of_a_process_leaves_a_resource_open(tmp_path: Path) -> None:
    status, output = run(tmp_path, LEAK, "--forks", "1", "-W", "error")
    assert status != 0, output
    assert "unclosed <socket" in output
