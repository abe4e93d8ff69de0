import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import PATIENCE, alive, started, until

pytestmark = pytest.mark.slow


PROGRAM = """
import os, select, signal, sys, time
from pathlib import Path
from garivini import Job, events
from garivini.worker.supervisor import Supervisor

JOB = Job(jobid=7, dbid=2, funcname="f", arg=b"", attempt=3, incarnation=5)

def run(child):
    lifeline = child.lifeline
BODY

def noted(child):
    Path("pids", str(os.getpid())).touch()
    run(child)

SETUP
events.listen(lambda name, fields: print(name, fields, file=open("events", "a")))
sys.exit(Supervisor(noted, LIMITS).run())
"""


@contextmanager
def supervised(
    folder: Path, child: str, processes: int = 2, drain: float = PATIENCE, setup: str = ""
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a Supervisor whose children note their pid in a file and then do what the test says."""
    (folder / "pids").mkdir()
    program = folder / "program.py"
    body = textwrap.indent(textwrap.dedent(child).strip(), "    ")
    text = PROGRAM.replace("BODY", body).replace("LIMITS", f"{processes}, drain={drain}")
    program.write_text(text.replace("SETUP", textwrap.dedent(setup)))
    try:
        with started([sys.executable, str(program)], cwd=folder) as process:
            yield process
    finally:
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


def test_a_signal_to_a_child_without_handlers_yet_ends_that_child_alone(tmp_path: Path) -> None:
    """It is not taken for one to the parent: that would end all children, or cut their drain short."""
    setup = """
        def signalled():
            if not Path("signalled").exists():
                Path("signalled").touch()
                os.kill(os.getpid(), signal.SIGTERM)

        os.register_at_fork(after_in_child=signalled)
    """
    with supervised(tmp_path, "select.select([lifeline], [], [])", processes=1, setup=setup) as parent:
        until(lambda: len(pids(tmp_path)) == 1)
        os.kill(pids(tmp_path)[0], signal.SIGKILL)
        until(lambda: len(pids(tmp_path)) == 2)
        assert parent.poll() is None


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


def test_run_gives_obituaries_to_the_next_child_until_one_has_recorded_them(tmp_path: Path) -> None:
    child = """
        if child.obituaries:
            told = len(list(Path("pids").iterdir())) > 2
            Path("told" if told else "first").write_text(repr(child.obituaries))
            if not told:
                os._exit(1)  # before it could record anything
            child.slot.note_recorded()
            select.select([lifeline], [], [])
        child.slot.set(JOB)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with supervised(tmp_path, child, processes=1):
        told = tmp_path / "told"
        until(lambda: told.exists() and bool(told.read_text()))
        assert (tmp_path / "told").read_text() == (tmp_path / "first").read_text()
        text = (tmp_path / "told").read_text()
        assert "Handle(jobid=7, dbid=2, attempt=3), kind='crashed'" in text
        assert "killed by signal 9 (SIGKILL)" in text


def test_a_child_whose_job_is_out_of_time_is_killed_and_the_job_has_failed(tmp_path: Path) -> None:
    child = """
        if child.obituaries:
            Path("told").write_text(repr(child.obituaries))
            child.slot.note_recorded()
        else:
            child.slot.set(JOB, time.monotonic() - 60)
        select.select([lifeline], [], [])
    """
    with supervised(tmp_path, child, processes=1):
        told = tmp_path / "told"
        until(lambda: told.exists() and bool(told.read_text()))
        assert "kind='failed', message='ran beyond its time limit" in told.read_text()


def test_run_kills_a_child_that_does_not_finish_in_time_and_reports_its_job(tmp_path: Path) -> None:
    child = """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child.slot.set(JOB)
        Path("ready").touch()
        time.sleep(600)
    """
    with supervised(tmp_path, child, processes=1, drain=0.2) as parent:
        until((tmp_path / "ready").exists)
        parent.terminate()
        assert parent.wait(PATIENCE) == 0
        assert not any(map(alive, pids(tmp_path)))
    seen = (tmp_path / "events").read_text()
    assert seen.count("worker.drain_incomplete") == 1
    assert "'jobs': 1, 'running': ['2:7']" in seen


def test_a_child_that_leaves_is_replaced_at_once_and_its_end_is_no_death(tmp_path: Path) -> None:
    child = """
    first = not Path("left").exists()
    Path("left").touch()
    if first:
        child.leave()
        while not Path("end").exists():
            time.sleep(0.01)
        Path("may", str(os.getpid())).touch()
        sys.exit(0)
    Path(f"may-{child.slot.may_leave}").touch()
    while not child.slot.may_leave:
        time.sleep(0.01)
    Path("may-leave-later").touch()
    select.select([lifeline], [], [])
    """
    (tmp_path / "may").mkdir()
    with supervised(tmp_path, child, processes=1) as parent:
        until((tmp_path / "may-False").exists)  # as many are leaving as there are others
        assert len(pids(tmp_path)) == 2
        assert all(map(alive, pids(tmp_path)))
        (tmp_path / "end").touch()
        until((tmp_path / "may-leave-later").exists)
        (left,) = (tmp_path / "may").iterdir()
        until(lambda: not alive(int(left.name)))
        assert "child_died" not in (tmp_path / "events").read_text()
        assert len(pids(tmp_path)) == 2
        assert parent.poll() is None
