"""Programs of other languages as processes that a test leads line by line."""

import queue
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from tests.peers.databases import Place
from tests.processes import PATIENCE, end

HERE: Final = Path(__file__).parent
PAGE: Final = HERE.parents[1] / "docs/how-to/workers-in-other-languages.md"

#: The program that runs a file of each language.
PROGRAMS: Final = {"php": "php", "perl": "perl"}
SUFFIXES: Final = {"php": "php", "perl": "pl"}


class Peer:
    """A running program: lines go in, lines come out."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._errors = folder / f"errors-{time.monotonic_ns()}"
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    @property
    def errors(self) -> str:
        """What it has complained about, warnings included."""
        return self._errors.read_text(errors="replace")

    def line(self) -> list[str]:
        """Wait for its next line and return its words."""
        try:
            line = self._lines.get(timeout=PATIENCE)
        except queue.Empty:
            raise AssertionError(f"it says nothing; its errors: {self.errors}") from None
        assert line is not None, f"it has ended: {self.errors}"
        return line.split(" ")

    def rest(self) -> list[str]:
        """Wait for the end of its output and return the lines that were not read."""
        return list(iter(lambda: self._lines.get(timeout=PATIENCE), None))

    def tell(self, line: str) -> str:
        """Give it a step to do; return its answer, which names that step."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        step, answer = self.line()
        assert step == line.split()[0]
        return answer

    def silent(self) -> bool:
        """Whether it has said nothing more."""
        return self._lines.empty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it by its pid."""
        end(self.process)
        self._reader.join(PATIENCE)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@contextmanager
def run(command: Sequence[str], folder: Path) -> Iterator[Peer]:
    """Start a program; end it after the test. It must not have complained."""
    with Peer(command, folder) as peer:
        yield peer
        assert peer.process.poll() is None, f"it has ended: {peer.errors}"
    errors = peer.errors
    assert errors == ""


def page_files(folder: Path, place: Place, changes: Mapping[str, str] = {}) -> None:
    """Write the files that the how-to shows, for the database in use, with ``changes`` of their text."""
    found = re.findall(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", PAGE.read_text(), flags=re.M | re.S)
    assert {name for name, _ in found} == {"garivini.php", "worker.php", "GariviniShim.pm", "worker.pl"}
    for name, text in found:
        for old, new in {"UNIX_TIMESTAMP()": place.now, **changes}.items():
            text = text.replace(old, new)
        (folder / name).write_text(text)


def worker(language: str, folder: Path, server: str, place: Place) -> list[str]:
    """Return the command of the worker that a test leads."""
    page_files(folder, place)
    host, port = server.split(":")
    script = HERE / f"worker.{SUFFIXES[language]}"
    database = place.pdo if language == "php" else place.dbi
    return [PROGRAMS[language], str(script), str(folder), host, port, *database]
