"""The jobs of the bench, and which of them ran, and when.

Each process notes its runs in a file of its own that outlives it. A note is two numbers in shared memory, so
that it costs a no-op job next to nothing.
"""

import mmap
import os
import struct
import time
from pathlib import Path
from typing import Final, NamedTuple

#: The functions: of our worker, and of the bare one.
OURS: Final = "bench.ours"
FLOOR: Final = "bench.floor"

#: A job's id, and the monotonic time in nanoseconds, which is one for all processes of a machine.
_NOTE: Final = struct.Struct("<qq")
#: Notes in one file.
_NOTES: Final = 1 << 18


def payload(size: int) -> bytes:
    """Return an argument of so many bytes."""
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


def rows(arg: bytes, count: int) -> list[list[object]]:
    """Return jobs of ours as ``insert_jobs`` takes them."""
    return [[OURS, None, None, arg] for _ in range(count)]


class Run(NamedTuple):
    """One run of a job."""

    jobid: int
    #: Monotonic time in nanoseconds at which its handler started.
    began: int


class Recorder:
    """The notes of this process, in a folder."""

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
        """Note that a job's handler has started."""
        if self._end == len(self._memory):
            self._open()
        _NOTE.pack_into(self._memory, self._end, jobid, time.monotonic_ns())
        self._end += _NOTE.size


class Reader:
    """Reads what all recorders of a folder have noted, each note once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[Path, int] = {}

    def processes(self) -> list[int]:
        """Return the ids of the processes that record here."""
        return sorted({int(path.name.partition("-")[0]) for path in self._folder.iterdir()})

    def take(self) -> list[Run]:
        """Return what is new."""
        found = []
        for path in self._folder.iterdir():
            offset = self._offsets.get(path, 0)
            with path.open("rb") as file:
                file.seek(offset)
                for jobid, began in _NOTE.iter_unpack(file.read()):
                    if not jobid:
                        break
                    found.append(Run(jobid, began))
                    offset += _NOTE.size
            self._offsets[path] = offset
        return found
