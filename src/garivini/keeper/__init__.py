"""The jobs that a process holds: keepers renew their leases and commit their outcomes.

* ``keeper`` is the thread of one database, made of parts. ``rounds`` runs the steps of all parts when one of
  them is due, or when ``wakeup`` wakes the thread. ``step`` is the step of one part, which pauses after an
  error. ``database_clock`` knows the time of the database.
* ``outcome_queue`` has the outcomes to commit. ``outcome_writer`` writes batches of them, one kind at a time.
  ``setback_writer`` writes a single setback, with less text if the database refuses it. ``reports`` are
  written before outcomes.
* ``renewals`` and ``start_checks`` renew leases; ``leases`` writes them. ``marks`` lets both notice cancelled
  jobs. ``row_changes`` gives jobs back.
* ``recognition`` finds out, after the database was replaced, which rows still belong to their jobs.
* ``time_limit`` ends a process whose job runs too long. ``obituaries`` records the jobs of processes that
  died, and ``supervised_child`` has the state that a process shares with its parent.
* ``inbox`` holds items that wait or are deferred, and ``batch_writer`` splits batches that fail.
* ``functions``: the settings of functions. ``execution``: a job in this process. ``copies``: the copies
  that have ended. ``shared_copy``: a copy that carries several jobs. ``job_events`` emits the events of
  jobs that start or end. ``job_calls``: the calls of running functions.
* ``declared_schedules`` declares the schedules of a worker, in a separate thread.
"""
