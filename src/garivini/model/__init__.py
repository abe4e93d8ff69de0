"""A job, its values, and the decisions about it. No I/O, no clock.

* ``job``: a job, its handle and a new job. ``new_jobs`` and ``handles`` make them from callers' arguments;
  ``inserted`` is the result of an insert, ``current`` the job of the calling code.
* ``limits``, ``state``, ``when`` and ``payload``: its values, and its form in Gearman.
* ``lease`` decides about an expired lease. ``outcome``: how an attempt ended. ``policy``: the settings of a
  function. ``function_settings``: where they come from. ``retry``: when a failed job runs again.
  ``rate``: how many jobs may start. ``turns``: in which order partitions get jobs. ``pacing``: sizes of
  batches, and the room under a watermark.
* ``schedule``: what a schedule does about its ticks; ``ticks``: when they are.
* ``job_query``: which jobs a search finds, how an operator changes them, and how far that has come.
* ``records``: what clients return about failures, reports and kept jobs. ``fingerprint`` groups failures.
"""
