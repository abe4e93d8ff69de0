"""Jobs in SQL: named statements, one database, and the choice among several.

* ``database`` lists the calls, and ``calls`` repeats them after a transient failure. ``shards`` combines
  several databases into one queue; ``homes``, ``placements`` and ``schedule_homes`` decide which database a
  job or a schedule belongs to.
* The calls by subject: ``inserts``, ``unique_inserts`` (keys with rules: ``key_rules``), ``successors``,
  ``key_calls``, ``batches`` and ``batch_calls``, ``expiry``, ``claims``,
  ``admission`` (claims of functions with rules; by partition:
  ``turns``, ``turn_claims``, ``partition_rooms`` and ``turn_pruning``; of jobs that go together:
  ``bundles``), ``leases``, ``outcomes``,
  ``own_ends`` (in a transaction of the function), ``outbox`` and ``outbox_moves`` (follow-ups for another
  database), ``ends`` (how jobs have ended), ``failures``, ``records`` (reports and kept jobs), ``pruning``
  (jobs whose retention is over), ``policies`` (settings of functions), ``pauses``, ``cancels``, ``schedules``
  and ``schedule_calls``, ``views`` (reads for operators), ``search`` and ``bulk`` (all jobs that match a
  query; ``matching`` in all databases), ``drain`` (to other databases), ``original`` (whether
  QueueRunners of the original can use a table), ``imports`` (of the jobs of another queue:
  ``foreign_queues``, whose tables are in ``foreign_tables``) and ``probe`` (for ``doctor``).
* ``sql`` has the statements of each database, which ``sql_files`` reads and ``statements`` runs.
  ``effective_state`` has the rule that decides which rows are held and which are put off.
* ``job_rows``, ``rows`` and ``values`` convert and check. ``chunks`` splits long lists, ``split_inserts``
  batches that failed, and ``locked_rows`` leaves out rows that another transaction has locked.
* ``connections`` makes transactions. Its connections come from ``pools`` and ``engines``; ``callers`` uses a
  caller's own. ``write_access`` notices that a server no longer accepts writes, and ``incarnations`` that a
  database may give ids a second time.
* ``dialects`` has the differences between databases other than their statements. ``schema``, ``migrations``
  and ``migration_scripts`` create and upgrade the tables.
"""
