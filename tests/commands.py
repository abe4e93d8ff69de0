"""Commands run in this process, where they import nothing anew; ``tests.processes`` has the real ones."""

import io
import os
import pty
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple
from unittest.mock import patch

from click.testing import CliRunner, Result

from garivini.cli import cli, main


class Ended(NamedTuple):
    """What a command has left, as a process would."""

    returncode: int
    stdout: str
    stderr: str


def invoke(*arguments: str, **environment: str) -> Result:
    """Run a command up to its error, which is not reported."""
    return CliRunner().invoke(cli, arguments, env={"GARIVINI_DB": None, **environment}, catch_exceptions=True)


def run(*arguments: str, **environment: str) -> Ended:
    """Run a command with pipes, as ``garivini`` does: an error becomes a line and an exit status."""
    with ExitStack() as stack:
        nothing = stack.enter_context(Path(os.devnull).open())
        contents = io.BytesIO(), io.BytesIO()
        written, errors = (stack.enter_context(io.TextIOWrapper(each, "utf-8")) for each in contents)
        status = _status(arguments, environment, nothing, written, errors)
        written.flush()
        errors.flush()
        return Ended(status, *(each.getvalue().decode() for each in contents))


def on_terminal(columns: int, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run a command on a terminal; return its exit status and what it has written there."""
    ours, theirs = pty.openpty()
    written: list[bytes] = []

    def read() -> None:
        try:
            while part := os.read(ours, 65_536):
                written.append(part)
        except OSError:  # the other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with Path(os.devnull).open() as nothing, os.fdopen(theirs, "w", 1, "utf-8") as terminal:
            environment = {"COLUMNS": str(columns), "TERM": "xterm", **environment}
            status = _status(arguments, environment, nothing, terminal, terminal)
    finally:
        reader.join()
        os.close(ours)
    return status, b"".join(written).decode().replace("\r\n", "\n")


def _status(
    arguments: tuple[str, ...],
    environment: Mapping[str, str],
    read: IO[str],
    written: IO[str],
    errors: IO[str],
) -> int:
    with (
        patch.dict(os.environ, environment),
        patch.object(sys, "stdin", read),
        patch.object(sys, "stdout", written),
        patch.object(sys, "stderr", errors),
    ):
        try:
            main(list(arguments))
        except SystemExit as ended:
            return int(ended.code or 0)
    raise AssertionError("a command exits")
