-- Statements for PostgreSQL 13 and newer. `store/sql_files.py` describes the form of this file.
--
-- The clock is clock_timestamp(): now() would be the start of the transaction. It is in a subquery wherever it bounds a
-- search, because a volatile function would be called again for each row and could not be the bound of an index scan.
-- Times are whole seconds and round down, so a lease ends at now + lease + 1. 2147483647 is "never". Claims exclude it,
-- so that a row parked by the original's clients does not start in 2038. Later times are ordinary times. Each value has
-- its type, so that a value too large for its column is an error and does not prevent the use of the index. `state + 0`
-- and the like beside a list of ids keeps PostgreSQL, without statistics, from reading the lane index instead.
--
-- A lease ends at `run_after`, and `lease_end` repeats it. Both use one reading of the clock, because it advances
-- within a statement. `store/effective_state.py` describes what it means if they differ; it has the conditions in braces.
-- A delay counts from the next whole second, so it is never too short.

-- name: clock () -> one
-- The unix time with its fraction.
SELECT extract(epoch FROM clock_timestamp())::float8

-- name: schema () -> rows
-- The revision that Alembic has recorded.
SELECT version_num FROM garivini_version

-- name: dbid () -> rows
-- The id of this database.
SELECT dbid FROM garivini_database

-- name: set_dbid (dbid) -> none
-- Stores the id of this database once, by the first process that uses it. The table holds one row.
INSERT INTO garivini_database (dbid) VALUES (:dbid::bigint) ON CONFLICT (one) DO NOTHING

-- name: ids_left () -> one
-- The number of ids that are left for new jobs. It is not needed here, because the server reports exhausted ids itself.
SELECT 1

-- name: folds () -> one
-- Whether the table treats names as equal that differ in their bytes: never here.
SELECT 0

-- name: insert (funcname, coalesce, arg, flag, priority, delay, leased) -> rows
-- Inserts jobs without a unique key. Ids rise in the order of the rows, so sorted ids match them. If `leased` is 1, a
-- row is leased for its first attempt until its delay is over; if it is 0, the row waits until then.
INSERT INTO job (funcname, "coalesce", arg, flag, priority, run_after, created, attempt, state, since, lease_end)
SELECT n.funcname, n."coalesce", n.arg, n.flag, n.priority,
       CASE WHEN n.leased = 1 OR n.delay = 0 THEN t.now ELSE t.next END + n.delay, t.now, n.leased, n.leased,
       n.leased * t.now, n.leased * (t.now + n.delay)
  FROM unnest(:@funcname::text[], :@coalesce::text[], :@arg::bytea[], :@flag::text[], :@priority::smallint[],
              :@delay::bigint[], :@leased::smallint[])
       WITH ORDINALITY AS n (funcname, "coalesce", arg, flag, priority, delay, leased, position),
       (SELECT floor(clock.now)::bigint AS now, ceil(clock.now)::bigint AS next
          FROM (SELECT extract(epoch FROM clock_timestamp()) AS now) AS clock) AS t
 ORDER BY n.position
RETURNING jobid, created

-- name: insert_keyed (funcname, uniqkey, coalesce, arg, flag, priority, delay, leased) -> rows
-- Inserts jobs with a unique key. Only a conflict of that key is ignored; the rows returned are new.
INSERT INTO job (funcname, uniqkey, "coalesce", arg, flag, priority, run_after, created, attempt, state, since, lease_end)
SELECT n.funcname, n.uniqkey, n."coalesce", n.arg, n.flag, n.priority,
       CASE WHEN n.leased = 1 OR n.delay = 0 THEN t.now ELSE t.next END + n.delay, t.now, n.leased, n.leased,
       n.leased * t.now, n.leased * (t.now + n.delay)
  FROM unnest(:@funcname::text[], :@uniqkey::text[], :@coalesce::text[], :@arg::bytea[], :@flag::text[],
              :@priority::smallint[], :@delay::bigint[], :@leased::smallint[])
       WITH ORDINALITY AS n (funcname, uniqkey, "coalesce", arg, flag, priority, delay, leased, position),
       (SELECT floor(clock.now)::bigint AS now, ceil(clock.now)::bigint AS next
          FROM (SELECT extract(epoch FROM clock_timestamp()) AS now) AS clock) AS t
 ORDER BY n.position
ON CONFLICT (funcname, uniqkey) WHERE uniqkey IS NOT NULL DO NOTHING
RETURNING jobid, created, funcname, uniqkey

-- name: insert_wide (funcname, coalesce, partition, headers, arg, flag, priority, delay, leased) -> rows
-- As `insert`, for jobs with a partition or headers. This is a separate statement, so that other jobs need not have the columns.
INSERT INTO job (funcname, "coalesce", partition, headers, arg, flag, priority, run_after, created, attempt, state, since, lease_end)
SELECT n.funcname, n."coalesce", n.partition, n.headers, n.arg, n.flag, n.priority,
       CASE WHEN n.leased = 1 OR n.delay = 0 THEN t.now ELSE t.next END + n.delay, t.now, n.leased, n.leased,
       n.leased * t.now, n.leased * (t.now + n.delay)
  FROM unnest(:@funcname::text[], :@coalesce::text[], :@partition::text[], :@headers::text[], :@arg::bytea[], :@flag::text[], :@priority::smallint[],
              :@delay::bigint[], :@leased::smallint[])
       WITH ORDINALITY AS n (funcname, "coalesce", partition, headers, arg, flag, priority, delay, leased, position),
       (SELECT floor(clock.now)::bigint AS now, ceil(clock.now)::bigint AS next
          FROM (SELECT extract(epoch FROM clock_timestamp()) AS now) AS clock) AS t
 ORDER BY n.position
RETURNING jobid, created

-- name: insert_keyed_wide (funcname, uniqkey, coalesce, partition, headers, arg, flag, priority, delay, leased) -> rows
-- As `insert_keyed`, for jobs with a partition or headers.
INSERT INTO job (funcname, uniqkey, "coalesce", partition, headers, arg, flag, priority, run_after, created, attempt, state, since, lease_end)
SELECT n.funcname, n.uniqkey, n."coalesce", n.partition, n.headers, n.arg, n.flag, n.priority,
       CASE WHEN n.leased = 1 OR n.delay = 0 THEN t.now ELSE t.next END + n.delay, t.now, n.leased, n.leased,
       n.leased * t.now, n.leased * (t.now + n.delay)
  FROM unnest(:@funcname::text[], :@uniqkey::text[], :@coalesce::text[], :@partition::text[], :@headers::text[], :@arg::bytea[], :@flag::text[],
              :@priority::smallint[], :@delay::bigint[], :@leased::smallint[])
       WITH ORDINALITY AS n (funcname, uniqkey, "coalesce", partition, headers, arg, flag, priority, delay, leased, position),
       (SELECT floor(clock.now)::bigint AS now, ceil(clock.now)::bigint AS next
          FROM (SELECT extract(epoch FROM clock_timestamp()) AS now) AS clock) AS t
 ORDER BY n.position
ON CONFLICT (funcname, uniqkey) WHERE uniqkey IS NOT NULL DO NOTHING
RETURNING jobid, created, funcname, uniqkey

-- name: live (funcname, uniqkey) -> one
-- The job that has a unique key.
SELECT jobid FROM job WHERE funcname = :funcname::text AND uniqkey = :uniqkey::text

-- name: states (jobids) -> rows
-- The states of the given jobs, read without a lock: a row locked by another transaction must not delay an insert whose
-- key exists. A caller's older snapshot may not include a job.
SELECT jobid, {effective_state}
  FROM job WHERE jobid = ANY (:@jobids::bigint[])

-- name: lanes () -> rows
-- All lanes that hold a job in a state below dead, each with the time at which its first job is due, and the time now
-- with its fraction. This is a loose index scan: one dive per function and twelve for its lanes (from 2038 on, a second
-- dive per empty lane), whatever the backlog. It needs no statistics.
WITH RECURSIVE
  func (name) AS (
    (SELECT funcname FROM job ORDER BY funcname LIMIT 1)
    UNION ALL
    SELECT (SELECT job.funcname FROM job WHERE job.funcname > func.name ORDER BY job.funcname LIMIT 1)
      FROM func WHERE func.name IS NOT NULL
  ),
  clock (now) AS MATERIALIZED (SELECT extract(epoch FROM clock_timestamp())::float8),
  lane (funcname, state, priority, due) AS MATERIALIZED (
    SELECT func.name, state.state, priority.priority,
           coalesce(
             (SELECT job.run_after FROM job
               WHERE job.funcname = func.name AND job.state = state.state AND job.priority = priority.priority
                 AND job.run_after < 2147483647
               ORDER BY job.run_after LIMIT 1),
             CASE WHEN (SELECT now FROM clock) >= 2147483648 THEN
               (SELECT job.run_after FROM job
                 WHERE job.funcname = func.name AND job.state = state.state AND job.priority = priority.priority
                   AND job.run_after > 2147483647
                 ORDER BY job.run_after LIMIT 1)
             END)
      FROM func, (VALUES (0::smallint), (1), (2), (3)) AS state (state),
           (VALUES (0::smallint), (1), (2)) AS priority (priority)
     WHERE func.name IS NOT NULL
  )
SELECT lane.funcname, lane.state, lane.priority, lane.due, clock.now FROM lane, clock WHERE lane.due IS NOT NULL
 ORDER BY lane.priority, lane.due

-- name: due (funcname, priority, limit, small) -> rows
-- The first jobs of a lane that a claim may take, with their arguments (NULL for an argument of more than `small`
-- bytes), the time now, and the time of each insert. Rows that another claim has locked are skipped.
SELECT jobid, run_after, CASE WHEN octet_length(arg) > :small::bigint THEN NULL ELSE coalesce(arg, '') END, uniqkey,
       "coalesce", flag, failcount, attempt, (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint), created, expires,
       partition, headers
  FROM job
 WHERE funcname = :funcname::text AND state = 0 AND priority = :priority::smallint
   AND run_after <= (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint) AND run_after <> 2147483647
 ORDER BY run_after LIMIT :limit::bigint
   FOR UPDATE SKIP LOCKED

-- name: named (funcname, limit) -> rows
-- Jobs to park, because their function's name is not text. The name is given as bytes.
SELECT jobid FROM job WHERE funcname = convert_from(:funcname::bytea, 'SQL_ASCII') AND state < 4 LIMIT :limit::bigint

-- name: sizes (jobids) -> rows
-- The sizes in bytes of the arguments of the given jobs.
SELECT jobid, octet_length(arg) FROM job WHERE jobid = ANY (:@jobids::bigint[])

-- name: args (jobids) -> rows
-- The arguments of the given jobs.
SELECT jobid, arg FROM job WHERE jobid = ANY (:@jobids::bigint[])

-- name: identities (jobids) -> rows
-- The values that distinguish a job from another one that got the same id: see `store/incarnations.py`.
SELECT jobid, attempt, created, funcname, uniqkey FROM job WHERE jobid = ANY (:@jobids::bigint[])

-- name: claim (jobids, now, lease_end) -> none
-- Writes a claim, in the transaction that read the rows as due, with the time of that read.
UPDATE job SET attempt = attempt + 1, state = 1, since = :now::bigint, run_after = :lease_end::bigint,
       lease_end = :lease_end::bigint
 WHERE jobid = ANY (:@jobids::bigint[])

-- name: expired (funcname, state, priority, limit) -> rows
-- Expired leases of a lane, and for each whether another program has put the row off. Rows locked by another
-- transaction are skipped.
SELECT jobid, attempt, flag, crashes, since, floor(extract(epoch FROM clock_timestamp()))::bigint - since,
       {put_off},
       funcname, bundle
  FROM job
 WHERE funcname = :funcname::text AND state = :state::smallint AND priority = :priority::smallint
   AND run_after <= (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint) AND run_after <> 2147483647
 ORDER BY run_after LIMIT :limit::bigint
   FOR UPDATE SKIP LOCKED

-- name: requeue (jobids) -> none
-- Sets rows that were put off and are due now to waiting, so that they are claimed like any other row.
UPDATE job SET state = 0, lease_end = 0
 WHERE jobid = ANY (:@jobids::bigint[]) AND state IN (1, 2, 3) AND {put_off}
   AND run_after <= (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint)

-- name: extend (jobid, attempt, state, new_state, seconds, queued) -> none
-- Extends an expired lease, if nothing has changed since it was read. If `queued` is 1, a Gearman server has the job
-- queued, so the time without a start counts from now.
UPDATE job
   SET state = :new_state::smallint,
       (run_after, lease_end) =
       (SELECT lease.ends, lease.ends FROM (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint + :seconds::bigint AS ends) AS lease),
       since = CASE WHEN :queued::boolean THEN floor(extract(epoch FROM clock_timestamp()))::bigint ELSE since END
 WHERE jobid = :jobid::bigint AND attempt = :attempt::bigint AND state = :state::smallint
   AND run_after <= (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint) AND {held}

-- name: reclaim (jobid, attempt, state, lease, crashed) -> rows
-- Writes the claim of the next attempt, after a lease has expired for good.
UPDATE job
   SET attempt = attempt + 1, state = 1, since = floor(extract(epoch FROM clock_timestamp()))::bigint,
       crashes = crashes + :crashed::boolean::integer,
       (run_after, lease_end) =
       (SELECT lease.ends, lease.ends FROM (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint + :lease::bigint + 1 AS ends) AS lease)
 WHERE jobid = :jobid::bigint AND attempt = :attempt::bigint AND state = :state::smallint
   AND run_after <= (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint) AND {held}
RETURNING jobid, funcname, arg, uniqkey, "coalesce", run_after, flag, failcount, attempt, priority, state,
          since, crashes, created, runs, partition, headers

-- name: release (jobid, attempt, run_after) -> none
-- Sets a claimed job that was not submitted back to waiting, due when it was before.
UPDATE job SET state = 0, run_after = :run_after::bigint, lease_end = 0
 WHERE jobid = :jobid::bigint AND attempt = :attempt::bigint AND state = 1 AND {held}

-- name: end_early (jobids, attempt, lease) -> none
-- Ends the lease of a job that may not have reached a server, unless the lease has been renewed meanwhile.
UPDATE job SET (run_after, lease_end) =
       (SELECT lease.ends, lease.ends FROM (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint + 0 AS ends) AS lease)
 WHERE jobid = ANY (:@jobids::bigint[]) AND attempt = :attempt::bigint AND state + 0 = 1
   AND run_after <= (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint) + :lease::bigint + 2 AND {held}

-- name: renew (jobids, attempt, lease) -> none
-- Renews a lease. A job that ended, that another attempt holds or that another program has put off is not touched.
UPDATE job SET state = 2, (run_after, lease_end) =
       (SELECT lease.ends, lease.ends FROM (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint + :lease::bigint + 1 AS ends) AS lease)
 WHERE jobid = ANY (:@jobids::bigint[]) AND attempt = :attempt::bigint AND state + 0 IN (1, 2, 3) AND {held}

-- name: mine (jobids, attempt) -> rows
-- The given jobs that this attempt holds. This decides after a renewal: a count of changed rows differs in meaning
-- between databases.
SELECT jobid FROM job
 WHERE jobid = ANY (:@jobids::bigint[]) AND attempt = :attempt::bigint AND state + 0 IN (1, 2, 3) AND {held}

-- name: present (jobids) -> rows
-- The given jobs that exist, locked by the transaction.
SELECT jobid FROM job WHERE jobid = ANY (:@jobids::bigint[]) FOR UPDATE

-- name: lockable (jobids) -> rows
-- Locks the given rows that no other transaction has locked, and returns them.
SELECT jobid FROM job WHERE jobid = ANY (:@jobids::bigint[]) FOR UPDATE SKIP LOCKED

-- name: known (jobids) -> rows
-- The given rows that exist, whether or not another transaction has locked them.
SELECT jobid FROM job WHERE jobid = ANY (:@jobids::bigint[])

-- name: complete (jobids) -> count
-- Deletes jobs that succeeded, by id alone: finished work is finished, whichever attempt did it.
DELETE FROM job WHERE jobid = ANY (:@jobids::bigint[])

-- name: complete_one (jobid) -> count
-- As `complete`, for one row that this transaction has locked.
DELETE FROM job WHERE jobid = :jobid::bigint

-- name: complete_range (first, last) -> count
-- As `complete`, for consecutive ids. This is a fifth less of the server's work than a lookup per id.
DELETE FROM job WHERE jobid BETWEEN :first AND :last

-- name: any_records (first, last) -> rows
-- Whether any job from the first id to the last has records or a successor, or is a member of a batch. Usually none has, and one range scan costs
-- less than a lookup per id. This statement runs after the jobs are deleted: records that were written while the DELETE
-- waited for a row exist by now, and no more can be added.
SELECT EXISTS (SELECT 1 FROM failure WHERE jobid BETWEEN :first AND :last)
    OR EXISTS (SELECT 1 FROM report WHERE jobid BETWEEN :first AND :last)
    OR EXISTS (SELECT 1 FROM successor WHERE jobid BETWEEN :first AND :last)
    OR EXISTS (SELECT 1 FROM batch_member WHERE jobid BETWEEN :first AND :last)

-- name: with_records (jobids) -> rows
-- The given jobs that have records (rows of `failure` or `report`), each with 0, those that have a successor, each
-- with 1, and those that are members of a batch, each with 2. This statement runs after the jobs are deleted, as `any_records` does.
SELECT jobid, 0 FROM failure WHERE jobid = ANY (:@jobids::bigint[])
UNION SELECT jobid, 0 FROM report WHERE jobid = ANY (:@jobids::bigint[])
UNION SELECT jobid, 1 FROM successor WHERE jobid = ANY (:@jobids::bigint[])
UNION SELECT jobid, 2 FROM batch_member WHERE jobid = ANY (:@jobids::bigint[])

-- name: records (jobids) -> rows
-- The job of each record of the given jobs, once per record, whether or not another transaction has locked the record.
SELECT jobid FROM failure WHERE jobid = ANY (:@jobids::bigint[])
UNION ALL SELECT jobid FROM report WHERE jobid = ANY (:@jobids::bigint[])

-- name: lockable_records (jobids) -> rows
-- Locks the records of the given jobs that no other transaction has locked, and returns the job of each.
SELECT jobid FROM (SELECT jobid FROM failure WHERE jobid = ANY (:@jobids::bigint[]) FOR UPDATE SKIP LOCKED) AS failures
UNION ALL
SELECT jobid FROM (SELECT jobid FROM report WHERE jobid = ANY (:@jobids::bigint[]) FOR UPDATE SKIP LOCKED) AS reports

-- name: forget_failures (jobids) -> none
-- Deletes the failure records of jobs that are deleted.
DELETE FROM failure WHERE jobid = ANY (:@jobids::bigint[])

-- name: forget_reports (jobids) -> none
-- Deletes the reports of jobs that are deleted.
DELETE FROM report WHERE jobid = ANY (:@jobids::bigint[])

-- name: held (jobids, attempt) -> rows
-- The given jobs that this attempt holds, locked by the transaction.
SELECT jobid FROM job
 WHERE jobid = ANY (:@jobids::bigint[]) AND attempt = :attempt::bigint AND state + 0 IN (1, 2, 3) AND {held}
   FOR UPDATE

-- name: set_status (jobid, attempt, body) -> none
-- The progress of an attempt: one row, which is overwritten.
INSERT INTO report (jobid, attempt, number, kind, reported_at, body)
VALUES (:jobid::bigint, :attempt::bigint, 0, 'status',
        floor(extract(epoch FROM clock_timestamp()))::bigint, :body::bytea)
ON CONFLICT (jobid, attempt, number) DO UPDATE SET reported_at = excluded.reported_at, body = excluded.body

-- name: add_line (jobid, attempt, kind, body, limit) -> none
-- Adds a line to the report of an attempt, unless it has `limit` lines already.
INSERT INTO report (jobid, attempt, number, kind, reported_at, body)
SELECT :jobid::bigint, :attempt::bigint, last + 1, :kind::text,
       floor(extract(epoch FROM clock_timestamp()))::bigint, :body::bytea
  FROM (SELECT COALESCE(MAX(number), 0) AS last FROM report
         WHERE jobid = :jobid::bigint AND attempt = :attempt::bigint) AS said
 WHERE last < :limit::integer

-- name: reports (jobid) -> rows
-- The reports of a job, oldest attempt first.
SELECT attempt, kind, reported_at, body FROM report WHERE jobid = :jobid::bigint ORDER BY attempt, number

-- name: retention (jobid) -> rows
-- How long the function of a job keeps it after success.
SELECT (SELECT retention FROM function WHERE function.funcname = job.funcname) FROM job WHERE jobid = :jobid::bigint

-- name: keep (jobid, attempt, worker, result, retention, ran) -> none
-- Keeps a job that succeeded, in the transaction that deletes its row. An id is used once.
INSERT INTO finished (jobid, funcname, uniqkey, attempt, failcount, created, finished_at, expires, worker, result,
       seconds)
SELECT jobid, funcname, uniqkey, :attempt::bigint, failcount, created,
       floor(extract(epoch FROM clock_timestamp()))::bigint,
       floor(extract(epoch FROM clock_timestamp()))::bigint + :retention::bigint, :worker::text, :result::bytea, :ran::double precision
  FROM job WHERE jobid = :jobid::bigint
ON CONFLICT (jobid) DO NOTHING

-- name: finished (jobid) -> rows
-- A kept job.
SELECT jobid, funcname, uniqkey, attempt, failcount, created, finished_at, expires, worker, result, seconds
  FROM finished WHERE jobid = :jobid::bigint

-- name: kept_jobs (after, limit) -> rows
-- Kept jobs in the order of their ids, with the columns of `finished`, but without their results.
SELECT jobid, funcname, uniqkey, attempt, failcount, created, finished_at, expires, worker, NULL, seconds
  FROM finished WHERE jobid > :after::bigint ORDER BY jobid LIMIT :limit::bigint

-- name: outlived (limit) -> rows
-- Kept jobs whose retention is over.
SELECT jobid FROM finished WHERE expires <= (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint)
 ORDER BY expires LIMIT :limit::bigint

-- name: forget_finished (jobids) -> none
-- Deletes kept jobs.
DELETE FROM finished WHERE jobid = ANY (:@jobids::bigint[])

-- name: failed (after, limit) -> rows
-- The jobs of failure records after an id, each as often as it has records.
SELECT jobid FROM failure WHERE jobid > :after::bigint ORDER BY jobid LIMIT :limit::bigint

-- name: dead (jobids) -> rows
-- The given jobs that are dead, and how many seconds ago each died, which is the age of its newest record. A job that
-- another program has parked by `run_after` alone is not among them. A job that a drain is moving counts as younger
-- than any.
SELECT jobid, funcname, floor(extract(epoch FROM clock_timestamp()))::bigint - (
         SELECT max(CASE WHEN kind = 'moved' THEN 2147483647 ELSE failed_at END) FROM failure WHERE failure.jobid = job.jobid)
  FROM job WHERE jobid = ANY (:@jobids::bigint[]) AND state + 0 = 4 AND run_after = 2147483647

-- name: standing (jobids) -> rows
-- The rows of jobs before their setbacks, locked by the transaction. The last columns are whether the job has a
-- successor, whether it is a member of a batch, and whether the attempt in the row holds the job.
SELECT jobid, attempt, state, failcount, crashes,
       (SELECT max_failures FROM function WHERE function.funcname = job.funcname),
       (SELECT retry FROM function WHERE function.funcname = job.funcname),
       has_successor, EXISTS (SELECT 1 FROM batch_member WHERE batch_member.jobid = job.jobid), {effective_state} IN (1, 2, 3)
  FROM job WHERE jobid = ANY (:@jobids::bigint[]) FOR UPDATE OF job

-- name: put_back (jobid, attempt, state, failcount, delay) -> none
-- Ends an attempt without success: the job waits for this many seconds.
UPDATE job SET state = 0, failcount = :failcount::smallint, lease_end = 0,
       run_after = :delay::bigint +
         CASE WHEN :delay::bigint = 0 THEN floor(extract(epoch FROM clock_timestamp()))
              ELSE ceil(extract(epoch FROM clock_timestamp())) END::bigint
 WHERE jobid = :jobid::bigint AND attempt = :attempt::bigint AND state = :state::smallint

-- name: put_at (jobid, attempt, state, failcount, run_after) -> none
-- As `put_back`, but the job waits until a unix time. If that time is "never", the new state is dead.
UPDATE job SET state = CASE WHEN :run_after::bigint = 2147483647 THEN 4 ELSE 0 END,
       failcount = :failcount::smallint, run_after = :run_after::bigint, lease_end = 0
 WHERE jobid = :jobid::bigint AND attempt = :attempt::bigint AND state = :state::smallint

-- name: record_failure (jobid, attempt, kind, error, message, trace, worker) -> none
-- Records a setback. An attempt ends once, and a repeated report does not reach this statement. A report without an
-- attempt, or the death of a process, may be recorded twice for one attempt: the newest record is kept.
INSERT INTO failure (jobid, attempt, failed_at, kind, error, message, trace, worker)
VALUES (:jobid::bigint, :attempt::bigint, floor(extract(epoch FROM clock_timestamp()))::bigint, :kind::text,
        :error::text, :message::text, :trace::text, :worker::text)
ON CONFLICT (jobid, attempt, kind) DO UPDATE
   SET failed_at = excluded.failed_at, error = excluded.error, message = excluded.message, trace = excluded.trace,
       worker = excluded.worker

-- name: record_keys (jobid) -> rows
-- The failure records of a job without their texts, except the number in the row that counts omitted records.
SELECT attempt, kind, CASE WHEN kind = 'omitted' THEN message END FROM failure WHERE jobid = :jobid::bigint ORDER BY attempt, kind

-- name: omit_failures (jobid, after, before) -> count
-- Deletes the failure records of a job between two attempts.
DELETE FROM failure WHERE jobid = :jobid::bigint AND attempt > :after::bigint AND attempt < :before::bigint

-- name: count_run (jobid, attempt) -> rows
-- Counts a start whose function has read `job.run`.
UPDATE job SET runs = runs + 1
 WHERE jobid = :jobid::bigint AND attempt = :attempt::bigint AND state IN (1, 2, 3) AND {held}
RETURNING runs

-- name: recorded (jobid, attempt) -> rows
-- Whether this attempt has reported its end already. A record of the death of a process does not count as such a
-- report.
SELECT kind FROM failure WHERE jobid = :jobid::bigint AND attempt = :attempt::bigint AND kind NOT IN ('crashed', 'omitted')

-- name: failures (jobid) -> rows
-- The failure records of a job, oldest first.
SELECT attempt, failed_at, kind, error, message, trace, worker FROM failure
 WHERE jobid = :jobid::bigint ORDER BY attempt, kind

-- name: failure_texts (after, size, limit) -> rows
-- The failure records of jobs after an id, with the first characters of each message.
SELECT jobid, failed_at, kind, error, left(message, :size::integer) FROM failure
 WHERE jobid > :after::bigint ORDER BY jobid LIMIT :limit::bigint

-- name: funcnames (jobids) -> rows
-- The functions of the given jobs.
SELECT jobid, funcname FROM job WHERE jobid = ANY (:@jobids::bigint[])

-- name: kept_funcnames (jobids) -> rows
-- The functions of the given kept jobs.
SELECT jobid, funcname FROM finished WHERE jobid = ANY (:@jobids::bigint[])

-- name: get (jobid) -> rows
-- One job with its effective state: a job that another program has put off is waiting, or is dead if it was put off
-- until "never".
SELECT jobid, funcname, arg, uniqkey, "coalesce", run_after, flag, failcount, attempt, priority,
       {effective_state},
       since, crashes, created, runs, partition, headers
  FROM job WHERE jobid = :jobid::bigint

-- name: newest () -> rows
-- The greatest id of a job.
SELECT jobid FROM job ORDER BY jobid DESC LIMIT 1

-- name: match (funcname, state, failed, uniqkey, partition, error, error_text, arg_text, created_from, created_before, due_from, due_before, after, until, limit) -> rows
-- The next jobs by id, each with its effective state if it matches and NULL if not. The conditions are not in the WHERE
-- clause, so the statement reads the next `limit` rows and no others, however many of them match.
SELECT jobid,
       CASE WHEN (:funcname::text IS NULL OR funcname = :funcname::text)
             AND (:state::smallint IS NULL OR {effective_state} = :state::smallint)
             AND (NOT :failed::boolean OR failcount > 0 OR crashes > 0 OR {effective_state} = 4)
             AND (:uniqkey::text IS NULL OR uniqkey = :uniqkey::text)
             AND (:partition::text IS NULL OR partition = :partition::text)
             AND (:created_from::bigint IS NULL OR created > 0 AND created >= :created_from::bigint)
             AND (:created_before::bigint IS NULL OR created > 0 AND created < :created_before::bigint)
             AND (:due_from::bigint IS NULL OR run_after <> 2147483647 AND run_after >= :due_from::bigint)
             AND (:due_before::bigint IS NULL OR run_after <> 2147483647 AND run_after < :due_before::bigint)
             AND (:arg_text::bytea IS NULL OR position(:arg_text::bytea IN arg) > 0)
             AND (:error::text IS NULL AND :error_text::text IS NULL OR (
                  SELECT bool_or((:error::text IS NULL OR error = :error::text)
                         AND (:error_text::text IS NULL OR position(:error_text::text IN message) > 0))
                    FROM failure
                   WHERE failure.jobid = job.jobid
                     AND failure.attempt = (SELECT latest.attempt FROM failure AS latest
                                             WHERE latest.jobid = job.jobid ORDER BY latest.attempt DESC LIMIT 1)))
            THEN {effective_state} END
  FROM job WHERE jobid > :after::bigint AND jobid <= :until::bigint ORDER BY jobid LIMIT :limit::bigint

-- name: jobs (jobids) -> rows
-- The given jobs in the order of their ids, each as `get` returns it.
SELECT jobid, funcname, arg, uniqkey, "coalesce", run_after, flag, failcount, attempt, priority,
       {effective_state},
       since, crashes, created, runs, partition, headers
  FROM job WHERE jobid = ANY (:@jobids::bigint[]) ORDER BY jobid

-- name: lock_states (jobids) -> rows
-- Locks the given rows that no other transaction has locked, and returns them with their effective states and whether
-- each has a successor.
SELECT jobid, attempt, {effective_state}, has_successor FROM job WHERE jobid = ANY (:@jobids::bigint[]) FOR UPDATE SKIP LOCKED

-- name: record_ends (jobids, kind, message) -> none
-- Inserts the failure records of jobs that an operator ends together.
INSERT INTO failure (jobid, attempt, failed_at, kind, error, message, trace, worker)
SELECT jobid, attempt, floor(extract(epoch FROM clock_timestamp()))::bigint, :kind::text, '', :message::text, '', ''
  FROM job WHERE jobid = ANY (:@jobids::bigint[])
ON CONFLICT (jobid, attempt, kind) DO UPDATE SET failed_at = excluded.failed_at, message = excluded.message

-- name: put_all_back (jobids, delay) -> none
-- Sets jobs that nobody holds to wait for this many seconds.
UPDATE job SET state = 0, lease_end = 0,
       run_after = :delay::bigint +
         CASE WHEN :delay::bigint = 0 THEN floor(extract(epoch FROM clock_timestamp()))
              ELSE ceil(extract(epoch FROM clock_timestamp())) END::bigint
 WHERE jobid = ANY (:@jobids::bigint[])

-- name: put_all_at (jobids, run_after) -> none
-- As `put_all_back`, but the jobs wait until a unix time. If that time is "never", the new state is dead.
UPDATE job SET state = CASE WHEN :run_after::bigint = 2147483647 THEN 4 ELSE 0 END, run_after = :run_after::bigint,
       lease_end = 0
 WHERE jobid = ANY (:@jobids::bigint[])

-- name: set_priority (jobids, priority) -> none
-- Moves jobs that nobody holds to the lane of another priority.
UPDATE job SET priority = :priority::smallint WHERE jobid = ANY (:@jobids::bigint[])

-- name: retry (jobids) -> none
-- An operator makes jobs due now, with their failures forgiven. A leased or running job is not touched.
UPDATE job SET state = 0, failcount = 0, crashes = 0, lease_end = 0,
       run_after = floor(extract(epoch FROM clock_timestamp()))::bigint
 WHERE jobid = ANY (:@jobids::bigint[])
   AND {effective_state} IN (0, 4)

-- name: counts () -> rows
-- The number of jobs of each function and state, and how many of them never run. This reads the whole lane index, so it
-- is for operators, and not for a pass.
SELECT funcname, state, count(*), min(run_after), count(*) FILTER (WHERE run_after = 2147483647)
  FROM job GROUP BY funcname, state ORDER BY funcname, state

-- name: count_put_off (funcnames) -> rows
-- The number of leased jobs of the given functions that another program has put off.
SELECT funcname, state, count(*), min(run_after) FROM job
 WHERE funcname = ANY (:@funcnames::text[]) AND state IN (1, 2, 3) AND {put_off}
 GROUP BY funcname, state

-- name: waiting () -> rows
-- The numbers of waiting jobs that are due, delayed, and backed off after a failure. The lane index is enough to count
-- the due ones. Delayed and backed-off jobs are distinguished by failcount, for which their rows are read.
SELECT (SELECT count(*) FROM job WHERE state = 0 AND run_after <= t.now AND run_after <> 2147483647),
       (SELECT count(*) FROM job WHERE state = 0 AND run_after > t.now AND run_after <> 2147483647 AND failcount = 0),
       (SELECT count(*) FROM job WHERE state = 0 AND run_after > t.now AND run_after <> 2147483647 AND failcount > 0)
  FROM (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint AS now) AS t

-- name: facts () -> rows
-- Settings of the database that decide whether a job can be lost, and whether the cost of claims stays the same. Behind
-- a pooler a session may have settings that another program has left there. The facts include these, except settings
-- that PgBouncer keeps per client. The oldest transaction that holds a snapshot is searched among the sessions of the
-- role, or among all sessions if the role has pg_monitor. If commits wait for a standby, the facts include how many
-- standbys are connected (a role without pg_monitor counts all), and how many commits have waited for long. If the
-- table has never been analyzed, they include how many rows it has by now.
SELECT name, setting FROM pg_catalog.pg_settings
 WHERE name IN ('autovacuum', 'fsync', 'full_page_writes', 'transaction_read_only')
UNION ALL SELECT 'version', current_setting('server_version')
UNION ALL SELECT 'role', quote_ident(current_user)
UNION ALL SELECT 'job_autovacuum', coalesce((SELECT option_value FROM pg_catalog.pg_options_to_table(reloptions)
                                               WHERE option_name = 'autovacuum_enabled'), 'true')
            FROM pg_catalog.pg_class WHERE oid = to_regclass('job')
UNION ALL SELECT 'rows_not_analyzed', n_live_tup::text FROM pg_catalog.pg_stat_user_tables
            JOIN pg_catalog.pg_class ON oid = relid
           WHERE relid = to_regclass('job') AND reltuples <= 0 AND last_analyze IS NULL AND last_autoanalyze IS NULL
UNION ALL SELECT 'oldest_snapshot', coalesce(extract(epoch FROM clock_timestamp() - min(xact_start)), 0)::bigint::text
            FROM pg_catalog.pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
UNION ALL SELECT 'snapshot_holder', coalesce((array_agg(pid ORDER BY xact_start))[1], 0)::text
            FROM pg_catalog.pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
UNION ALL SELECT 'in_recovery', pg_is_in_recovery()::text
UNION ALL SELECT name, reset_val FROM pg_catalog.pg_settings WHERE name = 'synchronous_commit'
UNION ALL SELECT 'settings_of_others', coalesce(string_agg(name, ', ' ORDER BY name), 'none')
  FROM pg_catalog.pg_settings
 WHERE source = 'session' AND name NOT IN ('DateStyle', 'IntervalStyle', 'TimeZone', 'application_name',
       'client_encoding', 'standard_conforming_strings', 'synchronous_commit', 'transaction_deferrable',
       'transaction_isolation', 'transaction_read_only')
UNION ALL SELECT 'synchronous_standbys', count(*)::text FROM pg_catalog.pg_stat_replication
           WHERE coalesce(sync_state, 'sync') IN ('sync', 'quorum')
          HAVING current_setting('synchronous_standby_names') <> ''
UNION ALL SELECT 'commits_without_standby', count(*)::text FROM pg_catalog.pg_stat_activity
           WHERE wait_event = 'SyncRep' AND state_change < clock_timestamp() - interval '5 s'

-- name: functions () -> rows
-- The settings that apply to each function, and the time until which it is paused.
SELECT funcname, lease, deadline, renews, envelope, max_failures, retention, max_running, retry, timeout,
       dead_retention, rate, burst, unique_scope, unique_window, on_duplicate, max_delay, expires, partition_max_running, partition_rate, partition_burst, fair, cancel_grace,
       coalesce_max, coalesce_wait,
       CASE WHEN paused_until > floor(extract(epoch FROM clock_timestamp()))::bigint THEN paused_until END
  FROM function ORDER BY funcname

-- name: settings () -> rows
-- The settings of all functions, with those that code has declared and those that an operator has set instead.
SELECT funcname, lease, deadline, renews, envelope, max_failures, retention, max_running, retry, timeout,
       dead_retention, rate, burst, unique_scope, unique_window, on_duplicate, max_delay, expires,
       partition_max_running, partition_rate, partition_burst, fair, cancel_grace,
       coalesce_max, coalesce_wait,
       declared, override
  FROM function ORDER BY funcname

-- name: declared (funcnames) -> rows
-- The settings of the given functions that code has declared.
SELECT funcname, declared FROM function WHERE funcname = ANY (:@funcnames::text[])

-- name: lock_settings (funcnames) -> rows
-- The settings of the given functions, as `settings` returns them, locked by the transaction.
SELECT funcname, lease, deadline, renews, envelope, max_failures, retention, max_running, retry, timeout,
       dead_retention, rate, burst, unique_scope, unique_window, on_duplicate, max_delay, expires,
       partition_max_running, partition_rate, partition_burst, fair, cancel_grace,
       coalesce_max, coalesce_wait,
       declared, override
  FROM function WHERE funcname = ANY (:@funcnames::text[]) ORDER BY funcname FOR UPDATE

-- name: create_functions (funcname) -> none
-- Creates rows for functions that have none yet, so that the rows can be locked.
INSERT INTO function (funcname) SELECT unnest(:@funcname::text[]) ON CONFLICT (funcname) DO NOTHING

-- name: write_settings (funcname, lease, deadline, renews, envelope, max_failures, retention, max_running, retry, timeout, dead_retention, rate, burst, unique_scope, unique_window, on_duplicate, max_delay, expires, partition_max_running, partition_rate, partition_burst, fair, cancel_grace, coalesce_max, coalesce_wait, declared, override) -> none
-- Writes all settings of functions.
INSERT INTO function (funcname, lease, deadline, renews, envelope, max_failures, retention, max_running, retry, timeout,
       dead_retention, rate, burst, unique_scope, unique_window, on_duplicate, max_delay, expires,
       partition_max_running, partition_rate, partition_burst, fair, cancel_grace,
       coalesce_max, coalesce_wait, declared, override)
SELECT n.funcname, n.lease, n.deadline, n.renews::boolean, n.envelope, n.max_failures, n.retention, n.max_running,
       n.retry, n.timeout, n.dead_retention, n.rate, n.burst, n.unique_scope, n.unique_window,
       n.on_duplicate, n.max_delay, n.expires, n.partition_max_running, n.partition_rate,
       n.partition_burst, n.fair, n.cancel_grace, n.coalesce_max, n.coalesce_wait, n.declared, n.override
  FROM unnest(:@funcname::text[], :@lease::integer[], :@deadline::integer[], :@renews::integer[], :@envelope::text[],
              :@max_failures::integer[], :@retention::integer[], :@max_running::integer[], :@retry::text[],
              :@timeout::double precision[], :@dead_retention::integer[], :@rate::text[], :@burst::integer[],
              :@unique_scope::text[], :@unique_window::integer[], :@on_duplicate::text[], :@max_delay::integer[],
              :@expires::integer[], :@partition_max_running::integer[], :@partition_rate::text[],
              :@partition_burst::integer[], :@fair::smallint[],
              :@cancel_grace::integer[], :@coalesce_max::integer[], :@coalesce_wait::integer[], :@declared::text[], :@override::text[])
       AS n (funcname, lease, deadline, renews, envelope, max_failures, retention, max_running, retry, timeout,
             dead_retention, rate, burst, unique_scope, unique_window, on_duplicate, max_delay, expires,
             partition_max_running, partition_rate, partition_burst, fair, cancel_grace,
       coalesce_max, coalesce_wait, declared, override)
ON CONFLICT (funcname) DO UPDATE
   SET lease = excluded.lease, deadline = excluded.deadline, renews = excluded.renews,
       envelope = excluded.envelope, max_failures = excluded.max_failures, retention = excluded.retention,
       max_running = excluded.max_running, retry = excluded.retry, timeout = excluded.timeout,
       dead_retention = excluded.dead_retention, rate = excluded.rate, burst = excluded.burst,
       unique_scope = excluded.unique_scope, unique_window = excluded.unique_window,
       on_duplicate = excluded.on_duplicate, max_delay = excluded.max_delay, expires = excluded.expires,
       partition_max_running = excluded.partition_max_running, partition_rate = excluded.partition_rate,
       partition_burst = excluded.partition_burst, fair = excluded.fair, cancel_grace = excluded.cancel_grace, coalesce_max = excluded.coalesce_max,
       coalesce_wait = excluded.coalesce_wait,
       declared = excluded.declared, override = excluded.override

-- name: adoptable (jobids) -> rows
-- Jobs whose copies came without an attempt and that nobody runs, locked by the transaction.
SELECT jobid FROM job WHERE jobid = ANY (:@jobids::bigint[]) AND state + 0 IN (0, 1) AND run_after <> 2147483647 FOR UPDATE

-- name: adopt (jobids, lease) -> rows
-- Gives an attempt to the copies of the jobs that `adoptable` has found, which the original's QueueRunner has leased by
-- `run_after` alone. The arguments of the jobs are not read.
UPDATE job
   SET attempt = attempt + 1, state = 2, since = floor(extract(epoch FROM clock_timestamp()))::bigint,
       (run_after, lease_end) =
       (SELECT lease.ends, lease.ends FROM (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint + :lease::bigint + 1 AS ends) AS lease)
 WHERE jobid = ANY (:@jobids::bigint[])
RETURNING jobid, funcname, NULL, uniqkey, "coalesce", run_after, flag, failcount, attempt, priority, state,
          since, crashes, created, runs, partition, headers

-- name: unset_function (funcname) -> none
-- Deletes the row of a function without settings, so that the defaults apply, unless it is paused or marked.
DELETE FROM function
 WHERE funcname = :funcname::text AND (paused_until IS NULL OR paused_until <= floor(extract(epoch FROM clock_timestamp()))::bigint)
   AND (checked_until IS NULL OR checked_until <= floor(extract(epoch FROM clock_timestamp()))::bigint)

-- name: mark_function (jobid, lease) -> none
-- Marks the function of a job that is being cancelled, until the leases of its copies have ended.
INSERT INTO function (funcname, cancels, checked_until)
SELECT funcname, 1, greatest(run_after, floor(extract(epoch FROM clock_timestamp()))::bigint + greatest(:lease::bigint, (SELECT coalesce(max(lease), 0) FROM function WHERE function.funcname = job.funcname))) + 1
  FROM job WHERE jobid = :jobid::bigint
ON CONFLICT (funcname) DO UPDATE
   SET cancels = function.cancels + 1, checked_until = greatest(coalesce(function.checked_until, 0), excluded.checked_until)

-- name: marks () -> rows
-- The functions whose copies are checked before their start, and how often jobs of them were cancelled.
SELECT funcname, cancels FROM function WHERE checked_until > floor(extract(epoch FROM clock_timestamp()))::bigint

-- name: cancelled (jobids, attempt) -> rows
-- The given jobs that are dead and have had no later attempt.
SELECT jobid FROM job WHERE jobid = ANY (:@jobids::bigint[]) AND attempt = :attempt::bigint AND {effective_state} = 4

-- name: pause (funcname, paused_until) -> none
-- Pauses a function, whose row exists, until a time. NULL ends the pause.
UPDATE function SET paused_until = :paused_until::bigint WHERE funcname = :funcname::text

-- name: mark_paused (funcname, lease) -> none
-- Marks a function, whose row exists, until the leases of its copies have ended.
UPDATE function
   SET cancels = cancels + 1,
       checked_until = greatest(coalesce(checked_until, 0), floor(extract(epoch FROM clock_timestamp()))::bigint + greatest(:lease::bigint, coalesce(lease, 0)) + 1)
 WHERE funcname = :funcname::text

-- name: unstarted (funcname, priority, limit) -> rows
-- The jobs of a lane that were claimed and whose leases have not been renewed. Rows locked by another transaction are
-- skipped.
SELECT jobid
  FROM job
 WHERE funcname = :funcname::text AND state = 1 AND priority = :priority::smallint AND {held}
 ORDER BY run_after LIMIT :limit::bigint
   FOR UPDATE SKIP LOCKED

-- name: take_back (jobids) -> none
-- Sets claimed jobs back to waiting, due since their claim.
UPDATE job SET state = 0, run_after = since, lease_end = 0 WHERE jobid = ANY (:@jobids::bigint[])

-- name: paused (funcname) -> rows
-- The time until which a function is paused. No row: it is not paused.
SELECT paused_until FROM function WHERE funcname = :funcname::text AND paused_until > floor(extract(epoch FROM clock_timestamp()))::bigint

-- name: dispatched (funcname, priority, age, since, after, limit) -> rows
-- Leased jobs of a lane that no worker has started and whose leases have not expired. The youngest are omitted, because
-- they may not have been submitted yet. The rows are read in pages, in the order in which their leases end.
SELECT jobid, attempt, run_after, bundle FROM job
 WHERE funcname = :funcname::text AND state = 1 AND priority = :priority::smallint
   AND run_after > (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint) AND run_after >= :after::bigint
   AND since <= (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint) - :age::bigint AND since > :since::bigint
   AND {held}
 ORDER BY run_after LIMIT :limit::bigint

-- name: leased (funcname, lease, limit) -> one
-- The number of jobs of a function in Gearman that no worker has started, up to a limit. A row whose `run_after` is
-- later than the end of any lease was put off by another program, which the index alone shows.
SELECT count(*) FROM (
  SELECT 1 FROM job
   WHERE funcname = :funcname::text AND state = 1
     AND run_after <= (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint) + :lease::bigint + 2
   LIMIT :limit::bigint) AS handed_out

-- name: lock_function (funcname) -> rows
-- The rules of a function, whether it is paused, and the time now with its fraction. The row stays locked until the end
-- of the claim, so that claims of the function take turns. No row: the function has no settings, or another claim has
-- the lock.
SELECT max_running, coalesce(paused_until > floor(extract(epoch FROM clock_timestamp()))::bigint, false),
       rate, burst, rate_used_until, extract(epoch FROM clock_timestamp())::float8,
       partition_max_running, partition_rate, partition_burst, fair, coalesce_max, coalesce_wait
  FROM function WHERE funcname = :funcname::text FOR UPDATE SKIP LOCKED

-- name: use_rate (funcname, used_until) -> none
-- Stores the time up to which the rate of a function is used, in the transaction that has locked its row.
UPDATE function SET rate_used_until = :used_until::float8 WHERE funcname = :funcname::text

-- name: in_flight (funcname, limit) -> one
-- The number of jobs of a function that an attempt holds, up to a limit.
SELECT count(*) FROM (
  SELECT 1 FROM job
   WHERE funcname = :funcname::text AND state IN (1, 2, 3) AND {held} LIMIT :limit::bigint) AS handed_out

-- name: lane_page (funcname, priority, after, after_jobid, limit) -> rows
-- The next due jobs of a lane in the order of due times and ids, and whether each has a row in `turn`: 1 or NULL. The
-- first part reads jobs with the due time that was read last, and has only the conditions of an index scan. The second
-- part reads later jobs, not in the order of ids, so that no sort is needed. `jobid + 0` prevents a scan of the primary
-- key, which reads all jobs if statistics wrongly say that most of them have this due time.
SELECT lane.jobid, lane.run_after,
       (SELECT 1 FROM turn WHERE turn.jobid = lane.jobid AND turn.priority = :priority::smallint)
  FROM (
        (SELECT jobid, run_after FROM job
         WHERE funcname = :funcname::text AND state = 0 AND priority = :priority::smallint AND run_after = :after::bigint
           AND jobid + 0 > :after_jobid::bigint
         ORDER BY jobid + 0 LIMIT :limit::bigint)
        UNION ALL
        (SELECT jobid, run_after FROM job
         WHERE funcname = :funcname::text AND state = 0 AND priority = :priority::smallint AND run_after > :after::bigint
           AND run_after <= (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint) AND run_after <> 2147483647
         ORDER BY run_after LIMIT :limit::bigint)) AS lane
 ORDER BY lane.run_after, lane.jobid LIMIT :limit::bigint

-- name: add_turns (jobids, funcname, priority) -> none
-- Gives these jobs of a lane a turn, if they still wait.
INSERT INTO turn (jobid, funcname, priority, partition, run_after)
SELECT jobid, :funcname::text, priority, coalesce(partition, ''), run_after FROM job
 WHERE jobid = ANY (:@jobids::bigint[]) AND state + 0 = 0 AND priority + 0 = :priority::smallint
ON CONFLICT (jobid) DO UPDATE
   SET priority = excluded.priority, partition = excluded.partition, run_after = excluded.run_after

-- name: add_turn_partitions (jobids, funcname, priority) -> none
-- Notes the partitions of these jobs. They may be noted already.
INSERT INTO turn_partition (funcname, priority, partition)
SELECT DISTINCT :funcname::text, :priority::smallint, coalesce(partition, '') FROM job WHERE jobid = ANY (:@jobids::bigint[])
ON CONFLICT (funcname, priority, partition) DO NOTHING

-- name: turn_partitions (funcname, priority, start, limit) -> rows
-- The next partitions with turns, from the text `start` on.
SELECT partition FROM turn_partition
 WHERE funcname = :funcname::text AND priority = :priority::smallint AND partition >= :start::text
 ORDER BY partition LIMIT :limit::bigint

-- name: next_turns (funcname, priority, partition, limit) -> rows
-- The first turns of each of these partitions, as many as its `limit`.
SELECT turns.jobid, given.partition, turns.run_after
  FROM unnest(:@funcname::text[], :@priority::smallint[], :@partition::text[], :@limit::bigint[])
       AS given (funcname, priority, partition, size)
       CROSS JOIN LATERAL (
         SELECT turn.jobid, turn.run_after FROM turn
          WHERE turn.funcname = given.funcname AND turn.priority = given.priority AND turn.partition = given.partition
          ORDER BY turn.run_after, turn.jobid LIMIT given.size) AS turns

-- name: in_flight_calls (funcname, limit) -> one
-- The number of calls of a function with bundles that are in flight, and the number of their jobs, which are counted up
-- to a limit. The jobs of a bundle are one call.
SELECT count(DISTINCT call_of), count(*) FROM (
  SELECT CASE WHEN split_part(bundle, '/', 1) = attempt::text THEN substr(bundle, strpos(bundle, '/') + 1) ELSE jobid || '/' || attempt END AS call_of
    FROM job
   WHERE funcname = :funcname::text AND state IN (1, 2, 3) AND {held} LIMIT :limit::bigint) AS handed_out

-- name: bundle_page (funcname, priority, limit, skip) -> rows
-- Due jobs of a lane with the values that decide which of them go together, from a number of jobs on. Nothing is locked.
SELECT jobid, run_after, "coalesce", flag, failcount, crashes
  FROM job
 WHERE funcname = :funcname::text AND state = 0 AND priority = :priority::smallint
   AND run_after <= (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint) AND run_after <> 2147483647
 ORDER BY run_after LIMIT :limit::bigint OFFSET :skip::bigint

-- name: mark_bundle (jobids, call) -> none
-- Notes with the jobs of a bundle, which this transaction has claimed, their attempts and the call that carries them.
UPDATE job SET bundle = attempt || '/' || :call::text WHERE jobid = ANY (:@jobids::bigint[])

-- name: due_turns (jobids, priority, small) -> rows
-- The jobs among these that a claim may take now, as `due` reads them. Rows that are locked are skipped.
SELECT jobid, run_after, CASE WHEN octet_length(arg) > :small::bigint THEN NULL ELSE coalesce(arg, '') END, uniqkey,
       "coalesce", flag, failcount, attempt, (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint), created, expires,
       partition, headers
  FROM job
 WHERE jobid = ANY (:@jobids::bigint[]) AND state + 0 = 0 AND priority + 0 = :priority::smallint
   AND run_after + 0 <= (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint) AND run_after + 0 <> 2147483647
   FOR UPDATE SKIP LOCKED

-- name: waiting_turns (jobids, priority) -> rows
-- The jobs among these that wait and are due, locked or not, and the partition of each.
SELECT jobid, coalesce(partition, '') FROM job
 WHERE jobid = ANY (:@jobids::bigint[]) AND state + 0 = 0 AND priority + 0 = :priority::smallint
   AND run_after + 0 <= (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint) AND run_after + 0 <> 2147483647

-- name: partition_turns (funcname, priority, partition, limit) -> rows
-- The first turns of a partition.
SELECT jobid FROM turn
 WHERE funcname = :funcname::text AND priority = :priority::smallint AND partition = :partition::text
 ORDER BY run_after, jobid LIMIT :limit::bigint

-- name: forget_turns (jobids) -> none
-- Deletes the turns of jobs that are handed out or no longer due.
DELETE FROM turn WHERE jobid = ANY (:@jobids::bigint[])

-- name: forget_turn_partitions (funcname, priority, partitions) -> none
-- Deletes the notes of these partitions, which have no turn left.
DELETE FROM turn_partition
 WHERE funcname = :funcname::text AND priority = :priority::smallint AND partition = ANY (:@partitions::text[])

-- name: turn_functions () -> rows
-- The functions with turns.
SELECT DISTINCT funcname FROM turn_partition

-- name: some_turns (funcname, limit) -> rows
-- Some turns of a function.
SELECT jobid FROM turn WHERE funcname = :funcname::text LIMIT :limit::bigint

-- name: forget_partitions (funcname) -> none
-- Deletes the notes of the partitions of a function that has no turns.
DELETE FROM turn_partition WHERE funcname = :funcname::text

-- name: in_flight_by_partition (funcname, limit) -> rows
-- The number of jobs of a function that attempts hold, for each partition. At most `limit` jobs are counted in all.
SELECT coalesce(partition, ''), count(*) FROM (
  SELECT partition FROM job
   WHERE funcname = :funcname::text AND state IN (1, 2, 3) AND {held} LIMIT :limit::bigint) AS handed_out
 GROUP BY partition

-- name: partition_rates (funcname, partitions) -> rows
-- The times up to which the starts of these partitions have used their rates.
SELECT partition, used_until FROM partition_rate WHERE funcname = :funcname::text AND partition = ANY (:@partitions::text[])

-- name: use_partition_rates (funcname, partition, used_until) -> none
-- Stores the times up to which partitions have used their rates, in the transaction that has locked the function's row.
INSERT INTO partition_rate (funcname, partition, used_until)
SELECT * FROM unnest(:@funcname::text[], :@partition::text[], :@used_until::float8[])
ON CONFLICT (funcname, partition) DO UPDATE SET used_until = excluded.used_until

-- name: forget_partition_rates (limit) -> count
-- Deletes past times up to which partitions had used their rates. They mean the same as no row.
DELETE FROM partition_rate
 WHERE (funcname, partition) IN (
       SELECT funcname, partition FROM partition_rate
        WHERE used_until < (SELECT extract(epoch FROM clock_timestamp())::float8) LIMIT :limit::bigint)
   AND used_until < (SELECT extract(epoch FROM clock_timestamp())::float8)

-- name: give_back (jobids, attempt) -> none
-- Sets jobs that a worker holds and has not started back to waiting, due now.
UPDATE job SET state = 0, run_after = floor(extract(epoch FROM clock_timestamp()))::bigint, lease_end = 0
 WHERE jobid = ANY (:@jobids::bigint[]) AND attempt = :attempt::bigint AND state + 0 IN (1, 2, 3) AND {held}

-- name: mark_leased (jobids, attempt) -> none
-- Sets a running job back to leased, because the worker that checked it has lost the Gearman server and will not start
-- the job. So the lease may end early. If that server still exists, the worker that has the copy now renews the lease.
UPDATE job SET state = 1 WHERE jobid = ANY (:@jobids::bigint[]) AND attempt = :attempt::bigint AND state + 0 = 2 AND {held}

-- name: crash (jobid, attempt) -> none
-- Counts the death of the process that ran the job. The lease stays: the Gearman server has given the copy to another
-- worker.
UPDATE job SET crashes = crashes + 1
 WHERE jobid = :jobid::bigint AND attempt = :attempt::bigint AND state IN (1, 2, 3) AND {held}

-- name: refuse_inserts () -> none
-- Creates a trigger: from now on no program can insert jobs, whether it knows of the drain or not. Successors become
-- jobs anyway.
CREATE OR REPLACE FUNCTION garivini_draining() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN
  IF NOT EXISTS (SELECT 1 FROM successor WHERE successor.funcname = NEW.funcname AND successor.uniqkey = NEW.uniqkey)
  THEN RAISE EXCEPTION 'garivini is draining this database'; END IF; RETURN NEW; END $$;
DROP TRIGGER IF EXISTS garivini_draining ON job;
CREATE TRIGGER garivini_draining BEFORE INSERT ON job EXECUTE FUNCTION garivini_draining()

-- name: allow_inserts () -> none
-- Ends the drain: programs can insert jobs again.
DROP TRIGGER IF EXISTS garivini_draining ON job

-- name: hold (jobid, attempt, run_after, seconds) -> rows
-- Leases a waiting job for its move, if nothing has changed since it was read.
UPDATE job
   SET attempt = attempt + 1, state = 1, since = floor(extract(epoch FROM clock_timestamp()))::bigint,
       (run_after, lease_end) =
       (SELECT lease.ends, lease.ends FROM (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint + :seconds::bigint AS ends) AS lease)
 WHERE jobid = :jobid::bigint AND attempt = :attempt::bigint AND run_after = :run_after::bigint
   AND {effective_state} = 0
RETURNING jobid

-- name: park (funcname, uniqkey, coalesce, arg, flag, priority, failcount, crashes, created, attempt, runs, partition, headers) -> rows
-- Inserts the moved row of a job, with its attempts. The row cannot be claimed until the move is finished.
INSERT INTO job (funcname, uniqkey, "coalesce", arg, flag, priority, failcount, crashes, created, attempt, runs, partition, headers, state, run_after)
VALUES (:funcname, :uniqkey, :coalesce, :arg, :flag, :priority, :failcount, :crashes, :created, :attempt, :runs, :partition, :headers, 4, 2147483647)
RETURNING jobid

-- name: leave (jobid, attempt, state) -> rows
-- Deletes one of the two rows of a moved job, if the row is still held for the move.
DELETE FROM job
 WHERE jobid = :jobid::bigint AND attempt = :attempt::bigint
   AND (state = :state::smallint OR :state::smallint = 4 AND run_after = 2147483647)
RETURNING jobid

-- name: let_go (jobid, run_after) -> none
-- Sets a moved row to waiting, with the due time that its job had.
UPDATE job SET state = 0, run_after = :run_after::bigint WHERE jobid = :jobid::bigint AND state = 4

-- name: moves () -> rows
-- Moved rows that do not wait yet, with the note of their origin.
SELECT jobid, message FROM failure WHERE kind = 'moved' AND attempt = 0

-- name: forget_move (jobid) -> none
-- Deletes the note of a moved row's origin.
DELETE FROM failure WHERE jobid = :jobid::bigint AND attempt = 0 AND kind = 'moved'

-- name: copy_failure (jobid, attempt, failed_at, kind, error, message, trace, worker) -> none
-- Copies a failure record of a moved job.
INSERT INTO failure (jobid, attempt, failed_at, kind, error, message, trace, worker)
VALUES (:jobid::bigint, :attempt::bigint, :failed_at::bigint, :kind, :error, :message, :trace, :worker)

-- name: schedules () -> rows
-- All schedules, with the time now and the time at which each was last declared.
SELECT name, funcname, arg, cron, every, zone, flag, priority, missed, missed_window, overlap, paused, next_tick, queued,
       last_tick, last_jobid, jobs, skipped, declared, override,
       (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint), seen
  FROM schedule ORDER BY name

-- name: has_schedule (name) -> rows
-- Whether there is a schedule of this name.
SELECT 1 FROM schedule WHERE name = :name::text

-- name: due_schedules (age) -> rows
-- The schedules with a tick that is due or waits for the end of a job. A schedule that was last declared `age` seconds
-- ago is retired. There are few schedules, so all are read.
SELECT name FROM schedule
 WHERE paused = 0
   AND (declared IS NULL OR (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint) - seen < :age::integer)
   AND (next_tick IS NULL OR queued IS NOT NULL
        OR next_tick <= (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint))

-- name: until_tick (age) -> one
-- The seconds until the first tick that is not due yet.
SELECT min(next_tick) - (extract(epoch FROM clock_timestamp())::float8) FROM schedule
 WHERE paused = 0
   AND (declared IS NULL OR (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint) - seen < :age::integer)
   AND next_tick > (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint)

-- name: take_schedule (name) -> rows
-- A schedule as `schedules` returns it, locked by the transaction. No row: another scheduler has locked it, or it does
-- not exist.
SELECT name, funcname, arg, cron, every, zone, flag, priority, missed, missed_window, overlap, paused, next_tick, queued,
       last_tick, last_jobid, jobs, skipped, declared, override,
       (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint), seen
  FROM schedule WHERE name = :name::text
   FOR UPDATE SKIP LOCKED

-- name: lock_schedule (name) -> rows
-- As `take_schedule`, for a change of the schedule's values, which waits for the lock.
SELECT name, funcname, arg, cron, every, zone, flag, priority, missed, missed_window, overlap, paused, next_tick, queued,
       last_tick, last_jobid, jobs, skipped, declared, override,
       (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint), seen
  FROM schedule WHERE name = :name::text
   FOR UPDATE

-- name: move_schedule (name, tick, next_tick, queued, last_tick, last_jobid, jobs, skipped) -> count
-- Moves a schedule on from a tick, if no other scheduler has.
UPDATE schedule
   SET next_tick = :next_tick::bigint, queued = :queued::bigint,
       last_tick = coalesce(:last_tick::bigint, last_tick), last_jobid = coalesce(:last_jobid::bigint, last_jobid),
       jobs = jobs + :jobs::bigint, skipped = skipped + :skipped::bigint
 WHERE name = :name::text AND next_tick IS NOT DISTINCT FROM :tick::bigint

-- name: write_schedule (name, funcname, arg, cron, every, zone, flag, priority, missed, missed_window, overlap, next_tick, declared, override) -> none
-- Creates a schedule, or writes its values. The counts and the last job of the schedule stay.
INSERT INTO schedule (name, funcname, arg, cron, every, zone, flag, priority, missed, missed_window, overlap,
  next_tick, declared, override)
VALUES (:name::text, :funcname::text, :arg::bytea, :cron::text, :every::integer, :zone::text, :flag::text,
        :priority::smallint, :missed::text, :missed_window::integer, :overlap::text,
        :next_tick::bigint, :declared::text, :override::text)
ON CONFLICT (name) DO UPDATE SET
       funcname = excluded.funcname, arg = excluded.arg, cron = excluded.cron, every = excluded.every,
       zone = excluded.zone, flag = excluded.flag, priority = excluded.priority, missed = excluded.missed,
       missed_window = excluded.missed_window, overlap = excluded.overlap,
       next_tick = excluded.next_tick, declared = excluded.declared, override = excluded.override

-- name: pause_schedule (name, paused, next_tick) -> none
-- Pauses or resumes a schedule.
UPDATE schedule SET paused = :paused::smallint, next_tick = :next_tick::bigint WHERE name = :name::text

-- name: see_schedules (names, age) -> none
-- Records that a process declares the given schedules, unless that was recorded within the last `age` seconds.
UPDATE schedule SET seen = (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint)
 WHERE name = ANY (:@names::text[]) AND (seen IS NULL OR (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint) - seen > :age::integer)

-- name: copy_schedule (name, funcname, arg, cron, every, zone, flag, priority, missed, missed_window, overlap, paused, next_tick, queued, last_tick, jobs, skipped, declared, override) -> none
-- Creates a schedule that another database has, unless an earlier drain has created it. The last job of the schedule is
-- in the other database.
INSERT INTO schedule (name, funcname, arg, cron, every, zone, flag, priority, missed, missed_window, overlap, paused,
  next_tick, queued, last_tick, jobs, skipped, declared, override)
VALUES (:name::text, :funcname::text, :arg::bytea, :cron::text, :every::integer, :zone::text, :flag::text,
        :priority::smallint, :missed::text, :missed_window::integer, :overlap::text, :paused::smallint,
        :next_tick::bigint, :queued::bigint, :last_tick::bigint, :jobs::bigint, :skipped::bigint,
        :declared::text, :override::text)
ON CONFLICT (name) DO NOTHING

-- name: remove_schedule (name) -> none
-- Deletes a schedule. Its jobs stay.
DELETE FROM schedule WHERE name = :name::text

-- name: key_rules () -> rows
-- The functions with rules for unique keys.
SELECT funcname, unique_scope, unique_window, on_duplicate, max_delay FROM function
 WHERE unique_scope IS NOT NULL OR unique_window IS NOT NULL OR on_duplicate IS NOT NULL

-- name: keyed_row (funcname, uniqkey) -> rows
-- The job that has a key, locked by the transaction, with the time now, rounded down and rounded up.
SELECT jobid, attempt, {effective_state}, run_after, created, (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint), (SELECT ceil(extract(epoch FROM clock_timestamp()))::bigint)
  FROM job WHERE funcname = :funcname::text AND uniqkey = :uniqkey::text FOR UPDATE

-- name: replace_job (jobid, arg, coalesce, partition, headers, priority, run_after, expires) -> none
-- Gives other values to a job that was never handed out and that this transaction has locked.
UPDATE job SET arg = :arg::bytea, "coalesce" = :coalesce::text, priority = :priority::smallint, run_after = :run_after::bigint,
       partition = :partition::text, headers = :headers::text, expires = :expires::integer
 WHERE jobid = :jobid::bigint

-- name: free_key (jobid) -> none
-- Takes the key from a dead job, so that another job can have it.
UPDATE job SET uniqkey = NULL, has_successor = NULL WHERE jobid = :jobid::bigint

-- name: set_expires (jobids, expires) -> none
-- Sets the number of seconds after their due time within which new jobs must have been handed out.
UPDATE job SET expires = :expires::integer WHERE jobid = ANY (:@jobids::bigint[])

-- name: expiries (jobids) -> rows
-- The jobs among these that have a time limit of their own for being handed out.
SELECT jobid, expires FROM job WHERE jobid = ANY (:@jobids::bigint[]) AND expires IS NOT NULL

-- name: note_successor (jobid) -> none
-- Notes that a job has got its first successor.
UPDATE job SET has_successor = 1 WHERE jobid = :jobid::bigint

-- name: successor (jobid) -> rows
-- When a successor is due, and when it was first inserted. The transaction has locked the row of the job.
SELECT due, created FROM successor WHERE jobid = :jobid::bigint

-- name: put_successor (jobid, funcname, uniqkey, coalesce, partition, headers, arg, flag, priority, due, created, expires) -> none
-- Stores the successor of a job that this transaction has locked, or gives other values to it.
INSERT INTO successor (jobid, funcname, uniqkey, "coalesce", partition, headers, arg, flag, priority, due, created, expires)
VALUES (:jobid::bigint, :funcname::text, :uniqkey::text, :coalesce::text, :partition::text, :headers::text, :arg::bytea, :flag::text,
        :priority::smallint, :due::bigint, :created::bigint, :expires::integer)
ON CONFLICT (jobid) DO UPDATE
   SET "coalesce" = excluded."coalesce", partition = excluded.partition, headers = excluded.headers, arg = excluded.arg, flag = excluded.flag,
       priority = excluded.priority, due = excluded.due, expires = excluded.expires

-- name: promote (jobid) -> none
-- Turns a successor into a job, unless a newer job has its key. The transaction has ended the job before it.
INSERT INTO job (funcname, uniqkey, "coalesce", partition, headers, arg, flag, priority, run_after, created, expires)
SELECT funcname, uniqkey, "coalesce", partition, headers, arg, flag, priority, due, created, expires FROM successor
 WHERE jobid = :jobid::bigint
ON CONFLICT (funcname, uniqkey) WHERE uniqkey IS NOT NULL DO NOTHING;
DELETE FROM successor WHERE jobid = :jobid::bigint

-- name: lock_successor (jobid) -> rows
-- Locks a successor, unless another transaction has locked it.
SELECT jobid FROM successor WHERE jobid = :jobid::bigint FOR UPDATE SKIP LOCKED

-- name: successors_left (limit) -> rows
-- Successors of jobs that another program has deleted or parked. There are few successors, so all may be read.
SELECT jobid FROM successor
 WHERE NOT EXISTS (SELECT 1 FROM job WHERE job.jobid = successor.jobid AND {effective_state} <> 4)
 LIMIT :limit::bigint

-- name: any_successor () -> rows
-- Whether there is a successor.
SELECT jobid FROM successor LIMIT 1

-- name: forget_successors (funcname, uniqkey) -> none
-- Deletes successors of a key that has just got a newer job.
DELETE FROM successor WHERE funcname = :funcname::text AND uniqkey = :uniqkey::text

-- name: recent_key (funcname, uniqkey) -> rows
-- Locks a key with a window, also one that is not taken; returns its last job and whether the window is still open.
INSERT INTO recent_key (funcname, uniqkey, jobid, ends) VALUES (:funcname::text, :uniqkey::text, 0, (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint))
ON CONFLICT (funcname, uniqkey) DO NOTHING;
SELECT jobid, ends > (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint) FROM recent_key WHERE funcname = :funcname::text AND uniqkey = :uniqkey::text FOR UPDATE

-- name: note_key (funcname, uniqkey, jobid, ends) -> none
-- Stores the last job of a key, and the end of the window that has begun with the insert of that job.
UPDATE recent_key SET jobid = :jobid::bigint, ends = :ends::bigint WHERE funcname = :funcname::text AND uniqkey = :uniqkey::text

-- name: any_old_key () -> rows
-- Whether there is a key that `forget_keys` would delete.
SELECT jobid FROM recent_key WHERE ends < (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint) - 60 LIMIT 1

-- name: forget_keys (limit) -> count
-- Deletes keys whose window ended more than a minute ago. Until then an insert may have locked one.
DELETE FROM recent_key WHERE (funcname, uniqkey) IN (
  SELECT funcname, uniqkey FROM recent_key WHERE ends < (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint) - 60 ORDER BY ends LIMIT :limit::bigint FOR UPDATE SKIP LOCKED)

-- name: late (funcname, priority, expires, limit) -> rows
-- The first jobs of a lane that have been due for too long, with their attempts and the seconds since they were due,
-- locked by the transaction.
SELECT jobid, attempt, (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint) - run_after FROM job
 WHERE funcname = :funcname::text AND state = 0 AND priority = :priority::smallint
   AND run_after < (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint) - :expires::bigint AND run_after <> 2147483647
 ORDER BY run_after LIMIT :limit::bigint FOR UPDATE SKIP LOCKED

-- name: put_out (target, id, funcname, uniqkey, coalesce, partition, headers, arg, flag, priority, delay, expires, rule) -> none
-- Stores a follow-up that belongs to another database, in the transaction that completes its job.
INSERT INTO outbox (target, id, funcname, uniqkey, "coalesce", partition, headers, arg, flag, priority, run_after, expires, rule)
VALUES (:target::bigint, :id::text, :funcname::text, :uniqkey::text, :coalesce::text, :partition::text, :headers::text, :arg::bytea, :flag::text,
        :priority::smallint, floor(extract(epoch FROM clock_timestamp()))::bigint + :delay::bigint, :expires::bigint, :rule::text)

-- name: next_target (after) -> rows
-- The next database to which follow-ups are to be moved, by its id.
SELECT target FROM outbox WHERE target > :after::bigint ORDER BY target LIMIT 1

-- name: outbox_sizes (target, id, limit) -> rows
-- The next follow-ups for a database, by their ids, and the bytes of their arguments.
SELECT id, octet_length(arg) FROM outbox WHERE target = :target::bigint AND id > :id::text ORDER BY id LIMIT :limit::bigint

-- name: outbox (target, ids) -> rows
-- Follow-ups, each with the seconds until it is due.
SELECT id, funcname, uniqkey, "coalesce", partition, headers, arg, flag, priority, greatest(run_after - floor(extract(epoch FROM clock_timestamp()))::bigint, 0),
       expires, rule
  FROM outbox WHERE target = :target::bigint AND id = ANY (:@ids::text[])

-- name: leave_outbox (target, ids) -> none
-- Deletes follow-ups that have arrived.
DELETE FROM outbox WHERE target = :target::bigint AND id = ANY (:@ids::text[])

-- name: retarget (target, ids, home) -> none
-- Changes the database of follow-ups, because the former one is being drained.
UPDATE outbox SET target = :home::bigint WHERE target = :target::bigint AND id = ANY (:@ids::text[])

-- name: arrive (id, mover) -> none
-- Notes that a follow-up arrives, unless that was noted before, in the transaction that inserts the follow-up.
INSERT INTO arrived (id, mover, arrived_at) VALUES (:id::text, :mover::text, floor(extract(epoch FROM clock_timestamp()))::bigint)
ON CONFLICT (id) DO NOTHING

-- name: arrivals (ids, mover) -> rows
-- The follow-ups among these that arrive in this transaction. `mover` is the unique name of the transaction.
SELECT id FROM arrived WHERE id = ANY (:@ids::text[]) AND mover = :mover::text

-- name: forget_arrivals (age, limit) -> count
-- Forgets follow-ups that have arrived long ago: their rows in the outbox were deleted then.
DELETE FROM arrived
 WHERE id IN (SELECT id FROM arrived WHERE arrived_at < (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint) - :age::bigint LIMIT :limit::bigint)

-- name: put_batch (batchid, name, on_complete, on_success) -> none
-- Creates a batch without members.
INSERT INTO batch (batchid, name, members, pending, failed, sealed, created, completed_at, on_complete, on_success)
VALUES (:batchid::text, :name::text, 0, 0, 0, 0, (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint), 0, :on_complete::text, :on_success::text)

-- name: batch (batchid) -> rows
-- A batch.
SELECT batchid, name, members, pending, failed, sealed, created, completed_at, on_complete, on_success FROM batch WHERE batchid = :batchid::text

-- name: lock_batch (batchid) -> rows
-- A batch, locked by the transaction.
SELECT batchid, name, members, pending, failed, sealed, created, completed_at, on_complete, on_success FROM batch WHERE batchid = :batchid::text FOR UPDATE

-- name: batches (batchid, limit) -> rows
-- The next batches in the order of their ids, which begin with the time at which they were created.
SELECT batchid, name, members, pending, failed, sealed, created, completed_at, on_complete, on_success FROM batch WHERE batchid > :batchid::text ORDER BY batchid LIMIT :limit::bigint

-- name: open_batches (batchid, limit) -> rows
-- The next batches that have not ended.
SELECT batchid FROM batch WHERE completed_at = 0 AND batchid > :batchid::text ORDER BY batchid LIMIT :limit::bigint

-- name: put_members (batchid, jobid) -> none
-- Makes jobs members of a batch.
INSERT INTO batch_member (jobid, batchid)
SELECT * FROM unnest(:@jobid::bigint[], :@batchid::text[])

-- name: members_of (jobids) -> rows
-- The members among these jobs, and their batches.
SELECT jobid, batchid FROM batch_member WHERE jobid = ANY (:@jobids::bigint[])

-- name: member_page (batchid, jobid, limit) -> rows
-- The next members of a batch that have not ended, in the order of their ids.
SELECT jobid FROM batch_member WHERE batchid = :batchid::text AND jobid > :jobid::bigint ORDER BY jobid LIMIT :limit::bigint

-- name: leave_batches (jobids) -> count
-- Removes members that have ended.
DELETE FROM batch_member WHERE jobid = ANY (:@jobids::bigint[])

-- name: count_in (batchid, count) -> count
-- Counts new members of a batch that has not ended.
UPDATE batch SET members = members + :count::bigint, pending = pending + :count::bigint WHERE batchid = :batchid::text AND completed_at = 0

-- name: count_out (batchid, count, failed) -> none
-- Counts members that have ended; `failed` of them are dead.
UPDATE batch SET pending = pending - :count::bigint, failed = failed + :failed::bigint WHERE batchid = :batchid::text

-- name: seal (batchid) -> count
-- Lets a batch end with its last member.
UPDATE batch SET sealed = 1 WHERE batchid = :batchid::text AND completed_at = 0

-- name: end_batch (batchid) -> none
-- Notes that a batch has ended.
UPDATE batch SET completed_at = (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint) WHERE batchid = :batchid::text

-- name: forget_batches (age, limit) -> count
-- Deletes batches that ended long ago.
DELETE FROM batch
 WHERE batchid IN (SELECT batchid FROM batch WHERE completed_at > 0 AND completed_at < (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint) - :age::bigint ORDER BY completed_at LIMIT :limit::bigint)
