import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import PATIENCE, alive, until

pytestmark = pytest.mark.slow


@contextmanager
def supervised(folder: Path, child: str, processes: int = 2) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a Supervisor whose children note their pid in a file and then do what the test says."""
    (folder / "pids").mkdir()
    program = folder / "program.py"
    program.write_text(
        textwrap.dedent(
            f"""
            import os, select, signal, sys, time
            from pathlib import Path
            from garivini.supervisor import Supervisor

            def child(lifeline):
            {textwrap.indent(textwrap.dedent(child), "                ")}

            def noted(lifeline):
                Path("pids", str(os.getpid())).touch()
                child(lifeline)

            sys.exit(Supervisor(noted, {processes}).run())
            """
        )
    )
    process = subprocess.Popen([sys.executable, str(program)], cwd=folder)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pid in pids(folder):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def pids(folder: Path) -> list[int]:
    return [int(path.name) for path in (folder / "pids").iterdir()]


def test_a_child_that_is_killed_is_started_again(tmp_path: Path) -> None:
    with supervised(tmp_path, "select.select([lifeline], [], [])") as parent:
        until(lambda: len(pids(tmp_path)) == 2)
        killed = pids(tmp_path)[0]
        os.kill(killed, signal.SIGKILL)
        until(lambda: len(pids(tmp_path)) == 3)
        assert parent.poll() is None


def test_the_first_signal_drains_and_the_parent_ends_with_its_children(tmp_path: Path) -> None:
    with supervised(
        tmp_path, "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); time.sleep(60)"
    ) as parent:
        until(lambda: len(pids(tmp_path)) == 2)
        parent.terminate()
        assert parent.wait(PATIENCE) == 0
        assert not any(map(alive, pids(tmp_path)))
        assert len(pids(tmp_path)) == 2


def test_interrupting_the_whole_group_is_one_signal_to_a_child(tmp_path: Path) -> None:
    """A terminal sends ^C to everybody; a child that heard it twice would end without draining."""
    child = """
        got = []
        signal.signal(signal.SIGTERM, lambda *_: got.append(1))
        Path("ready%d" % os.getpid()).touch()
        while not got:
            time.sleep(0.01)
        time.sleep(0.2)
        Path("signals").write_text(str(len(got)))
    """
    with supervised(tmp_path, child, processes=1) as parent:
        until(lambda: list(tmp_path.glob("ready*")))
        for pid in (parent.pid, *pids(tmp_path)):
            os.kill(pid, signal.SIGINT)
        assert parent.wait(PATIENCE) == 0
        assert (tmp_path / "signals").read_text() == "1"


def test_children_see_the_death_of_their_parent(tmp_path: Path) -> None:
    with supervised(tmp_path, "select.select([lifeline], [], [])") as parent:
        until(lambda: len(pids(tmp_path)) == 2)
        parent.kill()
        until(lambda: not any(map(alive, pids(tmp_path))))


def test_a_child_that_cannot_be_configured_ends_the_parent_with_its_status(tmp_path: Path) -> None:
    with supervised(tmp_path, "sys.exit(78)") as parent:
        assert parent.wait(PATIENCE) == 78


def test_a_child_that_fails_at_once_is_started_ever_more_slowly(tmp_path: Path) -> None:
    with supervised(tmp_path, "sys.exit(1)", processes=1):
        until(lambda: len(pids(tmp_path)) >= 3)
        # 0.1 s, 0.2 s, 0.4 s and so on: far fewer than a busy loop would make.
        assert len(pids(tmp_path)) < 10
