"""The roles: processes between the databases and the Gearman servers.

* ``runner``: the lifecycle of a role, and loops of passes.
* ``queue_runners`` is the role of the QueueRunners. ``queue_runner`` dispatches due jobs. ``held_back``
  decides when it claims again after a limit has held jobs back.
  ``expired_leases`` and ``orphans`` recover jobs whose worker, server or dispatcher has failed.
  ``janitor`` deletes kept and dead jobs whose retention is over; ``key_upkeep`` is its part for unique keys,
  ``batch_upkeep`` the one for batches.
  ``scheduler`` inserts jobs of schedules.
  ``outbox`` moves follow-ups to other databases.
  ``node_watch`` notices connections to several nodes of a cluster.
* ``controller`` receives jobs and commits outcomes. ``caller`` makes calls, ``calls`` is the table of calls,
  and ``deadlines`` ends overdue calls. ``answers`` reads the data at their ends, ``call_reports`` passes on
  their progress, and ``waiting_room`` holds jobs until a call is free.
* ``injector`` receives calls and answers them. ``inject_calls`` reads the calls, ``inject_streams``
  holds those that wait, ``inject_dispatch`` dispatches their jobs, and ``inject_passes`` finds jobs that a
  killed Injector has not submitted.
* ``dispatcher`` and ``job_servers`` submit jobs to the Gearman servers, as many of each function as
  ``watermark`` has room for. ``id_watch`` notices ids that start again. ``role_ids`` has the ids under which
  those servers list the connections of roles.
"""
