"""Typed functions: the face for Python programs, built on ``Client`` and ``Worker``.

* ``application`` has ``Garivini``: its functions, schedules and hooks. ``connecting`` makes its clients.
* ``job_functions`` are what ``@app.job`` returns; they insert jobs. ``refs`` name inserted jobs and wait for
  their results. ``rules`` and ``decorators`` are the options and types of these, for type checkers.
* ``arguments`` encodes, checks and decodes arguments. ``keys`` makes unique keys and partitions of them.
  ``names`` finds the names of functions.
* ``running`` runs the jobs in a worker.
"""

from garivini.app.application import Garivini
from garivini.app.job_functions import JobFunction
from garivini.app.refs import Ref

__all__ = ["Garivini", "JobFunction", "Ref"]
