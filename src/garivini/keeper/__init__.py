"""The jobs that a process holds: keepers renew their leases and commit their outcomes.

* ``keeper`` is the thread of one database, made of parts. ``rounds`` runs the ``step`` of each part, when it
  is due or ``wakeup`` wakes the thread. ``database_clock`` knows the time of the database.
* ``outcome_queue`` has the outcomes to commit, ``outcome_writer`` writes each kind of them, and
  ``setback_writer`` one setback, with less text if the database refuses it. ``reports`` come before them.
* ``renewals`` and ``start_checks`` keep leases by ``leases``; ``row_changes`` gives jobs back.
  ``marks`` lets both notice cancelled jobs.
* ``recognition`` finds the rows that are still those of their jobs after the database was replaced.
* ``time_limit`` ends a process whose job runs too long. ``obituaries`` records the jobs of those that died,
  and ``supervised_child`` is what such a process and its parent share.
* ``inbox`` holds items that wait or are deferred, and ``batch_writer`` splits batches that fail.
* ``functions``: their settings. ``execution``: a job in this process. ``copies``: those that have ended.
  ``job_events`` emits the events of jobs that start or end. ``job_calls`` has the calls of running functions.
* ``declared_schedules`` declares the schedules of a worker, in a separate thread.
"""
