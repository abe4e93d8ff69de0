"""Decides when a process of ``garivini worker`` is replaced: by its jobs, its memory or changed files."""

import asyncio
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from garivini import events
from garivini.keeper.supervised_child import SupervisedChild
from garivini.worker.file_changes import FileChanges, loaded_files

#: Seconds between two checks of the memory and the files.
_CHECK: Final = 0.5


class Replacement:
    """Ends the work of a child process in time for another to take its place. It is used in the loop.

    The parent starts the other process immediately, while this one finishes the jobs that it holds. A process
    that is replaced because of its jobs or its memory finishes them however long they take.

    Args:
        child: the state that the process shares with its parent.
        name: the worker's name, for the event.

    """

    def __init__(self, child: SupervisedChild, name: str) -> None:
        self._child = child
        self._name = name
        self._when = when = child.replace_when
        # The processes differ by up to a tenth, so that they are not all replaced at the same time.
        self._max_jobs = when.jobs and when.jobs + os.getpid() % (when.jobs // 10 + 1)
        self._jobs = 0
        self._changes = FileChanges(child.started_ns)
        self._leaving = asyncio.Event()

    def count(self, jobs: int) -> None:
        """Count jobs that have ended."""
        self._jobs += jobs
        if self._max_jobs and self._jobs >= self._max_jobs:
            self._leave("jobs")

    async def until_due(self, stop: asyncio.Event) -> None:
        """Wait until ``stop`` is set or the process is to be replaced; set ``stop`` if files have changed."""
        tasks = [asyncio.create_task(stop.wait()), asyncio.create_task(self._watch(stop))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def _watch(self, stop: asyncio.Event) -> None:
        while not self._leaving.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_CHECK):
                    await self._leaving.wait()
            if self._when.files and self._changes.found(loaded_files()):
                self._leave("files")
                stop.set()  # whoever has changed a file waits for the new code, so the drain is limited
            # A process without a job yet is as small as its replacement would be.
            elif self._when.memory and self._jobs and resident_bytes() > self._when.memory:
                self._leave("memory")
            else:
                self.count(0)

    def _leave(self, reason: str) -> None:
        if self._leaving.is_set() or (reason != "files" and not self._child.slot.may_leave):
            return
        events.emit("worker.replaced", worker=self._name, reason=reason, jobs=self._jobs)
        self._leaving.set()
        self._child.leave()


def resident_bytes() -> int:
    """Return the memory of this process that is in RAM; without ``/proc``, the most that it was."""
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
