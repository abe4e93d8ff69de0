"""Real processes, for tests that start, kill and stop them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Seconds to wait for what must happen. Far more than it takes: a busy machine is no failure. It is half a
#: lease, so that what happens only at the end of one is a failure.
PATIENCE = 30.0
#: Seconds within which everything else continues beside something that fails. Two are promised, and `make
#: soak` asks for them; beside other tests it may take longer.
SOON = float(os.environ.get("GARIVINI_TESTS_SOON", "8"))


@contextmanager
def started(words: Sequence[str], **options: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a program, without input unless told otherwise; end it by its pid, whatever has happened.

    ``options`` are those of ``subprocess.Popen``.
    """
    process = subprocess.Popen(words, **{"stdin": subprocess.DEVNULL, **options})
    try:
        yield process
    finally:
        end(process)


def end(process: "subprocess.Popen[Any]") -> None:
    """End a process that may have ended, in order if it can."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Command:
    """A running ``garivini`` and what it has written."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def output(self) -> str:
        """What it has written so far, in whole lines: one that is being written may be there in part."""
        ended = self.process.poll() is not None
        text = self._log.read_text(errors="replace")
        return text if ended else text[: text.rfind("\n") + 1]

    def wait_for(self, text: str, count: int = 1) -> None:
        """Wait until it has written this so often."""
        until(lambda: self.output.count(text) >= count, lambda: f"{text!r} in:\n{self.output}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@contextmanager
def command(
    folder: Path, *arguments: str, program: Sequence[str] = ("garivini",), **environment: str
) -> Iterator[Command]:
    """Start ``garivini`` in a folder; end it by its pid at the end.

    ``program``: the module to run in its place, and its first arguments.
    """
    log = folder / f"{'-'.join(arguments[:2])}-{time.monotonic_ns()}.log"
    words = [sys.executable, "-m", *program, *arguments]
    environment = {**os.environ, **environment}
    with (
        log.open("wb") as output,
        started(words, env=environment, stdout=output, stderr=output, cwd=folder) as process,
    ):
        yield Command(process, log)


def until(condition: object, what: object = "it", progress: Callable[[], object] = lambda: None) -> None:
    """Wait until a condition of another process holds; such a process tells us nothing.

    The patience starts again whenever ``progress`` returns something else: thousands of jobs may take as long
    as the machine needs.
    """
    assert callable(condition)
    seen, deadline = progress(), time.monotonic() + PATIENCE
    while not condition():
        if (now := progress()) != seen:
            seen, deadline = now, time.monotonic() + PATIENCE
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {PATIENCE:.0f} s in vain for {what() if callable(what) else what}")
        time.sleep(0.02)


def replace_file(path: Path, text: str) -> None:
    """Change a file that another process reads: it sees the old one or the new one, and no part of it."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.rename(path)


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
