"""The processes of the bench: starts, resumes, stops and measures them, for the command."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import click

from garivini.errors import GariviniError
from garivini.gearman.blocking import Client as GearmanClient

#: Maximum seconds for a process to start or stop.
PATIENCE: Final = 30.0


class Process:
    """A process that runs until the end of the bench.

    Args:
        name: its name in messages, and the name of its log.
        arguments: the arguments of the Python interpreter.
        folder: the directory of its log.
        environment: variables in addition to those of the bench.

    """

    def __init__(self, name: str, arguments: list[str], folder: Path, **environment: str) -> None:
        self.name: str = name
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own code
                [sys.executable, *arguments],
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,  # a directory without a settings file
                bufsize=0,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def check(self) -> None:
        """Check that the process is running.

        Raises:
            ClickException: the process has ended.

        """
        if self._process.poll() is not None:
            log = self._log.read_text(errors="replace")
            raise click.ClickException(f"the {self.name} ended with {self._process.returncode}:\n{log}")

    def wait_ready(self) -> None:
        """Wait for the byte with which the process reports that it is ready, or that its turn has ended."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
            raise click.ClickException(f"the {self.name} did not answer within {PATIENCE:.0f} s")
        if not self._process.stdout.read(1):
            self._process.wait(PATIENCE)
            self.check()

    def go(self) -> None:
        """Let the process begin a turn."""
        self._send(b"g")

    def stop(self) -> None:
        """Let the process end its turn, and wait until the turn has ended."""
        self._send(b"s")
        self.wait_ready()

    def _send(self, byte: bytes) -> None:
        self.check()
        assert self._process.stdin is not None
        self._process.stdin.write(byte)

    def end(self) -> None:
        """Send SIGTERM to the process."""
        with suppress(OSError):
            self._process.terminate()

    def wait(self) -> None:
        """Wait until the process has ended; kill it if it does not end."""
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def part(name: str, url: str, server: str, *rest: str, folder: Path) -> Process:
    """Start one of the processes of ``parts``. It reports when it is ready."""
    return Process(name, ["-m", "garivini.cli.bench.parts", name, url, server, *rest], folder)


def command(
    name: str, *arguments: str, folder: Path, environment: Mapping[str, str] | None = None
) -> Process:
    """Start the command ``garivini``."""
    return Process(name, ["-m", "garivini", *arguments], folder, **(environment or {}))


def until(condition: Callable[[], bool], what: str, *processes: Process) -> None:
    """Wait until a condition is true, while these processes are running."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        for process in processes:
            process.check()
        if time.monotonic() > deadline:
            raise click.ClickException(f"waited {PATIENCE:.0f} s for {what}, without success")
        time.sleep(0.02)


def answers(server: str) -> bool:
    """Return whether a Gearman server answers at this address."""
    with GearmanClient(server, timeout=1) as client, suppress(GariviniError):
        client.echo()
        return True
    return False


def cpu_seconds(pids: list[int]) -> float | None:
    """Return the CPU seconds of processes so far; None if the system does not report them."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        total += int(fields[11]) + int(fields[12])  # user and system, in ticks
    return total / os.sysconf("SC_CLK_TCK")
