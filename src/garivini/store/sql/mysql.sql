-- Statements for MariaDB 10.6 and newer and MySQL 8. `store/sql_files.py` describes the form of this file. MariaDB
-- inserts few rows with the statements that end in `_returning`; MySQL does not have RETURNING.
--
-- The clock is the database's: UNIX_TIMESTAMP() is the unix time in whole seconds, the same throughout a statement. A
-- lease ends at now + lease + 1 because times are whole seconds and round down. 2147483647 is "never". Claims exclude
-- it, so that a row parked by the original's clients does not start in 2038. Later times are ordinary times. Unsigned
-- columns are cast if a difference may be below zero. In an UPDATE a column that has been assigned is read with its new
-- value. FORCE INDEX (PRIMARY) prevents the scan of a small table for a list of ids, which would wait for rows that are
-- not in the list.
--
-- A lease ends at `run_after`, and `lease_end` repeats it. `store/effective_state.py` describes what it means if they
-- differ, and has the conditions in braces. A delay counts from the next whole second, so it is never too short.

-- name: clock () -> one
-- The unix time with its fraction, and for inserts the step between two ids.
SELECT UNIX_TIMESTAMP() + MICROSECOND(NOW(6)) / 1e6, @@SESSION.auto_increment_increment

-- name: schema () -> rows
-- The revision that Alembic has recorded.
SELECT version_num FROM garivini_version

-- name: dbid () -> rows
-- The id of this database.
SELECT dbid FROM garivini_database

-- name: set_dbid (dbid) -> none
-- Stores the id of this database once, by the first process that uses it; others wait for it. The table holds one row.
SELECT GET_LOCK(CONCAT('garivini id ', LEFT(SHA2(DATABASE(), 256), 32)), 5);
INSERT INTO garivini_database (dbid)
SELECT :dbid FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM garivini_database AS given);
SELECT RELEASE_LOCK(CONCAT('garivini id ', LEFT(SHA2(DATABASE(), 256), 32)))

-- name: ids_left () -> one
-- The number of ids that are left for new jobs. It is not needed here, because the server reports exhausted ids itself.
SELECT 1

-- name: folds () -> one
-- Whether the collation treats names or keys as equal that differ in their bytes, as in tables of the original.
SELECT EXISTS (
  SELECT 1 FROM information_schema.columns
   WHERE table_schema = DATABASE() AND table_name = 'job' AND column_name IN ('funcname', 'uniqkey')
     AND RIGHT(collation_name, 9) <> 'nopad_bin' AND collation_name <> 'utf8mb4_0900_bin')

-- name: insert (funcname, coalesce, arg, flag, priority, due, now, leased, since, lease_end) -> id
-- Inserts jobs without a unique key. The server knows the number of rows before it stores the first one, so their ids
-- have equal steps; the result is the first. The caller has just read the time, because numbers take a third less of
-- the server's work than expressions, which it evaluates for each row. If `leased` is 1, a row is leased for its first
-- attempt until `due`; if it is 0, the row waits until then.
INSERT INTO job (funcname, `coalesce`, arg, flag, priority, run_after, created, attempt, state, since, lease_end)
VALUES
  (:funcname, :coalesce, :arg, :flag, :priority, :due, :now, :leased, :leased, :since, :lease_end) -- each

-- name: insert_at (funcname, coalesce, arg, flag, priority, due, now, leased, since, lease_end) -> id
-- Inserts one job without a unique key if the time is `now`. Otherwise the statement fails, because a NULL does not fit
-- its column. So the time need not be read just before: an estimate that is right is enough.
INSERT INTO job (funcname, `coalesce`, arg, flag, priority, run_after, created, attempt, state, since, lease_end)
VALUES
  (:funcname, :coalesce, :arg, :flag, :priority, :due, IF(UNIX_TIMESTAMP() = :now, :now, NULL), :leased, :leased, :since, :lease_end) -- each

-- name: insert_returning (funcname, coalesce, arg, flag, priority, delay, leased) -> rows
-- Inserts few jobs without a unique key. Ids rise in the order of the rows, so sorted ids match them.
INSERT INTO job (funcname, `coalesce`, arg, flag, priority, run_after, created, attempt, state, since, lease_end)
VALUES
  (:funcname, :coalesce, :arg, :flag, :priority, UNIX_TIMESTAMP() + :delay + IF(:leased OR :delay = 0, 0, MICROSECOND(NOW(6)) > 0), UNIX_TIMESTAMP(), :leased, attempt, attempt * created, attempt * run_after) -- each
RETURNING jobid, created

-- name: insert_keyed (funcname, uniqkey, coalesce, arg, flag, priority, due, now, leased, since, lease_end) -> id
-- Inserts jobs with a unique key: all of them, or none if the key of one has an existing job, which is an error.
INSERT INTO job (funcname, uniqkey, `coalesce`, arg, flag, priority, run_after, created, attempt, state, since, lease_end)
VALUES
  (:funcname, :uniqkey, :coalesce, :arg, :flag, :priority, :due, :now, :leased, :leased, :since, :lease_end) -- each

-- name: insert_keyed_at (funcname, uniqkey, coalesce, arg, flag, priority, due, now, leased, since, lease_end) -> id
-- As `insert_at`, for one job with a unique key, or an error if the key has an existing job.
INSERT INTO job (funcname, uniqkey, `coalesce`, arg, flag, priority, run_after, created, attempt, state, since, lease_end)
VALUES
  (:funcname, :uniqkey, :coalesce, :arg, :flag, :priority, :due, IF(UNIX_TIMESTAMP() = :now, :now, NULL), :leased, :leased, :since, :lease_end) -- each

-- name: insert_keyed_returning (funcname, uniqkey, coalesce, arg, flag, priority, delay, leased) -> rows
-- Inserts few jobs with a unique key: all of them, or none if the key of one has an existing job, which is an error.
INSERT INTO job (funcname, uniqkey, `coalesce`, arg, flag, priority, run_after, created, attempt, state, since, lease_end)
VALUES
  (:funcname, :uniqkey, :coalesce, :arg, :flag, :priority, UNIX_TIMESTAMP() + :delay + IF(:leased OR :delay = 0, 0, MICROSECOND(NOW(6)) > 0), UNIX_TIMESTAMP(), :leased, attempt, attempt * created, attempt * run_after) -- each
RETURNING jobid, created

-- name: insert_wide (funcname, coalesce, partition, headers, arg, flag, priority, due, now, leased, since, lease_end) -> id
-- As `insert`, for jobs with a partition or headers. This is a separate statement, so that other jobs need not have the columns.
INSERT INTO job (funcname, `coalesce`, `partition`, headers, arg, flag, priority, run_after, created, attempt, state, since, lease_end)
VALUES
  (:funcname, :coalesce, :partition, :headers, :arg, :flag, :priority, :due, :now, :leased, :leased, :since, :lease_end) -- each

-- name: insert_keyed_wide (funcname, uniqkey, coalesce, partition, headers, arg, flag, priority, due, now, leased, since, lease_end) -> id
-- As `insert_keyed`, for jobs with a partition or headers.
INSERT INTO job (funcname, uniqkey, `coalesce`, `partition`, headers, arg, flag, priority, run_after, created, attempt, state, since, lease_end)
VALUES
  (:funcname, :uniqkey, :coalesce, :partition, :headers, :arg, :flag, :priority, :due, :now, :leased, :leased, :since, :lease_end) -- each

-- name: live (funcname, uniqkey) -> one
-- The job that has a unique key. The row is locked, because a plain read in a caller's transaction may not see rows
-- that were committed since that began.
SELECT jobid FROM job WHERE funcname = :funcname AND uniqkey = :uniqkey LOCK IN SHARE MODE

-- name: states (jobids) -> rows
-- The states of the given jobs, read without a lock: a row locked by another transaction must not delay an insert whose
-- key exists. A caller's older snapshot may not include a job.
SELECT jobid, {effective_state}
  FROM job WHERE jobid IN (:*jobids)

-- name: lanes (funcname, state, priority, run_after) -> rows
-- For each given place in the lane index, the next entry: its lane, its due time, and the time now with its fraction.
-- This takes one index dive per place, whatever the backlog and without statistics. `MySQL.lanes` walks from place to
-- place.
(SELECT funcname, state, priority, run_after, UNIX_TIMESTAMP() + MICROSECOND(NOW(6)) / 1e6 FROM job FORCE INDEX (job_lane) WHERE funcname > :funcname OR (funcname = :funcname AND state > :state) OR (funcname = :funcname AND state = :state AND priority > :priority) OR (funcname = :funcname AND state = :state AND priority = :priority AND run_after > :run_after) ORDER BY funcname, state, priority, run_after LIMIT 1) UNION ALL -- each

-- name: due (funcname, priority, limit, small) -> rows
-- The first jobs of a lane that a claim may take, with their arguments (NULL for an argument of more than `small`
-- bytes), the time now, and the time of each insert. Rows that another claim has locked are skipped.
SELECT jobid, run_after, IF(LENGTH(arg) > :small, NULL, COALESCE(arg, '')), uniqkey, `coalesce`, flag, failcount,
       attempt, UNIX_TIMESTAMP(), created, expires, `partition`, headers
  FROM job FORCE INDEX (job_lane)
 WHERE funcname = :funcname AND state = 0 AND priority = :priority
   AND run_after <= UNIX_TIMESTAMP() AND run_after <> 2147483647
 ORDER BY run_after LIMIT :limit
   FOR UPDATE SKIP LOCKED

-- name: named (funcname, limit) -> rows
-- Jobs to park, because their function's name is not text. The name is given as bytes.
SELECT jobid FROM job FORCE INDEX (job_lane) WHERE funcname = :funcname AND state < 4 LIMIT :limit

-- name: sizes (jobids) -> rows
-- The sizes in bytes of the arguments of the given jobs.
SELECT jobid, LENGTH(arg) FROM job WHERE jobid IN (:*jobids)

-- name: args (jobids) -> rows
-- The arguments of the given jobs.
SELECT jobid, arg FROM job WHERE jobid IN (:*jobids)

-- name: identities (jobids) -> rows
-- The values that distinguish a job from another one that got the same id: see `store/incarnations.py`.
SELECT jobid, attempt, created, funcname, uniqkey FROM job WHERE jobid IN (:*jobids)

-- name: claim (jobids, now, lease_end) -> none
-- Writes a claim, in the transaction that read the rows as due, with the time of that read.
UPDATE job SET attempt = attempt + 1, state = 1, since = :now, run_after = :lease_end, lease_end = :lease_end
 WHERE jobid IN (:*jobids)

-- name: expired (funcname, state, priority, limit) -> rows
-- Expired leases of a lane, and for each whether another program has put the row off. Rows locked by another
-- transaction are skipped.
SELECT jobid, attempt, flag, crashes, since, CAST(UNIX_TIMESTAMP() AS SIGNED) - CAST(since AS SIGNED),
       {put_off}, funcname, bundle
  FROM job FORCE INDEX (job_lane)
 WHERE funcname = :funcname AND state = :state AND priority = :priority
   AND run_after <= UNIX_TIMESTAMP() AND run_after <> 2147483647
 ORDER BY run_after LIMIT :limit
   FOR UPDATE SKIP LOCKED

-- name: requeue (jobids) -> none
-- Sets rows that were put off and are due now to waiting, so that they are claimed like any other row.
UPDATE job SET state = 0, lease_end = 0
 WHERE jobid IN (:*jobids) AND state IN (1, 2, 3) AND {put_off} AND run_after <= UNIX_TIMESTAMP()

-- name: extend (jobid, attempt, state, new_state, seconds, queued) -> none
-- Extends an expired lease, if nothing has changed since it was read. If `queued` is 1, a Gearman server has the job
-- queued, so the time without a start counts from now.
UPDATE job
   SET since = CASE WHEN :queued THEN UNIX_TIMESTAMP() ELSE since END, state = :new_state,
       run_after = UNIX_TIMESTAMP() + :seconds, lease_end = run_after
 WHERE jobid = :jobid AND attempt = :attempt AND state = :state
   AND run_after <= UNIX_TIMESTAMP() AND {held}

-- name: reclaim (jobid, attempt, state, lease, crashed) -> rows
-- Writes the claim of the next attempt, after a lease has expired for good.
SELECT jobid FROM job
 WHERE jobid = :jobid AND attempt = :attempt AND state = :state
   AND run_after <= UNIX_TIMESTAMP() AND {held}
   FOR UPDATE;
UPDATE job
   SET attempt = attempt + 1, state = 1, since = UNIX_TIMESTAMP(), crashes = crashes + :crashed,
       run_after = UNIX_TIMESTAMP() + :lease + 1, lease_end = run_after
 WHERE jobid = :jobid;
SELECT jobid, funcname, arg, uniqkey, `coalesce`, run_after, flag, failcount, attempt, priority, state, since,
       crashes, created, runs, `partition`, headers
  FROM job WHERE jobid = :jobid

-- name: release (jobid, attempt, run_after) -> none
-- Sets a claimed job that was not submitted back to waiting, due when it was before.
UPDATE job SET state = 0, run_after = :run_after, lease_end = 0
 WHERE jobid = :jobid AND attempt = :attempt AND state = 1 AND {held}

-- name: end_early (jobids, attempt, lease) -> none
-- Ends the lease of a job that may not have reached a server, unless the lease has been renewed meanwhile.
UPDATE job FORCE INDEX (PRIMARY) SET run_after = UNIX_TIMESTAMP(), lease_end = run_after
 WHERE jobid IN (:*jobids) AND attempt = :attempt AND state = 1
   AND run_after <= UNIX_TIMESTAMP() + :lease + 2 AND {held}

-- name: renew (jobids, attempt, lease) -> none
-- Renews a lease. A job that ended, that another attempt holds or that another program has put off is not touched.
UPDATE job FORCE INDEX (PRIMARY) SET state = 2, run_after = UNIX_TIMESTAMP() + :lease + 1, lease_end = run_after
 WHERE jobid IN (:*jobids) AND attempt = :attempt AND state IN (1, 2, 3) AND {held}

-- name: mine (jobids, attempt) -> rows
-- The given jobs that this attempt holds. This decides after a renewal: a count of changed rows differs in meaning
-- between databases.
SELECT jobid FROM job
 WHERE jobid IN (:*jobids) AND attempt = :attempt AND state IN (1, 2, 3) AND {held}

-- name: present (jobids) -> rows
-- The given jobs that exist, locked by the transaction.
SELECT jobid FROM job FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids) FOR UPDATE

-- name: lockable (jobids) -> rows
-- Locks the given rows that no other transaction has locked, and returns them.
SELECT jobid FROM job FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids) FOR UPDATE SKIP LOCKED

-- name: known (jobids) -> rows
-- The given rows that exist, whether or not another transaction has locked them.
SELECT jobid FROM job WHERE jobid IN (:*jobids)

-- name: complete (jobids) -> count
-- Deletes jobs that succeeded, by id alone: finished work is finished, whichever attempt did it.
DELETE FROM job WHERE jobid IN (:*jobids)

-- name: complete_one (jobid) -> count
-- As `complete`, for one row that this transaction has locked. With a list of ids, the server may scan a small table,
-- whatever the form of the DELETE.
DELETE FROM job WHERE jobid = :jobid

-- name: complete_range (first, last) -> count
-- As `complete`, for consecutive ids. This is a fifth less of the server's work than a lookup per id.
DELETE FROM job WHERE jobid BETWEEN :first AND :last

-- name: any_records (first, last) -> rows
-- Whether any job from the first id to the last has records or a successor, or is a member of a batch. Usually none has, and one range scan costs
-- less than a lookup per id. This statement runs after the jobs are deleted: records that were written while the DELETE
-- waited for a row exist by now, and no more can be added. On MySQL the statement reads a column outside the key. With
-- the key's columns alone, MySQL would read the whole key if its statistics know of few rows, whatever the hint.
SELECT EXISTS (SELECT 1 FROM failure FORCE INDEX (PRIMARY) WHERE jobid BETWEEN :first AND :last /*!80017 AND failed_at IS NOT NULL */)
    OR EXISTS (SELECT 1 FROM report FORCE INDEX (PRIMARY) WHERE jobid BETWEEN :first AND :last /*!80017 AND reported_at IS NOT NULL */)
    OR EXISTS (SELECT 1 FROM successor FORCE INDEX (PRIMARY) WHERE jobid BETWEEN :first AND :last /*!80017 AND due IS NOT NULL */)
    OR EXISTS (SELECT 1 FROM batch_member FORCE INDEX (PRIMARY) WHERE jobid BETWEEN :first AND :last /*!80017 AND batchid IS NOT NULL */)

-- name: with_records (jobids) -> rows
-- The given jobs that have records (rows of `failure` or `report`), each with 0, those that have a successor, each
-- with 1, and those that are members of a batch, each with 2. This statement runs after the jobs are deleted, as `any_records` does.
SELECT jobid, 0 FROM failure FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids)
UNION SELECT jobid, 0 FROM report FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids) /*!80017 AND reported_at IS NOT NULL */
UNION SELECT jobid, 1 FROM successor FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids) /*!80017 AND due IS NOT NULL */
UNION SELECT jobid, 2 FROM batch_member FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids) /*!80017 AND batchid IS NOT NULL */

-- name: records (jobids) -> rows
-- The job of each record of the given jobs, once per record, whether or not another transaction has locked the record.
SELECT jobid FROM failure FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids)
UNION ALL SELECT jobid FROM report FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids) /*!80017 AND reported_at IS NOT NULL */

-- name: lockable_records (jobids) -> rows
-- Locks the records of the given jobs that no other transaction has locked, and returns the job of each.
(SELECT jobid FROM failure FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids) FOR UPDATE SKIP LOCKED)
UNION ALL (SELECT jobid FROM report FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids) /*!80017 AND reported_at IS NOT NULL */ FOR UPDATE SKIP LOCKED)

-- name: forget_failures (jobids) -> none
-- Deletes the failure records of jobs that are deleted. On MySQL this is a join, because MySQL scans a small table for
-- a list of ids, whatever the hint, and a scan waits for the rows of other jobs that other transactions have locked. On
-- MariaDB the list takes up to a third less time.
DELETE failure FROM
  /*M! failure FORCE INDEX (PRIMARY) WHERE jobid IN ( */ /*!80017 JSON_TABLE(JSON_ARRAY( */ :*jobids)
  /*!80017 , '$[*]' COLUMNS (jobid BIGINT UNSIGNED PATH '$')) AS gone
  STRAIGHT_JOIN failure FORCE INDEX (PRIMARY) ON failure.jobid = gone.jobid */

-- name: forget_reports (jobids) -> none
-- Deletes the reports of jobs that are deleted.
DELETE report FROM
  /*M! report FORCE INDEX (PRIMARY) WHERE jobid IN ( */ /*!80017 JSON_TABLE(JSON_ARRAY( */ :*jobids)
  /*!80017 , '$[*]' COLUMNS (jobid BIGINT UNSIGNED PATH '$')) AS gone
  STRAIGHT_JOIN report FORCE INDEX (PRIMARY) ON report.jobid = gone.jobid */

-- name: held (jobids, attempt) -> rows
-- The given jobs that this attempt holds, locked by the transaction.
SELECT jobid FROM job FORCE INDEX (PRIMARY)
 WHERE jobid IN (:*jobids) AND attempt = :attempt AND state IN (1, 2, 3) AND {held}
   FOR UPDATE

-- name: set_status (jobid, attempt, body) -> none
-- The progress of an attempt: one row, which is overwritten.
INSERT INTO report (jobid, attempt, number, kind, reported_at, body)
VALUES (:jobid, :attempt, 0, 'status', UNIX_TIMESTAMP(), :body)
ON DUPLICATE KEY UPDATE reported_at = VALUES(reported_at), body = VALUES(body)

-- name: add_line (jobid, attempt, kind, body, limit) -> none
-- Adds a line to the report of an attempt, unless it has `limit` lines already.
INSERT INTO report (jobid, attempt, number, kind, reported_at, body)
SELECT :jobid, :attempt, last + 1, :kind, UNIX_TIMESTAMP(), :body
  FROM (SELECT COALESCE(MAX(number), 0) AS last FROM report
         WHERE jobid = :jobid AND attempt = :attempt) AS said
 WHERE last < :limit

-- name: reports (jobid) -> rows
-- The reports of a job, oldest attempt first.
SELECT attempt, kind, reported_at, body FROM report WHERE jobid = :jobid ORDER BY attempt, number

-- name: retention (jobid) -> rows
-- How long the function of a job keeps it after success.
SELECT (SELECT retention FROM `function` WHERE `function`.funcname = job.funcname) FROM job WHERE jobid = :jobid

-- name: keep (jobid, attempt, worker, result, retention, ran) -> none
-- Keeps a job that succeeded, in the transaction that deletes its row. An id is used once.
INSERT INTO finished (jobid, funcname, uniqkey, attempt, failcount, created, finished_at, expires, worker, result,
       seconds)
SELECT jobid, funcname, uniqkey, :attempt, failcount, created, UNIX_TIMESTAMP(),
       UNIX_TIMESTAMP() + :retention, :worker, :result, :ran
  FROM job WHERE jobid = :jobid
ON DUPLICATE KEY UPDATE jobid = finished.jobid

-- name: finished (jobid) -> rows
-- A kept job.
SELECT jobid, funcname, uniqkey, attempt, failcount, created, finished_at, expires, worker, result, seconds
  FROM finished WHERE jobid = :jobid

-- name: kept_jobs (after, limit) -> rows
-- Kept jobs in the order of their ids, with the columns of `finished`, but without their results.
SELECT jobid, funcname, uniqkey, attempt, failcount, created, finished_at, expires, worker, NULL, seconds
  FROM finished FORCE INDEX (PRIMARY) WHERE jobid > :after ORDER BY jobid LIMIT :limit

-- name: outlived (limit) -> rows
-- Kept jobs whose retention is over. On MySQL the statement reads a column outside the index, as in `any_records`.
SELECT jobid FROM finished FORCE INDEX (finished_expires) WHERE expires <= UNIX_TIMESTAMP() /*!80017 AND attempt IS NOT NULL */
 ORDER BY expires LIMIT :limit

-- name: forget_finished (jobids) -> none
-- Deletes kept jobs.
DELETE finished FROM
  /*M! finished FORCE INDEX (PRIMARY) WHERE jobid IN ( */ /*!80017 JSON_TABLE(JSON_ARRAY( */ :*jobids)
  /*!80017 , '$[*]' COLUMNS (jobid BIGINT UNSIGNED PATH '$')) AS gone
  STRAIGHT_JOIN finished FORCE INDEX (PRIMARY) ON finished.jobid = gone.jobid */

-- name: failed (after, limit) -> rows
-- The jobs of failure records after an id, each as often as it has records. On MySQL the statement reads a column
-- outside the key, as in `any_records`.
SELECT jobid FROM failure FORCE INDEX (PRIMARY) WHERE jobid > :after /*!80017 AND failed_at IS NOT NULL */
 ORDER BY jobid LIMIT :limit

-- name: dead (jobids) -> rows
-- The given jobs that are dead, and how many seconds ago each died, which is the age of its newest record. A job that
-- another program has parked by `run_after` alone is not among them. A job that a drain is moving counts as younger
-- than any.
SELECT jobid, funcname, CAST(UNIX_TIMESTAMP() AS SIGNED) - (
         SELECT CAST(MAX(IF(kind = 'moved', 2147483647, failed_at)) AS SIGNED) FROM failure FORCE INDEX (PRIMARY)
          WHERE failure.jobid = job.jobid)
  FROM job FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids) AND state = 4 AND run_after = 2147483647

-- name: standing (jobids) -> rows
-- The rows of jobs before their setbacks, locked by the transaction. The last columns are whether the job has a
-- successor, whether it is a member of a batch, and whether the attempt in the row holds the job.
SELECT jobid, attempt, state, failcount, crashes,
       (SELECT max_failures FROM `function` WHERE `function`.funcname = job.funcname),
       (SELECT retry FROM `function` WHERE `function`.funcname = job.funcname),
       has_successor, EXISTS (SELECT 1 FROM batch_member WHERE batch_member.jobid = job.jobid), {effective_state} IN (1, 2, 3)
  FROM job FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids)
   FOR UPDATE

-- name: put_back (jobid, attempt, state, failcount, delay) -> none
-- Ends an attempt without success: the job waits for this many seconds.
UPDATE job SET state = 0, failcount = :failcount, lease_end = 0,
       run_after = UNIX_TIMESTAMP() + :delay + IF(:delay = 0, 0, MICROSECOND(NOW(6)) > 0)
 WHERE jobid = :jobid AND attempt = :attempt AND state = :state

-- name: put_at (jobid, attempt, state, failcount, run_after) -> none
-- As `put_back`, but the job waits until a unix time. If that time is "never", the new state is dead.
UPDATE job SET state = CASE WHEN :run_after = 2147483647 THEN 4 ELSE 0 END, failcount = :failcount,
       run_after = :run_after, lease_end = 0
 WHERE jobid = :jobid AND attempt = :attempt AND state = :state

-- name: record_failure (jobid, attempt, kind, error, message, trace, worker) -> none
-- Records a setback. An attempt ends once, and a repeated report does not reach this statement. A report without an
-- attempt, or the death of a process, may be recorded twice for one attempt: the newest record is kept.
INSERT INTO failure (jobid, attempt, failed_at, kind, error, message, trace, worker)
VALUES (:jobid, :attempt, UNIX_TIMESTAMP(), :kind, :error, :message, :trace, :worker)
ON DUPLICATE KEY UPDATE failed_at = VALUES(failed_at), error = VALUES(error), message = VALUES(message),
       trace = VALUES(trace), worker = VALUES(worker)

-- name: record_keys (jobid) -> rows
-- The failure records of a job without their texts, except the number in the row that counts omitted records.
SELECT attempt, kind, CASE WHEN kind = 'omitted' THEN message END FROM failure WHERE jobid = :jobid ORDER BY attempt, kind

-- name: omit_failures (jobid, after, before) -> count
-- Deletes the failure records of a job between two attempts.
DELETE failure FROM failure FORCE INDEX (PRIMARY) WHERE jobid = :jobid AND attempt > :after AND attempt < :before

-- name: count_run (jobid, attempt) -> rows
-- Counts a start whose function has read `job.run`.
UPDATE job FORCE INDEX (PRIMARY) SET runs = runs + 1
 WHERE jobid = :jobid AND attempt = :attempt AND state IN (1, 2, 3) AND {held};
SELECT runs FROM job WHERE jobid = :jobid AND attempt = :attempt AND state IN (1, 2, 3) AND {held}

-- name: recorded (jobid, attempt) -> rows
-- Whether this attempt has reported its end already. A record of the death of a process does not count as such a
-- report.
SELECT kind FROM failure FORCE INDEX (PRIMARY)
 WHERE jobid = :jobid AND attempt = :attempt AND kind NOT IN ('crashed', 'omitted')

-- name: failures (jobid) -> rows
-- The failure records of a job, oldest first.
SELECT attempt, failed_at, kind, error, message, trace, worker FROM failure FORCE INDEX (PRIMARY)
 WHERE jobid = :jobid ORDER BY attempt, kind

-- name: failure_texts (after, size, limit) -> rows
-- The failure records of jobs after an id, with the first characters of each message.
SELECT jobid, failed_at, kind, error, LEFT(message, :size) FROM failure FORCE INDEX (PRIMARY)
 WHERE jobid > :after ORDER BY jobid LIMIT :limit

-- name: funcnames (jobids) -> rows
-- The functions of the given jobs.
SELECT jobid, funcname FROM job FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids)

-- name: kept_funcnames (jobids) -> rows
-- The functions of the given kept jobs.
SELECT jobid, funcname FROM finished FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids)

-- name: get (jobid) -> rows
-- One job with its effective state: a job that another program has put off is waiting, or is dead if it was put off
-- until "never".
SELECT jobid, funcname, arg, uniqkey, `coalesce`, run_after, flag, failcount, attempt, priority,
       {effective_state},
       since, crashes, created, runs, `partition`, headers
  FROM job WHERE jobid = :jobid

-- name: newest () -> rows
-- The greatest id of a job.
SELECT jobid FROM job FORCE INDEX (PRIMARY) ORDER BY jobid DESC LIMIT 1

-- name: match (funcname, state, failed, uniqkey, partition, error, error_text, arg_text, created_from, created_before, due_from, due_before, after, until, limit) -> rows
-- The next jobs by id, each with its effective state if it matches and NULL if not. The conditions are not in the WHERE
-- clause, so the statement reads the next `limit` rows and no others, however many of them match. Texts are compared by
-- their bytes, whatever the collation. If the order were by the attempt alone, MySQL would read and sort all failures
-- of a job.
SELECT jobid,
       CASE WHEN (:funcname IS NULL OR CAST(CONVERT(funcname USING utf8mb4) AS BINARY) = CAST(CONVERT(:funcname USING utf8mb4) AS BINARY))
             AND (:state IS NULL OR {effective_state} = :state)
             AND (NOT :failed OR failcount > 0 OR crashes > 0 OR {effective_state} = 4)
             AND (:uniqkey IS NULL OR CAST(CONVERT(uniqkey USING utf8mb4) AS BINARY) = CAST(CONVERT(:uniqkey USING utf8mb4) AS BINARY))
             AND (:partition IS NULL OR `partition` = :partition)
             AND (:created_from IS NULL OR created > 0 AND created >= :created_from)
             AND (:created_before IS NULL OR created > 0 AND created < :created_before)
             AND (:due_from IS NULL OR run_after <> 2147483647 AND run_after >= :due_from)
             AND (:due_before IS NULL OR run_after <> 2147483647 AND run_after < :due_before)
             AND (:arg_text IS NULL OR LOCATE(:arg_text, arg) > 0)
             AND (:error IS NULL AND :error_text IS NULL OR (
                  SELECT MAX((:error IS NULL OR CAST(error AS BINARY) = CAST(CONVERT(:error USING utf8mb4) AS BINARY))
                         AND (:error_text IS NULL OR LOCATE(CAST(CONVERT(:error_text USING utf8mb4) AS BINARY), CAST(message AS BINARY)) > 0))
                    FROM failure FORCE INDEX (PRIMARY)
                   WHERE failure.jobid = job.jobid
                     AND failure.attempt = (SELECT latest.attempt FROM failure AS latest FORCE INDEX (PRIMARY)
                                             WHERE latest.jobid = job.jobid ORDER BY latest.jobid DESC, latest.attempt DESC LIMIT 1)))
            THEN {effective_state} END
  FROM job FORCE INDEX (PRIMARY) WHERE jobid > :after AND jobid <= :until ORDER BY jobid LIMIT :limit

-- name: jobs (jobids) -> rows
-- The given jobs in the order of their ids, each as `get` returns it.
SELECT jobid, funcname, arg, uniqkey, `coalesce`, run_after, flag, failcount, attempt, priority,
       {effective_state},
       since, crashes, created, runs, `partition`, headers
  FROM job FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids) ORDER BY jobid

-- name: lock_states (jobids) -> rows
-- Locks the given rows that no other transaction has locked, and returns them with their effective states and whether
-- each has a successor.
SELECT jobid, attempt, {effective_state}, has_successor FROM job FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids) FOR UPDATE SKIP LOCKED

-- name: record_ends (jobids, kind, message) -> none
-- Inserts the failure records of jobs that an operator ends together.
INSERT INTO failure (jobid, attempt, failed_at, kind, error, message, trace, worker)
SELECT jobid, attempt, UNIX_TIMESTAMP(), :kind, '', :message, '', '' FROM job FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids)
ON DUPLICATE KEY UPDATE failed_at = VALUES(failed_at), message = VALUES(message)

-- name: put_all_back (jobids, delay) -> none
-- Sets jobs that nobody holds to wait for this many seconds.
UPDATE job FORCE INDEX (PRIMARY) SET state = 0, lease_end = 0,
       run_after = UNIX_TIMESTAMP() + :delay + IF(:delay = 0, 0, MICROSECOND(NOW(6)) > 0)
 WHERE jobid IN (:*jobids)

-- name: put_all_at (jobids, run_after) -> none
-- As `put_all_back`, but the jobs wait until a unix time. If that time is "never", the new state is dead.
UPDATE job FORCE INDEX (PRIMARY) SET state = CASE WHEN :run_after = 2147483647 THEN 4 ELSE 0 END,
       run_after = :run_after, lease_end = 0
 WHERE jobid IN (:*jobids)

-- name: set_priority (jobids, priority) -> none
-- Moves jobs that nobody holds to the lane of another priority.
UPDATE job FORCE INDEX (PRIMARY) SET priority = :priority WHERE jobid IN (:*jobids)

-- name: retry (jobids) -> none
-- An operator makes jobs due now, with their failures forgiven. A leased or running job is not touched.
UPDATE job FORCE INDEX (PRIMARY) SET state = 0, failcount = 0, crashes = 0, run_after = UNIX_TIMESTAMP(), lease_end = 0
 WHERE jobid IN (:*jobids) AND {effective_state} IN (0, 4)

-- name: counts () -> rows
-- The number of jobs of each function and state, and how many of them never run. This reads the whole lane index, so it
-- is for operators, and not for a pass.
SELECT funcname, state, COUNT(*), MIN(run_after), CAST(SUM(run_after = 2147483647) AS SIGNED)
  FROM job FORCE INDEX (job_lane)
 GROUP BY funcname, state ORDER BY funcname, state

-- name: waiting () -> rows
-- The numbers of waiting jobs that are due, delayed, and backed off after a failure. The lane index is enough to count
-- the due ones. Delayed and backed-off jobs are distinguished by failcount, for which their rows are read.
SELECT (SELECT count(*) FROM job WHERE state = 0 AND run_after <= t.now AND run_after <> 2147483647),
       (SELECT count(*) FROM job WHERE state = 0 AND run_after > t.now AND run_after <> 2147483647 AND failcount = 0),
       (SELECT count(*) FROM job WHERE state = 0 AND run_after > t.now AND run_after <> 2147483647 AND failcount > 0)
  FROM (SELECT UNIX_TIMESTAMP() AS now) AS t

-- name: count_put_off (funcnames) -> rows
-- The number of leased jobs of the given functions that another program has put off.
SELECT funcname, state, COUNT(*), MIN(run_after) FROM job FORCE INDEX (job_lane)
 WHERE funcname IN (:*funcnames) AND state IN (1, 2, 3) AND {put_off}
 GROUP BY funcname, state

-- name: facts () -> rows
-- Settings of the server that decide whether a job can be lost, how the table compares names, whether the original made
-- it (its index shows that), the envelope of its functions, and how many functions have rules that the original does
-- not know.
SELECT 'version', VERSION()
UNION ALL SELECT 'innodb_flush_log_at_trx_commit', @@innodb_flush_log_at_trx_commit
UNION ALL SELECT 'innodb_doublewrite', @@innodb_doublewrite
UNION ALL SELECT 'log_bin', @@log_bin
UNION ALL SELECT 'sync_binlog', @@sync_binlog
UNION ALL SELECT 'read_only', @@read_only
UNION ALL SELECT 'max_allowed_packet', @@max_allowed_packet
UNION ALL SELECT 'innodb_buffer_pool_size', @@innodb_buffer_pool_size
UNION ALL SELECT 'general_log', @@general_log
UNION ALL SELECT 'max_connections', @@max_connections
UNION ALL SELECT 'job_engine', engine FROM information_schema.tables
           WHERE table_schema = DATABASE() AND table_name = 'job'
UNION ALL SELECT 'job_collation', collation_name FROM information_schema.columns
           WHERE table_schema = DATABASE() AND table_name = 'job' AND column_name = 'funcname'
UNION ALL SELECT 'original_table', COUNT(*) FROM information_schema.statistics
           WHERE table_schema = DATABASE() AND table_name = 'job' AND column_name = 'run_after' AND seq_in_index = 1
UNION ALL SELECT 'original_index', MIN(index_name) FROM information_schema.statistics
           WHERE table_schema = DATABASE() AND table_name = 'job' AND column_name = 'run_after' AND seq_in_index = 1
UNION ALL SELECT 'functions_with_rules', COUNT(*) FROM `function`
           WHERE max_running IS NOT NULL OR rate IS NOT NULL OR paused_until > UNIX_TIMESTAMP()
              OR partition_max_running IS NOT NULL OR partition_rate IS NOT NULL OR fair = 1
UNION ALL SELECT 'default_envelope', COALESCE(MAX(envelope), 'not set') FROM `function` WHERE funcname = ''
UNION ALL SELECT 'wait_timeout', @@SESSION.wait_timeout
UNION ALL SELECT 'stats_auto_recalc',
                 CASE WHEN LOCATE('stats_auto_recalc=1', create_options) THEN 'on'
                      WHEN LOCATE('stats_auto_recalc=0', create_options) THEN 'off'
                      WHEN @@GLOBAL.innodb_stats_auto_recalc THEN 'on' ELSE 'off' END
            FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'job'

-- name: snapshots () -> rows
-- The session and the seconds of the oldest transaction that keeps deleted rows. Needs the privilege PROCESS. Its times
-- are in the time zone of the server's machine. At READ COMMITTED a transaction has a snapshot during a statement only.
SELECT trx_mysql_thread_id, TIMESTAMPDIFF(SECOND, trx_started, CONVERT_TZ(UTC_TIMESTAMP(), '+00:00', 'SYSTEM'))
  FROM information_schema.innodb_trx
 WHERE trx_mysql_thread_id NOT IN (0, CONNECTION_ID())
   AND (trx_isolation_level <> 'READ COMMITTED' OR trx_query IS NOT NULL)
 ORDER BY trx_started LIMIT 1

-- name: cluster () -> rows
-- The number of nodes of a Galera cluster.
SHOW GLOBAL STATUS LIKE 'wsrep_cluster_size'

-- name: group_replication () -> rows
-- The settings of MySQL's Group Replication, if the server has it.
SHOW GLOBAL VARIABLES WHERE variable_name IN ('group_replication_consistency', 'group_replication_single_primary_mode')

-- name: functions () -> rows
-- The settings that apply to each function, and the time until which it is paused.
SELECT funcname, lease, deadline, renews, envelope, max_failures, retention, max_running, retry, timeout,
       dead_retention, rate, burst, unique_scope, unique_window, on_duplicate, max_delay, expires, partition_max_running, partition_rate, partition_burst, fair, cancel_grace,
       coalesce_max, coalesce_wait,
       CASE WHEN paused_until > UNIX_TIMESTAMP() THEN paused_until END
  FROM `function` ORDER BY funcname

-- name: settings () -> rows
-- The settings of all functions, with those that code has declared and those that an operator has set instead.
SELECT funcname, lease, deadline, renews, envelope, max_failures, retention, max_running, retry, timeout,
       dead_retention, rate, burst, unique_scope, unique_window, on_duplicate, max_delay, expires,
       partition_max_running, partition_rate, partition_burst, fair, cancel_grace,
       coalesce_max, coalesce_wait,
       declared, override
  FROM `function` ORDER BY funcname

-- name: declared (funcnames) -> rows
-- The settings of the given functions that code has declared.
SELECT funcname, declared FROM `function` WHERE funcname IN (:*funcnames)

-- name: lock_settings (funcnames) -> rows
-- The settings of the given functions, as `settings` returns them, locked by the transaction.
SELECT funcname, lease, deadline, renews, envelope, max_failures, retention, max_running, retry, timeout,
       dead_retention, rate, burst, unique_scope, unique_window, on_duplicate, max_delay, expires,
       partition_max_running, partition_rate, partition_burst, fair, cancel_grace,
       coalesce_max, coalesce_wait,
       declared, override
  FROM `function` WHERE funcname IN (:*funcnames) ORDER BY funcname FOR UPDATE

-- name: create_functions (funcname) -> none
-- Creates rows for functions that have none yet, so that the rows can be locked.
INSERT INTO `function` (funcname)
VALUES
  (:funcname) -- each
ON DUPLICATE KEY UPDATE funcname = VALUES(funcname)

-- name: write_settings (funcname, lease, deadline, renews, envelope, max_failures, retention, max_running, retry, timeout, dead_retention, rate, burst, unique_scope, unique_window, on_duplicate, max_delay, expires, partition_max_running, partition_rate, partition_burst, fair, cancel_grace, coalesce_max, coalesce_wait, declared, override) -> none
-- Writes all settings of functions.
INSERT INTO `function` (funcname, lease, deadline, renews, envelope, max_failures, retention, max_running, retry, timeout,
       dead_retention, rate, burst, unique_scope, unique_window, on_duplicate, max_delay, expires,
       partition_max_running, partition_rate, partition_burst, fair, cancel_grace,
       coalesce_max, coalesce_wait, declared, override)
VALUES
  (:funcname, :lease, :deadline, :renews, :envelope, :max_failures, :retention, :max_running, :retry, :timeout, :dead_retention, :rate, :burst, :unique_scope, :unique_window, :on_duplicate, :max_delay, :expires, :partition_max_running, :partition_rate, :partition_burst, :fair, :cancel_grace, :coalesce_max, :coalesce_wait, :declared, :override) -- each
ON DUPLICATE KEY UPDATE
       lease = VALUES(lease), deadline = VALUES(deadline), renews = VALUES(renews),
       envelope = VALUES(envelope), max_failures = VALUES(max_failures), retention = VALUES(retention),
       max_running = VALUES(max_running), retry = VALUES(retry), timeout = VALUES(timeout),
       dead_retention = VALUES(dead_retention), rate = VALUES(rate), burst = VALUES(burst),
       unique_scope = VALUES(unique_scope), unique_window = VALUES(unique_window),
       on_duplicate = VALUES(on_duplicate), max_delay = VALUES(max_delay), expires = VALUES(expires),
       partition_max_running = VALUES(partition_max_running), partition_rate = VALUES(partition_rate),
       partition_burst = VALUES(partition_burst), fair = VALUES(fair), cancel_grace = VALUES(cancel_grace), coalesce_max = VALUES(coalesce_max),
       coalesce_wait = VALUES(coalesce_wait),
       declared = VALUES(declared), override = VALUES(override)

-- name: adoptable (jobids) -> rows
-- Jobs whose copies came without an attempt and that nobody runs, locked by the transaction.
SELECT jobid FROM job FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids) AND state IN (0, 1) AND run_after <> 2147483647
   FOR UPDATE

-- name: adopt (jobids, lease) -> rows
-- Gives an attempt to the copies of the jobs that `adoptable` has found, which the original's QueueRunner has leased by
-- `run_after` alone. The arguments of the jobs are not read.
UPDATE job FORCE INDEX (PRIMARY)
   SET attempt = attempt + 1, state = 2, since = UNIX_TIMESTAMP(), run_after = UNIX_TIMESTAMP() + :lease + 1,
       lease_end = run_after
 WHERE jobid IN (:*jobids);
SELECT jobid, funcname, NULL, uniqkey, `coalesce`, run_after, flag, failcount, attempt, priority, state, since,
       crashes, created, runs, `partition`, headers
  FROM job WHERE jobid IN (:*jobids)

-- name: unset_function (funcname) -> none
-- Deletes the row of a function without settings, so that the defaults apply, unless it is paused or marked.
DELETE FROM `function`
 WHERE funcname = :funcname AND (paused_until IS NULL OR paused_until <= UNIX_TIMESTAMP())
   AND (checked_until IS NULL OR checked_until <= UNIX_TIMESTAMP())

-- name: mark_function (jobid, lease) -> none
-- Marks the function of a job that is being cancelled, until the leases of its copies have ended.
INSERT INTO `function` (funcname, cancels, checked_until)
SELECT funcname, 1, GREATEST(run_after, UNIX_TIMESTAMP() + GREATEST(:lease, (SELECT COALESCE(MAX(lease), 0) FROM `function` AS own WHERE own.funcname = job.funcname))) + 1
  FROM job WHERE jobid = :jobid
ON DUPLICATE KEY UPDATE cancels = cancels + 1, checked_until = GREATEST(COALESCE(checked_until, 0), VALUES(checked_until))

-- name: marks () -> rows
-- The functions whose copies are checked before their start, and how often jobs of them were cancelled.
SELECT funcname, cancels FROM `function` WHERE checked_until > UNIX_TIMESTAMP()

-- name: cancelled (jobids, attempt) -> rows
-- The given jobs that are dead and have had no later attempt.
SELECT jobid FROM job WHERE jobid IN (:*jobids) AND attempt = :attempt AND {effective_state} = 4

-- name: pause (funcname, paused_until) -> none
-- Pauses a function, whose row exists, until a time. NULL ends the pause.
UPDATE `function` SET paused_until = :paused_until WHERE funcname = :funcname

-- name: mark_paused (funcname, lease) -> none
-- Marks a function, whose row exists, until the leases of its copies have ended.
UPDATE `function`
   SET cancels = cancels + 1,
       checked_until = GREATEST(COALESCE(checked_until, 0), UNIX_TIMESTAMP() + GREATEST(:lease, COALESCE(lease, 0)) + 1)
 WHERE funcname = :funcname

-- name: unstarted (funcname, priority, limit) -> rows
-- The jobs of a lane that were claimed and whose leases have not been renewed. Rows locked by another transaction are
-- skipped.
SELECT jobid
  FROM job FORCE INDEX (job_lane)
 WHERE funcname = :funcname AND state = 1 AND priority = :priority AND {held}
 ORDER BY run_after LIMIT :limit
   FOR UPDATE SKIP LOCKED

-- name: take_back (jobids) -> none
-- Sets claimed jobs back to waiting, due since their claim.
UPDATE job SET state = 0, run_after = since, lease_end = 0 WHERE jobid IN (:*jobids)

-- name: paused (funcname) -> rows
-- The time until which a function is paused. No row: it is not paused.
SELECT paused_until FROM `function` WHERE funcname = :funcname AND paused_until > UNIX_TIMESTAMP()

-- name: dispatched (funcname, priority, age, since, after, limit) -> rows
-- Leased jobs of a lane that no worker has started and whose leases have not expired. The youngest are omitted, because
-- they may not have been submitted yet. The rows are read in pages, in the order in which their leases end.
SELECT jobid, attempt, run_after, bundle FROM job FORCE INDEX (job_lane)
 WHERE funcname = :funcname AND state = 1 AND priority = :priority
   AND run_after > UNIX_TIMESTAMP() AND run_after >= :after
   AND since <= UNIX_TIMESTAMP() - :age AND since > :since AND {held}
 ORDER BY run_after LIMIT :limit

-- name: leased (funcname, lease, limit) -> one
-- The number of jobs of a function in Gearman that no worker has started, up to a limit. A row whose `run_after` is
-- later than the end of any lease was put off by another program, which the index alone shows.
SELECT COUNT(*) FROM (
  SELECT 1 FROM job FORCE INDEX (job_lane)
   WHERE funcname = :funcname AND state = 1 AND run_after <= UNIX_TIMESTAMP() + :lease + 2 LIMIT :limit) AS handed_out

-- name: lock_function (funcname) -> rows
-- The rules of a function, whether it is paused, and the time now with its fraction. The row stays locked until the end
-- of the claim, so that claims of the function take turns. No row: the function has no settings, or another claim has
-- the lock.
SELECT max_running, COALESCE(paused_until > UNIX_TIMESTAMP(), 0), rate, burst, rate_used_until,
       UNIX_TIMESTAMP() + MICROSECOND(NOW(6)) / 1e6,
       partition_max_running, partition_rate, partition_burst, fair, coalesce_max, coalesce_wait
  FROM `function` WHERE funcname = :funcname FOR UPDATE SKIP LOCKED

-- name: use_rate (funcname, used_until) -> none
-- Stores the time up to which the rate of a function is used, in the transaction that has locked its row.
UPDATE `function` SET rate_used_until = :used_until WHERE funcname = :funcname

-- name: in_flight (funcname, limit) -> one
-- The number of jobs of a function that an attempt holds, up to a limit.
SELECT COUNT(*) FROM (
  SELECT 1 FROM job FORCE INDEX (job_lane)
   WHERE funcname = :funcname AND state IN (1, 2, 3) AND {held} LIMIT :limit) AS handed_out

-- name: lane_page (funcname, priority, after, after_jobid, limit) -> rows
-- The next due jobs of a lane in the order of due times and ids, and whether each has a row in `turn`: 1 or NULL. The
-- first part reads jobs with the due time that was read last, and has only the conditions of an index scan.
SELECT lane.jobid, lane.run_after,
       (SELECT 1 FROM turn WHERE turn.jobid = lane.jobid AND turn.priority = :priority)
  FROM (
        (SELECT jobid, run_after FROM job FORCE INDEX (job_lane)
         WHERE funcname = :funcname AND state = 0 AND priority = :priority AND run_after = :after
           AND jobid > :after_jobid
         ORDER BY jobid LIMIT :limit)
        UNION ALL
        (SELECT jobid, run_after FROM job FORCE INDEX (job_lane)
         WHERE funcname = :funcname AND state = 0 AND priority = :priority AND run_after > :after
           AND run_after <= UNIX_TIMESTAMP() AND run_after <> 2147483647
         ORDER BY run_after, jobid LIMIT :limit)) AS lane
 ORDER BY lane.run_after, lane.jobid LIMIT :limit

-- name: add_turns (jobids, funcname, priority) -> none
-- Gives these jobs of a lane a turn, if they still wait.
INSERT INTO turn (jobid, funcname, priority, `partition`, run_after)
SELECT jobid, :funcname, priority, coalesce(`partition`, ''), run_after FROM job FORCE INDEX (PRIMARY)
 WHERE jobid IN (:*jobids) AND state = 0 AND priority = :priority
ON DUPLICATE KEY UPDATE priority = VALUES(priority), `partition` = VALUES(`partition`), run_after = VALUES(run_after)

-- name: add_turn_partitions (jobids, funcname, priority) -> none
-- Notes the partitions of these jobs. They may be noted already.
INSERT INTO turn_partition (funcname, priority, `partition`)
SELECT DISTINCT :funcname, :priority, coalesce(`partition`, '') FROM job FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids)
ON DUPLICATE KEY UPDATE priority = VALUES(priority)

-- name: turn_partitions (funcname, priority, start, limit) -> rows
-- The next partitions with turns, from the text `start` on.
SELECT `partition` FROM turn_partition
 WHERE funcname = :funcname AND priority = :priority AND `partition` >= :start
 ORDER BY `partition` LIMIT :limit

-- name: next_turns (funcname, priority, partition, limit) -> rows
-- The first turns of each of these partitions, as many as its `limit`.
(SELECT jobid, `partition`, run_after FROM turn FORCE INDEX (turn_order) WHERE funcname = :funcname AND priority = :priority AND `partition` = :partition ORDER BY run_after, jobid LIMIT :limit) UNION ALL -- each

-- name: in_flight_calls (funcname, limit) -> one
-- The number of calls of a function with bundles that are in flight, and the number of their jobs, which are counted up
-- to a limit. The jobs of a bundle are one call.
SELECT count(DISTINCT call_of), count(*) FROM (
  SELECT IF(SUBSTRING_INDEX(bundle, '/', 1) = CONCAT(attempt), SUBSTRING(bundle, LOCATE('/', bundle) + 1), CONCAT(jobid, '/', attempt)) AS call_of
    FROM job FORCE INDEX (job_lane)
   WHERE funcname = :funcname AND state IN (1, 2, 3) AND {held} LIMIT :limit) AS handed_out

-- name: bundle_page (funcname, priority, limit, skip) -> rows
-- Due jobs of a lane with the values that decide which of them go together, from a number of jobs on. Nothing is locked.
SELECT jobid, run_after, `coalesce`, flag, failcount, crashes
  FROM job FORCE INDEX (job_lane)
 WHERE funcname = :funcname AND state = 0 AND priority = :priority
   AND run_after <= UNIX_TIMESTAMP() AND run_after <> 2147483647
 ORDER BY run_after LIMIT :limit OFFSET :skip

-- name: mark_bundle (jobids, call) -> none
-- Notes with the jobs of a bundle, which this transaction has claimed, their attempts and the call that carries them.
UPDATE job FORCE INDEX (PRIMARY) SET bundle = CONCAT(attempt, '/', :call) WHERE jobid IN (:*jobids)

-- name: due_turns (jobids, priority, small) -> rows
-- The jobs among these that a claim may take now, as `due` reads them. Rows that are locked are skipped.
SELECT jobid, run_after, IF(LENGTH(arg) > :small, NULL, COALESCE(arg, '')), uniqkey,
       `coalesce`, flag, failcount, attempt, UNIX_TIMESTAMP(), created, expires, `partition`, headers
  FROM job FORCE INDEX (PRIMARY)
 WHERE jobid IN (:*jobids) AND state = 0 AND priority = :priority
   AND run_after <= UNIX_TIMESTAMP() AND run_after <> 2147483647
   FOR UPDATE SKIP LOCKED

-- name: waiting_turns (jobids, priority) -> rows
-- The jobs among these that wait and are due, locked or not, and the partition of each.
SELECT jobid, coalesce(`partition`, '') FROM job FORCE INDEX (PRIMARY)
 WHERE jobid IN (:*jobids) AND state = 0 AND priority = :priority
   AND run_after <= UNIX_TIMESTAMP() AND run_after <> 2147483647

-- name: partition_turns (funcname, priority, partition, limit) -> rows
-- The first turns of a partition.
SELECT jobid FROM turn FORCE INDEX (turn_order)
 WHERE funcname = :funcname AND priority = :priority AND `partition` = :partition
 ORDER BY run_after, jobid LIMIT :limit

-- name: forget_turns (jobids) -> none
-- Deletes the turns of jobs that are handed out or no longer due.
DELETE turn FROM
  /*M! turn FORCE INDEX (PRIMARY) WHERE jobid IN ( */ /*!80017 JSON_TABLE(JSON_ARRAY( */ :*jobids)
  /*!80017 , '$[*]' COLUMNS (jobid BIGINT UNSIGNED PATH '$')) AS gone
  STRAIGHT_JOIN turn FORCE INDEX (PRIMARY) ON turn.jobid = gone.jobid */

-- name: forget_turn_partitions (funcname, priority, partitions) -> none
-- Deletes the notes of these partitions, which have no turn left.
DELETE turn_partition FROM turn_partition FORCE INDEX (PRIMARY)
 WHERE funcname = :funcname AND priority = :priority AND `partition` IN (:*partitions)

-- name: turn_functions () -> rows
-- The functions with turns.
SELECT DISTINCT funcname FROM turn_partition

-- name: some_turns (funcname, limit) -> rows
-- Some turns of a function.
SELECT jobid FROM turn WHERE funcname = :funcname LIMIT :limit

-- name: forget_partitions (funcname) -> none
-- Deletes the notes of the partitions of a function that has no turns.
DELETE FROM turn_partition WHERE funcname = :funcname

-- name: in_flight_by_partition (funcname, limit) -> rows
-- The number of jobs of a function that attempts hold, for each partition. At most `limit` jobs are counted in all.
SELECT coalesce(`partition`, ''), count(*) FROM (
  SELECT `partition` FROM job FORCE INDEX (job_lane)
   WHERE funcname = :funcname AND state IN (1, 2, 3) AND {held} LIMIT :limit) AS handed_out
 GROUP BY `partition`

-- name: partition_rates (funcname, partitions) -> rows
-- The times up to which the starts of these partitions have used their rates.
SELECT `partition`, used_until FROM partition_rate WHERE funcname = :funcname AND `partition` IN (:*partitions)

-- name: use_partition_rates (funcname, partition, used_until) -> none
-- Stores the times up to which partitions have used their rates, in the transaction that has locked the function's row.
INSERT INTO partition_rate (funcname, `partition`, used_until)
VALUES
  (:funcname, :partition, :used_until) -- each
ON DUPLICATE KEY UPDATE used_until = VALUES(used_until)

-- name: forget_partition_rates (limit) -> count
-- Deletes past times up to which partitions had used their rates. They mean the same as no row.
DELETE FROM partition_rate WHERE used_until < UNIX_TIMESTAMP() LIMIT :limit

-- name: give_back (jobids, attempt) -> none
-- Sets jobs that a worker holds and has not started back to waiting, due now.
UPDATE job FORCE INDEX (PRIMARY) SET state = 0, run_after = UNIX_TIMESTAMP(), lease_end = 0
 WHERE jobid IN (:*jobids) AND attempt = :attempt AND state IN (1, 2, 3) AND {held}

-- name: mark_leased (jobids, attempt) -> none
-- Sets a running job back to leased, because the worker that checked it has lost the Gearman server and will not start
-- the job. So the lease may end early. If that server still exists, the worker that has the copy now renews the lease.
UPDATE job FORCE INDEX (PRIMARY) SET state = 1 WHERE jobid IN (:*jobids) AND attempt = :attempt AND state = 2 AND {held}

-- name: crash (jobid, attempt) -> none
-- Counts the death of the process that ran the job. The lease stays: the Gearman server has given the copy to another
-- worker.
UPDATE job SET crashes = crashes + 1 WHERE jobid = :jobid AND attempt = :attempt AND state IN (1, 2, 3) AND {held}

-- name: refuse_inserts () -> none
-- Creates a trigger: from now on no program can insert jobs, whether it knows of the drain or not. Successors become
-- jobs anyway. An old trigger is dropped first, because MySQL has no CREATE TRIGGER IF NOT EXISTS.
DROP TRIGGER IF EXISTS garivini_draining;
CREATE TRIGGER garivini_draining BEFORE INSERT ON job FOR EACH ROW
IF NOT EXISTS (SELECT 1 FROM successor WHERE successor.funcname = NEW.funcname AND successor.uniqkey = NEW.uniqkey)
THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'garivini is draining this database'; END IF

-- name: allow_inserts () -> none
-- Ends the drain: programs can insert jobs again.
DROP TRIGGER IF EXISTS garivini_draining

-- name: hold (jobid, attempt, run_after, seconds) -> rows
-- Leases a waiting job for its move, if nothing has changed since it was read.
SELECT jobid FROM job
 WHERE jobid = :jobid AND attempt = :attempt AND run_after = :run_after
   AND {effective_state} = 0
   FOR UPDATE;
UPDATE job
   SET attempt = attempt + 1, state = 1, since = UNIX_TIMESTAMP(), run_after = UNIX_TIMESTAMP() + :seconds,
       lease_end = run_after
 WHERE jobid = :jobid

-- name: park (funcname, uniqkey, coalesce, arg, flag, priority, failcount, crashes, created, attempt, runs, partition, headers) -> rows
-- Inserts the moved row of a job, with its attempts. The row cannot be claimed until the move is finished.
INSERT INTO job (funcname, uniqkey, `coalesce`, arg, flag, priority, failcount, crashes, created, attempt, runs, `partition`, headers, state, run_after)
VALUES (:funcname, :uniqkey, :coalesce, :arg, :flag, :priority, :failcount, :crashes, :created, :attempt, :runs, :partition, :headers, 4, 2147483647);
SELECT LAST_INSERT_ID()

-- name: leave (jobid, attempt, state) -> rows
-- Deletes one of the two rows of a moved job, if the row is still held for the move.
SELECT jobid FROM job
 WHERE jobid = :jobid AND attempt = :attempt AND (state = :state OR :state = 4 AND run_after = 2147483647)
   FOR UPDATE;
DELETE FROM job WHERE jobid = :jobid

-- name: let_go (jobid, run_after) -> none
-- Sets a moved row to waiting, with the due time that its job had.
UPDATE job SET state = 0, run_after = :run_after WHERE jobid = :jobid AND state = 4

-- name: moves () -> rows
-- Moved rows that do not wait yet, with the note of their origin.
SELECT jobid, message FROM failure WHERE kind = 'moved' AND attempt = 0

-- name: forget_move (jobid) -> none
-- Deletes the note of a moved row's origin.
DELETE FROM failure WHERE jobid = :jobid AND attempt = 0 AND kind = 'moved'

-- name: copy_failure (jobid, attempt, failed_at, kind, error, message, trace, worker) -> none
-- Copies a failure record of a moved job.
INSERT INTO failure (jobid, attempt, failed_at, kind, error, message, trace, worker)
VALUES (:jobid, :attempt, :failed_at, :kind, :error, :message, :trace, :worker)

-- name: schedules () -> rows
-- All schedules, with the time now and the time at which each was last declared.
SELECT name, funcname, arg, cron, every, zone, flag, priority, missed, missed_window, overlap, paused, next_tick, queued,
       last_tick, last_jobid, jobs, skipped, declared, override,
       CAST(UNIX_TIMESTAMP() AS SIGNED), seen
  FROM schedule ORDER BY name

-- name: has_schedule (name) -> rows
-- Whether there is a schedule of this name.
SELECT 1 FROM schedule WHERE name = :name

-- name: due_schedules (age) -> rows
-- The schedules with a tick that is due or waits for the end of a job. A schedule that was last declared `age` seconds
-- ago is retired. There are few schedules, so all are read.
SELECT name FROM schedule
 WHERE paused = 0 AND (declared IS NULL OR CAST(UNIX_TIMESTAMP() AS SIGNED) - seen < :age)
   AND (next_tick IS NULL OR next_tick <= CAST(UNIX_TIMESTAMP() AS SIGNED) OR queued IS NOT NULL)

-- name: until_tick (age) -> one
-- The seconds until the first tick that is not due yet.
SELECT min(next_tick) - (UNIX_TIMESTAMP() + MICROSECOND(NOW(6)) / 1e6) FROM schedule
 WHERE paused = 0 AND (declared IS NULL OR CAST(UNIX_TIMESTAMP() AS SIGNED) - seen < :age)
   AND next_tick > CAST(UNIX_TIMESTAMP() AS SIGNED)

-- name: take_schedule (name) -> rows
-- A schedule as `schedules` returns it, locked by the transaction. No row: another scheduler has locked it, or it does
-- not exist.
SELECT name, funcname, arg, cron, every, zone, flag, priority, missed, missed_window, overlap, paused, next_tick, queued,
       last_tick, last_jobid, jobs, skipped, declared, override,
       CAST(UNIX_TIMESTAMP() AS SIGNED), seen
  FROM schedule WHERE name = :name
   FOR UPDATE SKIP LOCKED

-- name: lock_schedule (name) -> rows
-- As `take_schedule`, for a change of the schedule's values, which waits for the lock.
SELECT name, funcname, arg, cron, every, zone, flag, priority, missed, missed_window, overlap, paused, next_tick, queued,
       last_tick, last_jobid, jobs, skipped, declared, override,
       CAST(UNIX_TIMESTAMP() AS SIGNED), seen
  FROM schedule WHERE name = :name
   FOR UPDATE

-- name: move_schedule (name, tick, next_tick, queued, last_tick, last_jobid, jobs, skipped) -> count
-- Moves a schedule on from a tick, if no other scheduler has.
UPDATE schedule
   SET next_tick = :next_tick, queued = :queued,
       last_tick = coalesce(:last_tick, last_tick), last_jobid = coalesce(:last_jobid, last_jobid),
       jobs = jobs + :jobs, skipped = skipped + :skipped
 WHERE name = :name AND next_tick <=> :tick

-- name: write_schedule (name, funcname, arg, cron, every, zone, flag, priority, missed, missed_window, overlap, next_tick, declared, override) -> none
-- Creates a schedule, or writes its values. The counts and the last job of the schedule stay.
INSERT INTO schedule (name, funcname, arg, cron, every, zone, flag, priority, missed, missed_window, overlap,
  next_tick, declared, override)
VALUES (:name, :funcname, :arg, :cron, :every, :zone, :flag,
        :priority, :missed, :missed_window, :overlap, :next_tick, :declared, :override)
ON DUPLICATE KEY UPDATE
       funcname = VALUES(funcname), arg = VALUES(arg), cron = VALUES(cron), every = VALUES(every),
       zone = VALUES(zone), flag = VALUES(flag), priority = VALUES(priority), missed = VALUES(missed),
       missed_window = VALUES(missed_window), overlap = VALUES(overlap),
       next_tick = VALUES(next_tick), declared = VALUES(declared), override = VALUES(override)

-- name: pause_schedule (name, paused, next_tick) -> none
-- Pauses or resumes a schedule.
UPDATE schedule SET paused = :paused, next_tick = :next_tick WHERE name = :name

-- name: see_schedules (names, age) -> none
-- Records that a process declares the given schedules, unless that was recorded within the last `age` seconds.
UPDATE schedule SET seen = CAST(UNIX_TIMESTAMP() AS SIGNED)
 WHERE name IN (:*names) AND (seen IS NULL OR CAST(UNIX_TIMESTAMP() AS SIGNED) - seen > :age)

-- name: copy_schedule (name, funcname, arg, cron, every, zone, flag, priority, missed, missed_window, overlap, paused, next_tick, queued, last_tick, jobs, skipped, declared, override) -> none
-- Creates a schedule that another database has, unless an earlier drain has created it. The last job of the schedule is
-- in the other database.
INSERT INTO schedule (name, funcname, arg, cron, every, zone, flag, priority, missed, missed_window, overlap, paused,
  next_tick, queued, last_tick, jobs, skipped, declared, override)
VALUES (:name, :funcname, :arg, :cron, :every, :zone, :flag, :priority, :missed, :missed_window, :overlap,
        :paused, :next_tick, :queued, :last_tick, :jobs, :skipped, :declared, :override)
ON DUPLICATE KEY UPDATE name = VALUES(name)

-- name: remove_schedule (name) -> none
-- Deletes a schedule. Its jobs stay.
DELETE FROM schedule WHERE name = :name

-- name: key_rules () -> rows
-- The functions with rules for unique keys.
SELECT funcname, unique_scope, unique_window, on_duplicate, max_delay FROM `function`
 WHERE unique_scope IS NOT NULL OR unique_window IS NOT NULL OR on_duplicate IS NOT NULL

-- name: keyed_row (funcname, uniqkey) -> rows
-- The job that has a key, locked by the transaction, with the time now, rounded down and rounded up.
SELECT jobid, attempt, {effective_state}, run_after, created, UNIX_TIMESTAMP(), UNIX_TIMESTAMP() + (MICROSECOND(NOW(6)) > 0)
  FROM job WHERE funcname = :funcname AND uniqkey = :uniqkey FOR UPDATE

-- name: replace_job (jobid, arg, coalesce, partition, headers, priority, run_after, expires) -> none
-- Gives other values to a job that was never handed out and that this transaction has locked.
UPDATE job SET arg = :arg, `coalesce` = :coalesce, priority = :priority, run_after = :run_after,
       `partition` = :partition, headers = :headers, expires = :expires
 WHERE jobid = :jobid

-- name: free_key (jobid) -> none
-- Takes the key from a dead job, so that another job can have it.
UPDATE job SET uniqkey = NULL, has_successor = NULL WHERE jobid = :jobid

-- name: set_expires (jobids, expires) -> none
-- Sets the number of seconds after their due time within which new jobs must have been handed out.
UPDATE job FORCE INDEX (PRIMARY) SET expires = :expires WHERE jobid IN (:*jobids)

-- name: expiries (jobids) -> rows
-- The jobs among these that have a time limit of their own for being handed out.
SELECT jobid, expires FROM job FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids) AND expires IS NOT NULL

-- name: note_successor (jobid) -> none
-- Notes that a job has got its first successor.
UPDATE job SET has_successor = 1 WHERE jobid = :jobid

-- name: successor (jobid) -> rows
-- When a successor is due, and when it was first inserted. The transaction has locked the row of the job.
SELECT due, created FROM successor WHERE jobid = :jobid

-- name: put_successor (jobid, funcname, uniqkey, coalesce, partition, headers, arg, flag, priority, due, created, expires) -> none
-- Stores the successor of a job that this transaction has locked, or gives other values to it.
INSERT INTO successor (jobid, funcname, uniqkey, `coalesce`, `partition`, headers, arg, flag, priority, due, created, expires)
VALUES (:jobid, :funcname, :uniqkey, :coalesce, :partition, :headers, :arg, :flag, :priority,
        :due, :created, :expires)
ON DUPLICATE KEY UPDATE `coalesce` = VALUES(`coalesce`), `partition` = VALUES(`partition`), headers = VALUES(headers), arg = VALUES(arg),
       flag = VALUES(flag), priority = VALUES(priority), due = VALUES(due), expires = VALUES(expires)

-- name: promote (jobid) -> none
-- Turns a successor into a job, unless a newer job has its key. The transaction has ended the job before it.
INSERT INTO job (funcname, uniqkey, `coalesce`, `partition`, headers, arg, flag, priority, run_after, created, expires)
SELECT funcname, uniqkey, `coalesce`, `partition`, headers, arg, flag, priority, due, created, expires FROM successor
 WHERE jobid = :jobid
ON DUPLICATE KEY UPDATE jobid = job.jobid;
DELETE FROM successor WHERE jobid = :jobid

-- name: lock_successor (jobid) -> rows
-- Locks a successor, unless another transaction has locked it.
SELECT jobid FROM successor WHERE jobid = :jobid FOR UPDATE SKIP LOCKED

-- name: successors_left (limit) -> rows
-- Successors of jobs that another program has deleted or parked. There are few successors, so all may be read.
SELECT jobid FROM successor
 WHERE NOT EXISTS (SELECT 1 FROM job WHERE job.jobid = successor.jobid AND {effective_state} <> 4)
 LIMIT :limit

-- name: any_successor () -> rows
-- Whether there is a successor.
SELECT jobid FROM successor LIMIT 1

-- name: forget_successors (funcname, uniqkey) -> none
-- Deletes successors of a key that has just got a newer job.
DELETE FROM successor WHERE funcname = :funcname AND uniqkey = :uniqkey

-- name: recent_key (funcname, uniqkey) -> rows
-- Locks a key with a window, also one that is not taken; returns its last job and whether the window is still open.
INSERT INTO recent_key (funcname, uniqkey, jobid, ends) VALUES (:funcname, :uniqkey, 0, UNIX_TIMESTAMP())
ON DUPLICATE KEY UPDATE jobid = recent_key.jobid;
SELECT jobid, ends > UNIX_TIMESTAMP() FROM recent_key WHERE funcname = :funcname AND uniqkey = :uniqkey FOR UPDATE

-- name: note_key (funcname, uniqkey, jobid, ends) -> none
-- Stores the last job of a key, and the end of the window that has begun with the insert of that job.
UPDATE recent_key SET jobid = :jobid, ends = :ends WHERE funcname = :funcname AND uniqkey = :uniqkey

-- name: any_old_key () -> rows
-- Whether there is a key that `forget_keys` would delete.
SELECT jobid FROM recent_key WHERE ends < UNIX_TIMESTAMP() - 60 LIMIT 1

-- name: forget_keys (limit) -> count
-- Deletes keys whose window ended more than a minute ago. Until then an insert may have locked one.
DELETE FROM recent_key WHERE ends < UNIX_TIMESTAMP() - 60 ORDER BY ends LIMIT :limit

-- name: late (funcname, priority, expires, limit) -> rows
-- The first jobs of a lane that have been due for too long, with their attempts and the seconds since they were due,
-- locked by the transaction.
SELECT jobid, attempt, CAST(UNIX_TIMESTAMP() AS SIGNED) - CAST(run_after AS SIGNED) FROM job FORCE INDEX (job_lane)
 WHERE funcname = :funcname AND state = 0 AND priority = :priority
   AND run_after < CAST(UNIX_TIMESTAMP() AS SIGNED) - :expires AND run_after <> 2147483647
 ORDER BY run_after LIMIT :limit FOR UPDATE SKIP LOCKED

-- name: put_out (target, id, funcname, uniqkey, coalesce, partition, headers, arg, flag, priority, delay, expires, rule) -> none
-- Stores a follow-up that belongs to another database, in the transaction that completes its job.
INSERT INTO outbox (target, id, funcname, uniqkey, `coalesce`, `partition`, headers, arg, flag, priority, run_after, expires, rule)
VALUES (:target, :id, :funcname, :uniqkey, :coalesce, :partition, :headers, :arg, :flag, :priority,
        UNIX_TIMESTAMP() + :delay, :expires, :rule)

-- name: next_target (after) -> rows
-- The next database to which follow-ups are to be moved, by its id.
SELECT target FROM outbox WHERE target > :after ORDER BY target LIMIT 1

-- name: outbox_sizes (target, id, limit) -> rows
-- The next follow-ups for a database, by their ids, and the bytes of their arguments.
SELECT id, LENGTH(arg) FROM outbox FORCE INDEX (PRIMARY) WHERE target = :target AND id > :id ORDER BY id LIMIT :limit

-- name: outbox (target, ids) -> rows
-- Follow-ups, each with the seconds until it is due.
SELECT id, funcname, uniqkey, `coalesce`, `partition`, headers, arg, flag, priority, GREATEST(run_after - UNIX_TIMESTAMP(), 0),
       expires, rule
  FROM outbox FORCE INDEX (PRIMARY) WHERE target = :target AND id IN (:*ids)

-- name: leave_outbox (target, ids) -> none
-- Deletes follow-ups that have arrived.
DELETE outbox FROM outbox FORCE INDEX (PRIMARY) WHERE target = :target AND id IN (:*ids)

-- name: retarget (target, ids, home) -> none
-- Changes the database of follow-ups, because the former one is being drained.
UPDATE outbox FORCE INDEX (PRIMARY) SET target = :home WHERE target = :target AND id IN (:*ids)

-- name: arrive (id, mover) -> none
-- Notes that a follow-up arrives, unless that was noted before, in the transaction that inserts the follow-up.
INSERT INTO arrived (id, mover, arrived_at) VALUES (:id, :mover, UNIX_TIMESTAMP())
ON DUPLICATE KEY UPDATE id = arrived.id

-- name: arrivals (ids, mover) -> rows
-- The follow-ups among these that arrive in this transaction. `mover` is the unique name of the transaction.
SELECT id FROM arrived WHERE id IN (:*ids) AND mover = :mover

-- name: forget_arrivals (age, limit) -> count
-- Forgets follow-ups that have arrived long ago: their rows in the outbox were deleted then.
DELETE FROM arrived WHERE arrived_at < UNIX_TIMESTAMP() - :age ORDER BY arrived_at LIMIT :limit

-- name: put_batch (batchid, name, on_complete, on_success) -> none
-- Creates a batch without members.
INSERT INTO batch (batchid, name, members, pending, failed, sealed, created, completed_at, on_complete, on_success)
VALUES (:batchid, :name, 0, 0, 0, 0, UNIX_TIMESTAMP(), 0, :on_complete, :on_success)

-- name: batch (batchid) -> rows
-- A batch.
SELECT batchid, name, members, pending, failed, sealed, created, completed_at, on_complete, on_success FROM batch WHERE batchid = :batchid

-- name: lock_batch (batchid) -> rows
-- A batch, locked by the transaction.
SELECT batchid, name, members, pending, failed, sealed, created, completed_at, on_complete, on_success FROM batch WHERE batchid = :batchid FOR UPDATE

-- name: batches (batchid, limit) -> rows
-- The next batches in the order of their ids, which begin with the time at which they were created.
SELECT batchid, name, members, pending, failed, sealed, created, completed_at, on_complete, on_success FROM batch WHERE batchid > :batchid ORDER BY batchid LIMIT :limit

-- name: open_batches (batchid, limit) -> rows
-- The next batches that have not ended.
SELECT batchid FROM batch WHERE completed_at = 0 AND batchid > :batchid ORDER BY batchid LIMIT :limit

-- name: put_members (batchid, jobid) -> none
-- Makes jobs members of a batch.
INSERT INTO batch_member (jobid, batchid)
VALUES
  (:jobid, :batchid) -- each

-- name: members_of (jobids) -> rows
-- The members among these jobs, and their batches.
SELECT jobid, batchid FROM batch_member FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids)

-- name: member_page (batchid, jobid, limit) -> rows
-- The next members of a batch that have not ended, in the order of their ids.
SELECT jobid FROM batch_member FORCE INDEX (batch_member_batch) WHERE batchid = :batchid AND jobid > :jobid ORDER BY jobid LIMIT :limit

-- name: leave_batches (jobids) -> count
-- Removes members that have ended.
DELETE batch_member FROM batch_member FORCE INDEX (PRIMARY) WHERE jobid IN (:*jobids)

-- name: count_in (batchid, count) -> count
-- Counts new members of a batch that has not ended.
UPDATE batch SET members = members + :count, pending = pending + :count WHERE batchid = :batchid AND completed_at = 0

-- name: count_out (batchid, count, failed) -> none
-- Counts members that have ended; `failed` of them are dead.
UPDATE batch SET pending = pending - :count, failed = failed + :failed WHERE batchid = :batchid

-- name: seal (batchid) -> count
-- Lets a batch end with its last member.
UPDATE batch SET sealed = 1 WHERE batchid = :batchid AND completed_at = 0

-- name: end_batch (batchid) -> none
-- Notes that a batch has ended.
UPDATE batch SET completed_at = UNIX_TIMESTAMP() WHERE batchid = :batchid

-- name: forget_batches (age, limit) -> count
-- Deletes batches that ended long ago.
DELETE FROM batch WHERE completed_at > 0 AND completed_at < UNIX_TIMESTAMP() - :age ORDER BY completed_at LIMIT :limit
