"""``garivini worker`` before its first job: the module it is given, and how many processes it starts."""

import inspect
import re
import subprocess
import sys
import textwrap
from contextlib import ExitStack
from pathlib import Path

import pytest

from garivini import UsageError
from garivini.cli import cli
from garivini.cli.cores import usable_cores
from garivini.cli.loading import BrokenModuleError, load, user_traceback
from tests.commands import invoke
from tests.databases import sqlite_url
from tests.docs.commands import leaves
from tests.processes import PATIENCE, command, started, until
from tests.servers import embedded

# ---- a module that cannot be used

BROKEN = {
    "syntax": ("def f(:\n", "SyntaxError: "),
    "import": ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
    "name": ("from os import no_such_name\n", "ImportError: cannot import name"),
    "exception": ("def f():\n    raise ValueError('at import')\nf()\n", "ValueError: at import"),
    "exit": ("import sys\nsys.exit('enough')\n", "SystemExit: enough"),
    "exit with status 0": ("import sys\nsys.exit()\n", "SystemExit"),
    "interrupt": ("raise KeyboardInterrupt('stop')\n", "KeyboardInterrupt: stop"),
    "ours": ("from garivini import Client\nClient('nonsense')\n", "garivini.errors.UsageError: "),
    "inner": ("import inner\n", "SyntaxError: "),
    "cause": (
        "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('x') from e\n",
        "ValueError: x",
    ),
    "hostile": ("raise ValueError('\\x1b[31m')\n", r"ValueError: \x1b[31m"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BROKEN)
def test_worker_of_a_broken_module_reports_it_once_and_ends_with_78(kind: str, tmp_path: Path) -> None:
    text, message = BROKEN[kind]
    (tmp_path / "jobs.py").write_text(text)
    (tmp_path / "inner.py").write_text("x = (\n")
    with command(tmp_path, "worker", "jobs.py", "-p", "4") as worker:
        assert worker.process.wait(PATIENCE) == 78
        output = worker.output
    assert output.startswith("garivini: jobs.py cannot be imported\nTraceback (most recent call last):\n")
    assert output.count("garivini: ") == 1
    assert output.count("Traceback") == (2 if kind == "cause" else 1)
    assert output.count(message) == 1, output
    assert output.splitlines()[-1].startswith(message), output
    frames = re.findall(r'File "([^"]*)"', output)
    assert frames
    assert all(Path(frame).parent == tmp_path for frame in frames), output


@pytest.mark.slow
def test_worker_of_a_module_without_a_worker_reports_it_once(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "idle.py").write_text(
        "from garivini import Client, Worker\nw = Worker(Client('sqlite:///j.db'))\n"
    )
    (tmp_path / "two.py").write_text(
        "from garivini import Client, Worker\nv = Worker(Client('sqlite:///j.db'))\nw = Worker(Client('sqlite:///j.db'))\n"
    )
    for module, message in (
        ("empty.py", "empty.py has no Garivini and no Worker"),
        ("idle.py", "idle.py registers no function"),
        ("two.py", "two.py has 2 Workers"),
        ("two.py:x", "two.py has no Garivini and no Worker named x"),
        ("gone.py", f"there is no file {tmp_path}/gone.py"),
        ("no.such", "there is no module no.such"),
    ):
        with command(tmp_path, "worker", module, "-p", "4") as worker:
            assert worker.process.wait(PATIENCE) == 78
            assert worker.output.startswith(f"garivini: {message}")
            assert len(worker.output.splitlines()) == 1


def test_load_refuses_a_file_with_the_name_of_a_module_in_use(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("")
    with pytest.raises(UsageError, match="the name of a module that is in use"):
        load(str(tmp_path / "json.py"))


def test_user_traceback_keeps_the_frames_of_groups_and_causes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "grouped_module.py").write_text(
        textwrap.dedent("""
        from garivini import Client
        found = []
        try:
            Client("nonsense")
        except ValueError as error:
            raise ExceptionGroup("several", [error])
        """)
    )
    with pytest.raises(BrokenModuleError) as raised:
        load(str(tmp_path / "grouped_module.py"))
    report = user_traceback(raised.value.error)
    assert report.count("grouped_module.py") == 3
    assert "garivini/databases" not in report
    assert "importlib" not in report


# ---- the number of processes


def mounted(tmp_path: Path, group: str, mount: str, files: dict[str, str]) -> Path:
    """Make a folder like /proc/self of a process in a control group, and the group's files."""
    (tmp_path / "cgroup").write_text(group)
    (tmp_path / "mountinfo").write_text(
        "24 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n" + mount.format(tmp_path / "fs")
    )
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


V2 = "30 24 0:26 / {} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 24 0:29 / {} rw,nosuid shared:4 - cgroup cgroup rw,cpu,cpuacct\n"


@pytest.mark.parametrize(
    ("group", "mount", "files", "cores"),
    [
        ("0::/\n", V2, {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", V2, {"cpu.max": "20000 100000\n"}, 1),
        ("0::/\n", V2, {"cpu.max": "300000 100000\n"}, 3),
        ("0::/\n", V2, {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", V2, {}, 64),
        ("0::/a/b\n", V2, {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "max 100000\n"}, 2),
        ("0::/a/b\n", V2, {"a/cpu.max": "400000 100000\n", "a/b/cpu.max": "50000 100000\n"}, 1),
        ("0::/../other\n", V2, {"cpu.max": "200000 100000\n"}, 2),
        ("0::/docker/x\n", V2.replace("0:26 /", "0:26 /docker/x"), {"cpu.max": "200000 100000\n"}, 2),
        ("0::/elsewhere\n", V2.replace("0:26 /", "0:26 /docker/x"), {"cpu.max": "200000 100000\n"}, 2),
        ("4:cpu,cpuacct:/\n0::/\n", V1, {"cpu.cfs_quota_us": "250000", "cpu.cfs_period_us": "100000"}, 3),
        ("4:cpu,cpuacct:/\n", V1, {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, 64),
        ("4:memory:/\n", V1, {"cpu.cfs_quota_us": "100000", "cpu.cfs_period_us": "100000"}, 64),
        ("0::/\n", V2, {"cpu.max": "nonsense"}, 64),
    ],
)
def test_usable_cores_takes_the_limit_of_the_control_groups(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    group: str,
    mount: str,
    files: dict[str, str],
    cores: int,
) -> None:
    monkeypatch.setattr("garivini.cli.cores._affinity", lambda: 64)
    assert usable_cores(mounted(tmp_path, group, mount, files)) == cores


def test_usable_cores_takes_the_affinity_of_the_process(tmp_path: Path) -> None:
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
        "from garivini.cli.cores import usable_cores; print(usable_cores())"
    )
    assert subprocess.check_output([sys.executable, "-c", code]) == b"1\n"
    assert usable_cores(tmp_path / "no proc") >= 1


@pytest.mark.slow
def test_worker_starts_one_process_per_usable_core(tmp_path: Path) -> None:
    sqlite_url(tmp_path)
    (tmp_path / "work.py").write_text(
        "import os\nfrom garivini import Client, Worker\n"
        "worker = Worker(Client('sqlite:///jobs.db'), os.environ['GARIVINI_JOB_SERVERS'])\n"
        "@worker.function('f')\ndef f(job): pass\n"
    )
    with ExitStack() as stack:
        server = stack.enter_context(embedded())
        log = tmp_path / "log"
        with log.open("wb") as output:
            worker = stack.enter_context(
                started(
                    ["taskset", "-c", "0", sys.executable, "-m", "garivini", "worker", "work.py", "-v"],
                    env={"GARIVINI_JOB_SERVERS": server, "PATH": "/usr/bin:/bin"},
                    cwd=tmp_path,
                    stdout=output,
                    stderr=output,
                )
            )
        until(lambda: "worker.started" in log.read_text(), log.read_text)
        worker.terminate()
        assert worker.wait(PATIENCE) == 0
    assert log.read_text().count("worker.child_started") == 1


# ---- help


def test_help_shows_examples_line_by_line() -> None:
    for path, leaf in leaves(cli):
        assert leaf.callback is not None
        text = inspect.cleandoc(leaf.callback.__doc__ or "").replace("\b\n", "")
        shown = [line.removeprefix("  ") for line in invoke(*path.split()[1:], "--help").output.splitlines()]
        for line in text.splitlines():
            if line.startswith("  "):
                assert line in shown, (path, line)


def test_help_of_worker_has_an_example_that_runs(tmp_path: Path) -> None:
    shown = invoke("worker", "--help").output
    example = shown.partition("Example, in jobs.py:\n")[2].partition("  Then:")[0]
    (tmp_path / "jobs_of_help.py").write_text(textwrap.dedent(example))
    worker = load(str(tmp_path / "jobs_of_help.py"))
    assert list(worker.functions) == ["hello"]
