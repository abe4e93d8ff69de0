"""Tests of applications, without servers, Docker or files.

* ``modes``: ``manual`` and ``inline``, which let an application insert into a queue in memory.
* ``queue``: ``TestQueue``, which both return: assertions about inserted jobs, and ``drain``.
* ``runs`` runs one job, as a worker would. ``clients`` insert, and note what was inserted.
* ``memory`` makes databases in memory. ``clocks`` moves their time. ``plugin`` has the fixtures for pytest.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from garivini.testing.modes import inline, manual
    from garivini.testing.queue import TestQueue
    from garivini.testing.runs import run_job

# Pytest imports this package for its plugin in each run, so nothing else is imported before it is used.
_MODULES: Final = {"TestQueue": "queue", "inline": "modes", "manual": "modes", "run_job": "runs"}

__all__ = ["TestQueue", "inline", "manual", "run_job"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
