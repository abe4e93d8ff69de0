"""Functions as jobs: a worker process receives jobs from Gearman, runs them, and records their outcomes.

* ``worker`` registers ``functions``. ``serving`` runs it until a stop, ``process`` in a process of its own.
* ``links`` are the connections to the Gearman servers. ``held_jobs`` decides which copies start.
* ``def_jobs`` runs ``def`` functions by the queue of ``blocking``, and ``async_jobs`` runs ``async def``
  ones. ``shared`` has what these parts share.
* ``live_settings`` applies settings that an operator changes, ``kept_results`` measures and keeps results.
* ``supervisor`` restarts processes that die. ``forks``: processes that a function forks. ``joblog``: a line
  per start and end. ``waker`` wakes a QueueRunner after follow-ups.
"""

from garivini.worker.functions import Discard, Function, Registered, Retry
from garivini.worker.worker import Worker

__all__ = ["Discard", "Function", "Registered", "Retry", "Worker"]
