-- Statements for MariaDB 10.6 and newer and MySQL 8. `store/sql_files.py` says how this file is read. What
-- stands under a name with @mariadb is taken there instead of the one that works on both.
--
-- The clock is the database's: UNIX_TIMESTAMP() is the unix time, whole seconds, the same throughout a
-- statement. A lease ends at now + lease + 1 because whole seconds round down. 2147483647 is "never"; it is
-- left out of every claim, so that a row parked by the original's clients does not start in 2038. Later times
-- are times like any other. Unsigned columns are cast where a difference may be below zero. In an UPDATE a
-- column that has been assigned to is read with its new value. FORCE INDEX (PRIMARY) prevents the scan of a small table
-- for a list of ids, which would wait for rows that are not in the list.
--
-- A lease ends at `run_after`, and `lease_end` repeats it. Other programs put a leased row off by `run_after` alone: if
-- the two differ, nobody holds the row, and it waits until `run_after`. A time before `since` only ends the lease.
-- `lease_end` is 0 if the row was leased by a version without that column. A delay is counted from the next
-- whole second: it is never short.

-- name: clock () -> one
-- The unix time with its fraction. Beside it, for inserts, the step by which ids rise.
SELECT UNIX_TIMESTAMP() + MICROSECOND(NOW(6)) / 1e6, @@SESSION.auto_increment_increment

-- name: schema () -> rows
-- The revision that Alembic has recorded.
SELECT version_num FROM garivini_version

-- name: dbid () -> rows
-- The id that this database was given.
SELECT dbid FROM garivini_database

-- name: set_dbid (dbid) -> none
-- Given once, by the first who comes; those who come at the same time wait for it. The table takes one row.
SELECT GET_LOCK(CONCAT('garivini id ', LEFT(SHA2(DATABASE(), 256), 32)), 5);
INSERT INTO garivini_database (dbid)
SELECT :dbid FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM garivini_database AS given);
SELECT RELEASE_LOCK(CONCAT('garivini id ', LEFT(SHA2(DATABASE(), 256), 32)))

-- name: ids_left () -> one
-- How many ids are left for new jobs: the server has an error of its own for that.
SELECT 1

-- name: folds () -> one
-- Whether the collation treats names or keys that differ in their bytes as equal, as in tables of the original.
SELECT EXISTS (
  SELECT 1 FROM information_schema.columns
   WHERE table_schema = DATABASE() AND table_name = 'job' AND column_name IN ('funcname', 'uniqkey')
     AND RIGHT(collation_name, 9) <> 'nopad_bin' AND collation_name <> 'utf8mb4_0900_bin')

-- name: insert (funcname, coalesce, arg, flag, priority, due, now, taken, since, lease_end) -> id
-- Jobs without a unique key. The number of rows is known before the first is stored, so their ids are a row of
-- equal steps; told is the first. The time was read just before: numbers take a third less of the server's work
-- than expressions, which it reads and evaluates for each row. Taken (1): with the first attempt's lease, which
-- ends when it is due; not taken (0): waiting until then.
INSERT INTO job (funcname, `coalesce`, arg, flag, priority, run_after, created, attempt, state, since, lease_end)
VALUES
  (:funcname, :coalesce, :arg, :flag, :priority, :due, :now, :taken, :taken, :since, :lease_end) -- each

-- name: insert_returning (funcname, coalesce, arg, flag, priority, delay, taken) -> rows
-- Few jobs without a unique key. Ids rise in the order of the rows, so sorted ids match them.
INSERT INTO job (funcname, `coalesce`, arg, flag, priority, run_after, created, attempt, state, since, lease_end)
VALUES
  (:funcname, :coalesce, :arg, :flag, :priority, UNIX_TIMESTAMP() + :delay + IF(:taken OR :delay = 0, 0, MICROSECOND(NOW(6)) > 0), UNIX_TIMESTAMP(), :taken, attempt, attempt * created, attempt * run_after) -- each
RETURNING jobid, created

-- name: insert_keyed (funcname, uniqkey, coalesce, arg, flag, priority, due, now, taken, since, lease_end) -> id
-- Jobs with a unique key: all of them, or none and an error where one has a live job of its key.
INSERT INTO job (funcname, uniqkey, `coalesce`, arg, flag, priority, run_after, created, attempt, state, since, lease_end)
VALUES
  (:funcname, :uniqkey, :coalesce, :arg, :flag, :priority, :due, :now, :taken, :taken, :since, :lease_end) -- each

-- name: insert_keyed_returning (funcname, uniqkey, coalesce, arg, flag, priority, delay, taken) -> rows
-- Few jobs with a unique key: all of them, or none and an error where one has a live job of its key.
INSERT INTO job (funcname, uniqkey, `coalesce`, arg, flag, priority, run_after, created, attempt, state, since, lease_end)
VALUES
  (:funcname, :uniqkey, :coalesce, :arg, :flag, :priority, UNIX_TIMESTAMP() + :delay + IF(:taken OR :delay = 0, 0, MICROSECOND(NOW(6)) > 0), UNIX_TIMESTAMP(), :taken, attempt, attempt * created, attempt * run_after) -- each
RETURNING jobid, created

-- name: live (funcname, uniqkey) -> one
-- The live job of a key. Locked, because a caller's transaction may be one that does not see what others have
-- committed since it began.
SELECT jobid FROM job WHERE funcname = :funcname AND uniqkey = :uniqkey LOCK IN SHARE MODE

-- name: states (jobids) -> rows
-- The states of these jobs, read without a lock: a row locked by another transaction must not delay an insert whose key
-- exists. A caller's older snapshot may not include a job.
SELECT jobid, CASE WHEN state IN (1, 2, 3) AND lease_end NOT IN (0, run_after) AND run_after >= since THEN 0 ELSE state END,
       run_after
  FROM job WHERE jobid IN (:*jobids)

-- name: lanes (funcname, state, priority, run_after) -> rows
-- For each place in the lane index the head of what follows it: its lane, when it is due, and the time now with
-- its fraction. One dive each, whatever the backlog and without statistics. `MySQL.lanes` walks along them.
(SELECT funcname, state, priority, run_after, UNIX_TIMESTAMP() + MICROSECOND(NOW(6)) / 1e6 FROM job FORCE INDEX (job_lane) WHERE funcname > :funcname OR (funcname = :funcname AND state > :state) OR (funcname = :funcname AND state = :state AND priority > :priority) OR (funcname = :funcname AND state = :state AND priority = :priority AND run_after > :run_after) ORDER BY funcname, state, priority, run_after LIMIT 1) UNION ALL -- each

-- name: due (funcname, priority, limit, small) -> rows
-- The head of one lane: what a claim may take, with the arguments, but for those of more than so many bytes
-- (NULL), and the time now. What another claim has locked is left to it.
SELECT jobid, run_after, IF(LENGTH(arg) > :small, NULL, COALESCE(arg, '')), uniqkey, `coalesce`, flag, failcount,
       attempt, UNIX_TIMESTAMP()
  FROM job FORCE INDEX (job_lane)
 WHERE funcname = :funcname AND state = 0 AND priority = :priority
   AND run_after <= UNIX_TIMESTAMP() AND run_after <> 2147483647
 ORDER BY run_after LIMIT :limit
   FOR UPDATE SKIP LOCKED

-- name: named (funcname, limit) -> rows
-- Jobs whose function has this name, given as bytes, to be parked: it is no text.
SELECT jobid FROM job FORCE INDEX (job_lane) WHERE funcname = :funcname AND state < 4 LIMIT :limit

-- name: sizes (jobids) -> rows
-- Bytes of these arguments.
SELECT jobid, LENGTH(arg) FROM job WHERE jobid IN (:*jobids)

-- name: args (jobids) -> rows
-- These arguments.
SELECT jobid, arg FROM job WHERE jobid IN (:*jobids)

-- name: claim (jobids, now, lease_end) -> none
-- The claim's write, in the transaction that read them as due, with the time of then.
UPDATE job SET attempt = attempt + 1, state = 1, since = :now, run_after = :lease_end, lease_end = :lease_end
 WHERE jobid IN (:*jobids)

-- name: expired (funcname, state, priority, limit) -> rows
-- Leases that ran out, of one lane, and whether another program has put the row off. Rows locked by another transaction
-- are skipped.
SELECT jobid, attempt, flag, crashes, since, CAST(UNIX_TIMESTAMP() AS SIGNED) - CAST(since AS SIGNED),
       lease_end NOT IN (0, run_after) AND run_after >= since, funcname
  FROM job FORCE INDEX (job_lane)
 WHERE funcname = :funcname AND state = :state AND priority = :priority
   AND run_after <= UNIX_TIMESTAMP() AND run_after <> 2147483647
 ORDER BY run_after LIMIT :limit
   FOR UPDATE SKIP LOCKED

-- name: requeue (jobids) -> none
-- Makes rows that were put off and are due now waiting, so that they are claimed like any other.
UPDATE job SET state = 0, lease_end = 0
 WHERE jobid IN (:*jobids) AND state IN (1, 2, 3) AND lease_end NOT IN (0, run_after) AND run_after >= since AND run_after <= UNIX_TIMESTAMP()

-- name: extend (jobid, attempt, state, new_state, seconds, queued) -> none
-- A lease that ran out goes on. Only where nothing has changed since it was read; queued: a server has it
-- waiting, so the time without a start counts from now.
UPDATE job
   SET since = CASE WHEN :queued THEN UNIX_TIMESTAMP() ELSE since END, state = :new_state,
       run_after = UNIX_TIMESTAMP() + :seconds, lease_end = run_after
 WHERE jobid = :jobid AND attempt = :attempt AND state = :state
   AND run_after <= UNIX_TIMESTAMP() AND (lease_end IN (0, run_after) OR run_after < since)

-- name: reclaim (jobid, attempt, state, lease, crashed) -> rows
-- A lease that ran out for good: the claim's write with the next attempt.
SELECT jobid FROM job
 WHERE jobid = :jobid AND attempt = :attempt AND state = :state
   AND run_after <= UNIX_TIMESTAMP() AND (lease_end IN (0, run_after) OR run_after < since)
   FOR UPDATE;
UPDATE job
   SET attempt = attempt + 1, state = 1, since = UNIX_TIMESTAMP(), crashes = crashes + :crashed,
       run_after = UNIX_TIMESTAMP() + :lease + 1, lease_end = run_after
 WHERE jobid = :jobid;
SELECT jobid, funcname, arg, uniqkey, `coalesce`, run_after, flag, failcount, attempt, priority, state, since,
       crashes, created, runs
  FROM job WHERE jobid = :jobid

-- name: release (jobid, attempt, run_after) -> none
-- A claim that was not sent: waiting again at its old time.
UPDATE job SET state = 0, run_after = :run_after, lease_end = 0
 WHERE jobid = :jobid AND attempt = :attempt AND state = 1 AND (lease_end IN (0, run_after) OR run_after < since)

-- name: end_early (jobids, attempt, lease) -> none
-- The lease of what may have got lost on the way ends now, unless somebody has prolonged it meanwhile.
UPDATE job FORCE INDEX (PRIMARY) SET run_after = UNIX_TIMESTAMP(), lease_end = run_after
 WHERE jobid IN (:*jobids) AND attempt = :attempt AND state = 1
   AND run_after <= UNIX_TIMESTAMP() + :lease + 2 AND (lease_end IN (0, run_after) OR run_after < since)

-- name: renew (jobids, attempt, lease) -> none
-- Renews a lease. A job that ended, that another attempt holds or that another program has put off is not touched.
UPDATE job FORCE INDEX (PRIMARY) SET state = 2, run_after = UNIX_TIMESTAMP() + :lease + 1, lease_end = run_after
 WHERE jobid IN (:*jobids) AND attempt = :attempt AND state IN (1, 2, 3)
   AND (lease_end IN (0, run_after) OR run_after < since)

-- name: mine (jobids, attempt) -> rows
-- Which of these this attempt holds. Decides after a renewal: a count of changed rows means other things
-- on other databases.
SELECT jobid FROM job
 WHERE jobid IN (:*jobids) AND attempt = :attempt AND state IN (1, 2, 3) AND (lease_end IN (0, run_after) OR run_after < since)

-- name: present (jobids) -> rows
-- Which of these are there, locked by the transaction.
SELECT jobid FROM job FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids) FOR UPDATE

-- name: lockable (jobids) -> rows
-- Locks those of these rows that no other transaction has locked, and returns them.
SELECT jobid FROM job FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids) FOR UPDATE SKIP LOCKED

-- name: known (jobids) -> rows
-- Those of these rows that exist, locked or not.
SELECT jobid FROM job WHERE jobid IN (:*jobids)

-- name: complete (jobids) -> count
-- Success. By id alone: finished work is finished, whoever did it.
DELETE FROM job WHERE jobid IN (:*jobids)

-- name: complete_one (jobid) -> count
-- The same for one that this transaction has locked. No form of DELETE prevents a scan for a list in a small table.
DELETE FROM job WHERE jobid = :jobid

-- name: complete_range (first, last) -> count
-- The same for ids without a gap between them: a fifth less of the server's work than to look for each.
DELETE FROM job WHERE jobid BETWEEN :first AND :last

-- name: any_records (first, last) -> rows
-- Whether any job from the first id to the last has a record of failures, or reports. Mostly none has, which costs
-- less to see than to look for each id. Asked after they are deleted: what was written while that waited for a job is
-- there by now, and no more can come.
SELECT EXISTS (SELECT 1 FROM failure FORCE INDEX (PRIMARY) WHERE jobid BETWEEN :first AND :last)
    OR EXISTS (SELECT 1 FROM report FORCE INDEX (PRIMARY) WHERE jobid BETWEEN :first AND :last)

-- name: with_records (jobids) -> rows
-- Which of these have a record of failures, or reports. Asked after they are deleted, as above.
SELECT jobid FROM failure FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids)
UNION SELECT jobid FROM report FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids)

-- name: forget_failures (jobids) -> none
-- The record of a job that is gone.
DELETE failure FROM failure FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids)

-- name: forget_reports (jobids) -> none
-- What a job said that is gone. By the key even where few rows are known of: a scan would wait for rows that others
-- are adding. Only this form of DELETE can say so.
DELETE report FROM report FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids)

-- name: held (jobids, attempt) -> rows
-- Which of these this attempt holds, locked by its transaction.
SELECT jobid FROM job FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids) AND attempt = :attempt AND state IN (1, 2, 3)
   FOR UPDATE

-- name: set_status (jobid, attempt, body) -> none
-- How far an attempt has come: one row, written over.
INSERT INTO report (jobid, attempt, number, kind, reported_at, body)
VALUES (:jobid, :attempt, 0, 'status', UNIX_TIMESTAMP(), :body)
ON DUPLICATE KEY UPDATE reported_at = VALUES(reported_at), body = VALUES(body)

-- name: add_line (jobid, attempt, kind, body, limit) -> none
-- What an attempt said, after what it said before; nothing where there are so many lines already.
INSERT INTO report (jobid, attempt, number, kind, reported_at, body)
SELECT :jobid, :attempt, last + 1, :kind, UNIX_TIMESTAMP(), :body
  FROM (SELECT COALESCE(MAX(number), 0) AS last FROM report
         WHERE jobid = :jobid AND attempt = :attempt) AS said
 WHERE last < :limit

-- name: reports (jobid) -> rows
-- What a job said, oldest attempt first.
SELECT attempt, kind, reported_at, body FROM report WHERE jobid = :jobid ORDER BY attempt, number

-- name: keep (jobid, attempt, worker, result, retention) -> none
-- A finished job that is kept, in the transaction that deletes its row. An id is given once.
INSERT INTO finished (jobid, funcname, uniqkey, attempt, failcount, created, finished_at, expires, worker, result)
SELECT jobid, funcname, uniqkey, :attempt, failcount, created, UNIX_TIMESTAMP(),
       UNIX_TIMESTAMP() + :retention, :worker, :result
  FROM job WHERE jobid = :jobid
ON DUPLICATE KEY UPDATE jobid = finished.jobid

-- name: finished (jobid) -> rows
-- A finished job that is kept.
SELECT jobid, funcname, uniqkey, attempt, failcount, created, finished_at, expires, worker, result
  FROM finished WHERE jobid = :jobid

-- name: outlived (limit) -> rows
-- Finished jobs that have been kept for long enough.
SELECT jobid FROM finished WHERE expires <= UNIX_TIMESTAMP()
 ORDER BY expires LIMIT :limit

-- name: forget_finished (jobids) -> none
-- Finished jobs that are kept no more.
DELETE finished FROM finished FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids)

-- name: standing (jobids) -> rows
-- The row before a failure or a new time, locked by the transaction; last, whether its attempt holds it.
SELECT jobid, attempt, state, failcount, crashes,
       (SELECT max_failures FROM `function` WHERE `function`.funcname = job.funcname),
       state IN (1, 2, 3) AND (lease_end IN (0, run_after) OR run_after < since)
         AND run_after <> 2147483647
  FROM job FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids)
   FOR UPDATE

-- name: put_back (jobid, attempt, state, failcount, delay) -> none
-- The end of an attempt without success: waiting for so many seconds.
UPDATE job SET state = 0, failcount = :failcount, lease_end = 0,
       run_after = UNIX_TIMESTAMP() + :delay + IF(:delay = 0, 0, MICROSECOND(NOW(6)) > 0)
 WHERE jobid = :jobid AND attempt = :attempt AND state = :state

-- name: put_at (jobid, attempt, state, failcount, run_after) -> none
-- The same, at a unix time; also with "never", where the new state is dead.
UPDATE job SET state = CASE WHEN :run_after = 2147483647 THEN 4 ELSE 0 END, failcount = :failcount,
       run_after = :run_after, lease_end = 0
 WHERE jobid = :jobid AND attempt = :attempt AND state = :state

-- name: record_failure (jobid, attempt, kind, error, message, trace, worker) -> none
-- An attempt ends once, and a repeated report does not reach this. A report without an attempt, or the death of a
-- process, may be recorded twice for one attempt: the newest is kept.
INSERT INTO failure (jobid, attempt, failed_at, kind, error, message, trace, worker)
VALUES (:jobid, :attempt, UNIX_TIMESTAMP(), :kind, :error, :message, :trace, :worker)
ON DUPLICATE KEY UPDATE failed_at = VALUES(failed_at), error = VALUES(error), message = VALUES(message),
       trace = VALUES(trace), worker = VALUES(worker)

-- name: record_keys (jobid) -> rows
-- The record of a job without its texts, except the number in the row that counts omitted ones.
SELECT attempt, kind, CASE WHEN kind = 'omitted' THEN message END FROM failure WHERE jobid = :jobid ORDER BY attempt, kind

-- name: omit_failures (jobid, after, before) -> count
-- Deletes the rows between two attempts from the record of a job.
DELETE FROM failure WHERE jobid = :jobid AND attempt > :after AND attempt < :before

-- name: count_run (jobid, attempt) -> rows
-- Counts a start, which has read `job.run`.
UPDATE job FORCE INDEX (PRIMARY) SET runs = runs + 1
 WHERE jobid = :jobid AND attempt = :attempt AND state IN (1, 2, 3)
   AND (lease_end IN (0, run_after) OR run_after < since);
SELECT runs FROM job WHERE jobid = :jobid AND attempt = :attempt AND state IN (1, 2, 3)
   AND (lease_end IN (0, run_after) OR run_after < since)

-- name: recorded (jobid, attempt) -> rows
-- Whether this attempt has reported its end already; the death of a process is not the attempt's.
SELECT kind FROM failure WHERE jobid = :jobid AND attempt = :attempt AND kind NOT IN ('crashed', 'omitted')

-- name: failures (jobid) -> rows
-- The record of a job, oldest first.
SELECT attempt, failed_at, kind, error, message, trace, worker FROM failure WHERE jobid = :jobid ORDER BY attempt, kind

-- name: get (jobid) -> rows
-- One job with its effective state: one that another program has put off waits, or is dead if that is "never".
SELECT jobid, funcname, arg, uniqkey, `coalesce`, run_after, flag, failcount, attempt, priority,
       CASE WHEN run_after = 2147483647 THEN 4 WHEN state IN (1, 2, 3) AND lease_end NOT IN (0, run_after) AND run_after >= since THEN 0 ELSE state END,
       since, crashes, created, runs
  FROM job WHERE jobid = :jobid

-- name: jobs (funcname, state, failed, after, limit) -> rows
-- Jobs by id as above, optionally of one function, of one state, or only those that have failed.
SELECT jobid, funcname, arg, uniqkey, `coalesce`, run_after, flag, failcount, attempt, priority,
       CASE WHEN run_after = 2147483647 THEN 4 WHEN state IN (1, 2, 3) AND lease_end NOT IN (0, run_after) AND run_after >= since THEN 0 ELSE state END,
       since, crashes, created, runs
  FROM job FORCE INDEX (PRIMARY)
 WHERE jobid > :after AND (:funcname IS NULL OR funcname = :funcname)
   AND (:state IS NULL OR :state =
        CASE WHEN run_after = 2147483647 THEN 4 WHEN state IN (1, 2, 3) AND lease_end NOT IN (0, run_after) AND run_after >= since THEN 0 ELSE state END)
   AND (:failed = 0 OR failcount > 0 OR crashes > 0 OR state = 4 OR run_after = 2147483647)
 ORDER BY jobid LIMIT :limit

-- name: retry (jobid) -> none
-- A person wants it to run now, with its failures forgiven. What is under way is left alone.
UPDATE job SET state = 0, failcount = 0, crashes = 0, run_after = UNIX_TIMESTAMP(), lease_end = 0
 WHERE jobid = :jobid AND (state IN (0, 4) OR run_after = 2147483647 OR lease_end NOT IN (0, run_after) AND run_after >= since)

-- name: counts () -> rows
-- Jobs of each function and state, and how many of them never run. Reads the whole lane index: for operators, not for a
-- pass.
SELECT funcname, state, COUNT(*), MIN(run_after), CAST(SUM(run_after = 2147483647) AS SIGNED)
  FROM job FORCE INDEX (job_lane)
 GROUP BY funcname, state ORDER BY funcname, state

-- name: waiting () -> rows
-- The numbers of waiting jobs that are due, delayed, and backed off after a failure. Reads the lane index, and the rows
-- that are not due.
SELECT (SELECT count(*) FROM job WHERE state = 0 AND run_after <= t.now AND run_after <> 2147483647),
       (SELECT count(*) FROM job WHERE state = 0 AND run_after > t.now AND run_after <> 2147483647 AND failcount = 0),
       (SELECT count(*) FROM job WHERE state = 0 AND run_after > t.now AND run_after <> 2147483647 AND failcount > 0)
  FROM (SELECT UNIX_TIMESTAMP() AS now) AS t

-- name: count_put_off (funcnames) -> rows
-- The number of leased jobs of these functions that another program has put off.
SELECT funcname, state, COUNT(*), MIN(run_after) FROM job FORCE INDEX (job_lane)
 WHERE funcname IN (:*funcnames) AND state IN (1, 2, 3) AND lease_end NOT IN (0, run_after) AND run_after >= since
   AND run_after <> 2147483647
 GROUP BY funcname, state

-- name: facts () -> rows
-- Settings of the server that decide whether a job can be lost, how the table compares names, whether the original
-- made it (its index shows that), and what envelope its functions have.
SELECT 'version', VERSION()
UNION ALL SELECT 'innodb_flush_log_at_trx_commit', @@innodb_flush_log_at_trx_commit
UNION ALL SELECT 'innodb_doublewrite', @@innodb_doublewrite
UNION ALL SELECT 'log_bin', @@log_bin
UNION ALL SELECT 'sync_binlog', @@sync_binlog
UNION ALL SELECT 'read_only', @@read_only
UNION ALL SELECT 'max_allowed_packet', @@max_allowed_packet
UNION ALL SELECT 'innodb_buffer_pool_size', @@innodb_buffer_pool_size
UNION ALL SELECT 'general_log', @@general_log
UNION ALL SELECT 'job_collation', collation_name FROM information_schema.columns
           WHERE table_schema = DATABASE() AND table_name = 'job' AND column_name = 'funcname'
UNION ALL SELECT 'original_table', COUNT(*) FROM information_schema.statistics
           WHERE table_schema = DATABASE() AND table_name = 'job' AND column_name = 'run_after' AND seq_in_index = 1
UNION ALL SELECT 'default_envelope', COALESCE(MAX(envelope), 'not set') FROM `function` WHERE funcname = ''

-- name: functions () -> rows
-- What is set for each function.
SELECT funcname, lease, deadline, renews, envelope, max_failures, retention FROM `function` ORDER BY funcname

-- name: set_function (funcname, lease, deadline, renews, envelope, max_failures, retention) -> none
-- NULL leaves a setting as it is.
INSERT INTO `function` (funcname, lease, deadline, renews, envelope, max_failures, retention)
VALUES (:funcname, :lease, :deadline, :renews, :envelope, :max_failures, :retention)
ON DUPLICATE KEY UPDATE
       lease = COALESCE(VALUES(lease), lease), deadline = COALESCE(VALUES(deadline), deadline),
       renews = COALESCE(VALUES(renews), renews), envelope = COALESCE(VALUES(envelope), envelope),
       max_failures = COALESCE(VALUES(max_failures), max_failures),
       retention = COALESCE(VALUES(retention), retention)

-- name: register_functions (funcname, lease, deadline, renews, envelope, max_failures, retention) -> none
-- The same for many functions by a starting worker: `renews` stays as it is if it has been set.
INSERT INTO `function` (funcname, lease, deadline, renews, envelope, max_failures, retention)
VALUES
  (:funcname, :lease, :deadline, :renews, :envelope, :max_failures, :retention) -- each
ON DUPLICATE KEY UPDATE
       lease = COALESCE(VALUES(lease), lease), deadline = COALESCE(VALUES(deadline), deadline),
       renews = COALESCE(renews, VALUES(renews)), envelope = COALESCE(VALUES(envelope), envelope),
       max_failures = COALESCE(VALUES(max_failures), max_failures),
       retention = COALESCE(VALUES(retention), retention)

-- name: adoptable (jobids) -> rows
-- Jobs whose copies came without an attempt and that nobody runs, locked by the transaction.
SELECT jobid FROM job FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids) AND state IN (0, 1) AND run_after <> 2147483647
   FOR UPDATE

-- name: adopt (jobids, lease) -> rows
-- Starts such copies: the original's QueueRunner leases by run_after alone. Their arguments are not read.
UPDATE job FORCE INDEX (PRIMARY)
   SET attempt = attempt + 1, state = 2, since = UNIX_TIMESTAMP(), run_after = UNIX_TIMESTAMP() + :lease + 1,
       lease_end = run_after
 WHERE jobid IN (:*jobids);
SELECT jobid, funcname, NULL, uniqkey, `coalesce`, run_after, flag, failcount, attempt, priority, state, since,
       crashes, created, runs
  FROM job WHERE jobid IN (:*jobids)

-- name: unset_function (funcname) -> none
-- Back to the defaults.
DELETE FROM `function` WHERE funcname = :funcname

-- name: dispatched (funcname, priority, age, since, after, limit) -> rows
-- Jobs handed to Gearman and not yet heard of, of one lane, whose lease is going on; the youngest left out,
-- for their submit may be on its way. Read in pages by the end of the lease.
SELECT jobid, attempt, run_after FROM job FORCE INDEX (job_lane)
 WHERE funcname = :funcname AND state = 1 AND priority = :priority
   AND run_after > UNIX_TIMESTAMP() AND run_after >= :after
   AND since <= UNIX_TIMESTAMP() - :age AND since > :since AND lease_end IN (0, run_after)
 ORDER BY run_after LIMIT :limit

-- name: leased (funcname, lease, limit) -> one
-- The number of jobs of a function in Gearman that no worker has started, up to a limit. A row that ends later than any
-- of its leases was put off by another program; the index alone shows that.
SELECT COUNT(*) FROM (
  SELECT 1 FROM job FORCE INDEX (job_lane)
   WHERE funcname = :funcname AND state = 1 AND run_after <= UNIX_TIMESTAMP() + :lease + 2 LIMIT :limit) AS handed_out

-- name: give_back (jobids, attempt) -> none
-- What a worker holds and has not started: waiting again, at once.
UPDATE job FORCE INDEX (PRIMARY) SET state = 0, run_after = UNIX_TIMESTAMP(), lease_end = 0
 WHERE jobid IN (:*jobids) AND attempt = :attempt AND state IN (1, 2, 3)
   AND (lease_end IN (0, run_after) OR run_after < since)

-- name: mark_leased (jobids, attempt) -> none
-- What a worker had asked about and will not start, its server being lost: leased and not running, so that the
-- lease may end early. Should that server be there, whoever has the copy now renews it.
UPDATE job FORCE INDEX (PRIMARY) SET state = 1 WHERE jobid IN (:*jobids) AND attempt = :attempt AND state = 2
   AND (lease_end IN (0, run_after) OR run_after < since)

-- name: crash (jobid, attempt) -> none
-- The process that ran it died. Its lease stays: the server has given the copy to another worker already.
UPDATE job SET crashes = crashes + 1 WHERE jobid = :jobid AND attempt = :attempt AND state IN (1, 2, 3)

-- name: refuse_inserts () -> none
-- From now on no program puts jobs in, whether it knows of the drain or not. MySQL has no way to make a trigger
-- only where there is none.
DROP TRIGGER IF EXISTS garivini_draining;
CREATE TRIGGER garivini_draining BEFORE INSERT ON job FOR EACH ROW
SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'garivini is draining this database'

-- name: allow_inserts () -> none
-- The drain is over.
DROP TRIGGER IF EXISTS garivini_draining

-- name: hold (jobid, attempt, run_after, seconds) -> rows
-- A waiting job is leased for its move, if nothing has changed since it was read.
SELECT jobid FROM job
 WHERE jobid = :jobid AND attempt = :attempt AND run_after = :run_after
   AND (state = 0 OR state IN (1, 2, 3) AND lease_end NOT IN (0, run_after) AND run_after >= since)
   FOR UPDATE;
UPDATE job
   SET attempt = attempt + 1, state = 1, since = UNIX_TIMESTAMP(), run_after = UNIX_TIMESTAMP() + :seconds,
       lease_end = run_after
 WHERE jobid = :jobid

-- name: park (funcname, uniqkey, coalesce, arg, flag, priority, failcount, crashes, created, attempt, runs) -> rows
-- The copy of a job that is being moved here, with its attempts. It cannot be claimed until it is released.
INSERT INTO job (funcname, uniqkey, `coalesce`, arg, flag, priority, failcount, crashes, created, attempt, runs, state, run_after)
VALUES (:funcname, :uniqkey, :coalesce, :arg, :flag, :priority, :failcount, :crashes, :created, :attempt, :runs, 4, 2147483647);
SELECT LAST_INSERT_ID()

-- name: leave (jobid, attempt, state) -> rows
-- One copy of a moved job goes, if it is still held for that.
SELECT jobid FROM job
 WHERE jobid = :jobid AND attempt = :attempt AND (state = :state OR :state = 4 AND run_after = 2147483647)
   FOR UPDATE;
DELETE FROM job WHERE jobid = :jobid

-- name: let_go (jobid, run_after) -> none
-- A copy waits from now on as its job did.
UPDATE job SET state = 0, run_after = :run_after WHERE jobid = :jobid AND state = 4

-- name: moves () -> rows
-- Copies that have been parked and not let go, with what is noted of their origin.
SELECT jobid, message FROM failure WHERE kind = 'moved' AND attempt = 0

-- name: forget_move (jobid) -> none
-- The note of a copy's origin.
DELETE FROM failure WHERE jobid = :jobid AND attempt = 0 AND kind = 'moved'

-- name: copy_failure (jobid, attempt, failed_at, kind, error, message, trace, worker) -> none
-- A line of a moved job's record.
INSERT INTO failure (jobid, attempt, failed_at, kind, error, message, trace, worker)
VALUES (:jobid, :attempt, :failed_at, :kind, :error, :message, :trace, :worker)
