"""The roles: processes between the databases and the Gearman servers.

* ``runner``: the lifecycle of a role, and loops of passes.
* ``queue_runners`` is the role of the QueueRunners. ``queue_runner`` dispatches due jobs; ``held_back`` is
  when it claims again what a limit held back.
  ``expired_leases`` and ``orphans`` recover jobs that others have left.
  ``janitor`` deletes kept and dead jobs whose retention is over; ``key_upkeep`` is its part for unique keys.
  ``scheduler`` inserts jobs of schedules.
  ``outbox`` moves follow-ups to other databases.
  ``node_watch`` notices several nodes of a cluster.
* ``controller`` receives jobs and commits outcomes. ``caller`` makes calls, ``calls`` is the table of calls,
  and ``deadlines`` ends overdue calls. ``answers`` reads how they end, ``call_reports`` passes on their
  progress, and ``waiting_room`` holds jobs until a call is free.
* ``injector`` receives calls and answers them. ``inject_calls`` reads them, ``inject_streams`` holds those
  that wait, ``inject_dispatch`` dispatches their jobs, and ``inject_passes`` finds those of an Injector that
  was killed.
* ``dispatcher`` and ``job_servers`` submit jobs to the Gearman servers, as many of each function as
  ``watermark`` has room for. ``id_watch`` notices ids that start again. ``role_ids``: how those servers list
  roles.
"""
