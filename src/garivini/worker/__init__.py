"""Functions as jobs: a worker process receives jobs from Gearman, runs them, and records their outcomes.

* ``worker`` registers ``functions``. ``serving`` runs a worker until a stop, and ``process`` runs one in a
  process of its own.
* ``links`` are the connections to the Gearman servers. ``held_jobs`` decides which copies start.
  ``bundles`` does so for copies that carry several jobs.
* ``def_jobs`` runs ``def`` functions, whose jobs wait in the queue of ``blocking``. ``async_jobs`` runs
  ``async def`` functions. ``shared`` has the objects that these parts share.
* ``live_settings`` applies settings that an operator changes. ``kept_results`` keeps the results of jobs, and
  measures these jobs.
* ``supervisor`` restarts processes that die. ``forks`` handles processes that a function forks. ``joblog``
  logs a line per start and end of a job. ``waker`` wakes a QueueRunner after follow-ups. ``lifespans`` runs
  code at the start and the end of a process. ``replacement`` decides when a process is replaced, and
  ``file_changes`` finds files that have changed.
"""

from garivini.worker.functions import Discard, Function, Registered, Retry
from garivini.worker.worker import Worker

__all__ = ["Discard", "Function", "Registered", "Retry", "Worker"]
