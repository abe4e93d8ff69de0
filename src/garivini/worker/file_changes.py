"""Finds out whether Python files have changed, by polling, for ``--reload`` and ``garivini dev``."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

#: The time of a file's last change in nanoseconds, and its size. The time alone is not enough: a file that is
#: being written may get the rest of its text within one tick of the file system's clock.
Stamp: TypeAlias = tuple[int, int]


def stamps(paths: Iterable[Path | str]) -> dict[str, Stamp]:
    """Return the stamp of each file that exists."""
    found = {}
    for path in paths:
        with suppress(OSError):
            status = Path(path).stat()
            found[str(path)] = status.st_mtime_ns, status.st_size
    return found


def loaded_files() -> Iterator[str]:
    """Yield the Python files of the modules that this process has imported."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.endswith(".py"):
            yield file


class FileChanges:
    """Compares files with what they were at a time.

    A file that is missing has not changed: some editors remove a file for a moment while they save it.

    Args:
        since: the time in nanoseconds of unix time, before the import of the user's module.

    """

    def __init__(self, since: int) -> None:
        self._since = since
        self._stamps: dict[str, Stamp] = {}

    def found(self, paths: Iterable[Path | str]) -> bool:
        """Return whether one of these files has changed since that time or since an earlier call."""
        now = stamps(paths)
        before, self._stamps = self._stamps, self._stamps | now
        return any(
            stamp != before[file] if file in before else self._is_new(stamp) for file, stamp in now.items()
        )

    def _is_new(self, stamp: Stamp) -> bool:
        # A time in the future is that of another machine's clock, and would never cease to be new.
        return self._since < stamp[0] <= time.time_ns()
