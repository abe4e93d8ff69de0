"""A job, its values, and the decisions about it. No I/O, no clock.

* ``job``: the classes of a job, a handle and a new job. ``new_jobs`` and ``handles`` make them from callers'
  arguments; ``inserted`` is the result of an insert, ``current`` the job of the calling code, ``job_calls``
  the calls of a function about its job.
* ``limits``, ``state``, ``when``, ``headers`` and ``payload``: the values of a job, and its form in Gearman.
  ``json_forms``: the JSON form of pydantic models.
* ``lease`` decides about an expired lease. ``outcome``: how an attempt ended. ``policy``: the settings of a
  function. ``function_settings``: where its settings come from. ``retry``: when a failed job runs again.
  ``rate``: how many jobs may start. ``unique``: rules of unique keys. ``turns``: in which order
  partitions get jobs. ``pacing``: sizes of batches, and the room under a watermark.
* ``schedule``: the decisions about the ticks of a schedule; ``ticks``: their times.
* ``job_query``: the conditions of a search, the changes of many jobs, and their progress.
* ``batch``: batches and the jobs that they insert.
* ``records``: the records of failures, reports and kept jobs that clients return. ``fingerprint`` groups
  failures.
"""
