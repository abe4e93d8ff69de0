"""The example with three languages: what its page says is done, and what it promises is seen."""

import re
import shlex
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from tests.peers.databases import Place
from tests.processes import PATIENCE, started, until

pytestmark = [pytest.mark.servers, pytest.mark.slow]

EXAMPLE: Final = Path(__file__).parents[2] / "examples/polyglot"


class Shell:
    """A folder with the example's files, in which the lines of its page are run."""

    def __init__(self, folder: Path, environment: dict[str, str], ends: ExitStack) -> None:
        shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True)
        self._folder = folder
        # `garivini` is the command of this environment.
        self._environment = {**environment, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
        self._ends = ends

    def run(self, line: str) -> str:
        """Run a line to its end, or start it where it ends in ``&``; return what it printed."""
        if line.endswith("&"):
            words = shlex.split(line.removesuffix("&"))
            log = self._ends.enter_context((self._folder / f"{Path(words[-1]).name}.log").open("wb"))
            self._ends.enter_context(
                started(words, cwd=self._folder, env=self._environment, stdout=log, stderr=log)
            )
            return ""
        done = subprocess.run(
            ["sh", "-ec", line],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def log(self, name: str) -> str:
        """Return what a started line has printed."""
        return (self._folder / f"{name}.log").read_text()


def shown(shell: Shell) -> dict[str, Any]:
    found: dict[str, Any]
    (found,) = msgspec.json.decode(shell.run("garivini jobs show 1 -o json"))
    return found


@pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)
def test_a_php_shop_a_perl_worker_and_a_python_worker_share_a_queue(
    database: Place, server: str, tmp_path: Path
) -> None:
    page = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    start, inject, look = (
        block.splitlines() for block in re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    )
    environment = {"GARIVINI_DB": database.url, "GARIVINI_JOB_SERVERS": server}
    with ExitStack() as ends:
        shell = Shell(tmp_path / "example", environment, ends)
        for line in start:
            shell.run(line)
        (line,) = inject
        assert shell.run(line).split() == ["1", "2"]
        until(lambda: "to ada@example.org" in shell.log("mail.py"), "the mail")
        *retries, show = look
        for number, line in enumerate(retries, 1):
            until(lambda number=number: len(shown(shell)["failures"]) == number, "a failure")
            shell.run(line)
        until(lambda: "result" in shown(shell), "the result")
        said = shell.run(show)
        for text in (
            "no space left",
            "3/3",
            "made size 1 of cat.png",
            "made size 3 of cat.png",
            "thumbs/cat.png",
        ):
            assert text in said
        assert said.count("no space left") == 2
