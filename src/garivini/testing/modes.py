"""Lets an application insert into a queue in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from garivini.app import Garivini, JobFunction
from garivini.testing.memory import MemoryDatabase
from garivini.testing.queue import TestQueue
from garivini.worker import Worker
from garivini.worker.functions import Registered

#: Whose jobs are tested: an application, a worker of the bytes contract, or None for inserts alone.
Target = Garivini | Worker | None


@contextmanager
def manual(target: Target = None) -> Iterator[TestQueue]:
    """Let an application insert into a queue in memory. Jobs run when the test calls ``drain``.

    Args:
        target: the application, whose clients are replaced meanwhile. A Worker, or None: the test passes
            ``client`` of the queue to the code under test.

    """
    entries: Mapping[str, Registered] = {}
    functions: Mapping[str, JobFunction[..., Any]] = {}
    if isinstance(target, Garivini):
        entries, functions = target.entries(), target.functions
    elif target is not None:
        entries = target.functions
    queue = TestQueue(MemoryDatabase(), entries, functions)
    try:
        if isinstance(target, Garivini):
            with target.replaced(queue):
                yield queue
        else:
            yield queue
    finally:
        queue.close()


@contextmanager
def inline(target: Target = None) -> Iterator[TestQueue]:
    """Run each job at once when its insert is committed, also one that is due later.

    An error of a function is raised by the insert, or by the commit if the insert had a ``connection``.

    Args:
        target: as for ``manual``.

    """
    with manual(target) as queue:
        queue.run_at_commit()
        yield queue
