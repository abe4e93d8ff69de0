"""The jobs of the bench, and the records of their starts.

Each process records the starts in its own file, which remains when the process has ended. A record is two
numbers in shared memory, so that it takes almost no time even beside a job that does nothing.
"""

import mmap
import os
import struct
import time
from pathlib import Path
from typing import Final, NamedTuple

#: The function of our worker.
OURS: Final = "bench.ours"
#: The function of the baseline's worker.
FLOOR: Final = "bench.floor"

#: The id of a job, and the monotonic time in nanoseconds, which is the same for all processes of a machine.
_NOTE: Final = struct.Struct("<qq")
#: Records per file.
_NOTES: Final = 1 << 18


def payload(size: int) -> bytes:
    """Return an argument of this number of bytes."""
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


def rows(arg: bytes, count: int) -> list[list[object]]:
    """Return jobs of our function for ``insert_jobs``."""
    return [[OURS, None, None, arg] for _ in range(count)]


class Start(NamedTuple):
    """One start of a job."""

    jobid: int
    #: Monotonic time, in nanoseconds, at which its handler started.
    began: int


class Recorder:
    """Records the starts of jobs in this process, in files of a directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = 0
        self._open()

    def _open(self) -> None:
        path = self._folder / f"{os.getpid()}-{self._files}"
        with path.open("w+b") as file:
            file.truncate(_NOTES * _NOTE.size)
            self._memory = mmap.mmap(file.fileno(), 0)
        self._files += 1
        self._end = 0

    def note(self, jobid: int) -> None:
        """Record that the handler of a job has started."""
        if self._end == len(self._memory):
            self._open()
        _NOTE.pack_into(self._memory, self._end, jobid, time.monotonic_ns())
        self._end += _NOTE.size


class Reader:
    """Reads the records of all recorders of a directory, each record once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[Path, int] = {}

    def processes(self) -> list[int]:
        """Return the ids of the processes that record here."""
        return sorted({int(path.name.partition("-")[0]) for path in self._folder.iterdir()})

    def take(self) -> list[Start]:
        """Return the new records."""
        found = []
        for path in self._folder.iterdir():
            offset = self._offsets.get(path, 0)
            with path.open("rb") as file:
                file.seek(offset)
                for jobid, began in _NOTE.iter_unpack(file.read()):
                    if not jobid:
                        break
                    found.append(Start(jobid, began))
                    offset += _NOTE.size
            self._offsets[path] = offset
        return found
