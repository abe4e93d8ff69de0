-- Statements for SQLite 3.35 and newer. `store/sql_files.py` describes the form of this file.
--
-- The clock is the database's: strftime('%s', 'now') is the unix time in whole seconds, the same throughout a
-- statement. A lease ends at now + lease + 1 because times are whole seconds and round down. 2147483647 is "never".
-- Claims exclude it, so that a row parked by the original's clients does not start in 2038. Later times are ordinary
-- times. Arguments are read with CAST(arg AS BLOB), because another program may have stored text that is not UTF-8.
--
-- A lease ends at `run_after`, and `lease_end` repeats it. `store/effective_state.py` describes what it means if they
-- differ, and has the conditions in braces. A delay counts from the next whole second, so it is never too short. (This
-- clock has milliseconds, and julianday may be wrong by half a millisecond, so adding 0.9995 and truncating rounds up.)

-- name: clock () -> one
-- The unix time with its fraction.
SELECT (julianday('now') - 2440587.5) * 86400.0

-- name: schema () -> rows
-- The revision that Alembic has recorded.
SELECT version_num FROM garivini_version

-- name: dbid () -> rows
-- The id of this database.
SELECT dbid FROM garivini_database

-- name: set_dbid (dbid) -> none
-- Stores the id of this database once, by the first process that uses it.
INSERT INTO garivini_database (dbid) SELECT :dbid WHERE NOT EXISTS (SELECT 1 FROM garivini_database)

-- name: ids_left () -> one
-- The number of ids that are left for new jobs.
SELECT 9223372036854775807 - coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'job'

-- name: folds () -> one
-- Whether the table treats names as equal that differ in their bytes: never here.
SELECT 0

-- name: insert (funcname, coalesce, arg, flag, priority, delay, leased) -> rows
-- Inserts jobs without a unique key. Ids rise in the order of the rows, so sorted ids match them. If `leased` is 1, a
-- row is leased for its first attempt until its delay is over; if it is 0, the row waits until then.
INSERT INTO job (funcname, "coalesce", arg, flag, priority, run_after, created, attempt, state, since, lease_end)
VALUES
  (:funcname, :coalesce, :arg, :flag, :priority, CASE WHEN :leased OR :delay = 0 THEN strftime('%s', 'now') ELSE CAST((julianday('now') - 2440587.5) * 86400.0 + 0.9995 AS INTEGER) END + :delay, strftime('%s', 'now') + 0, :leased, :leased, strftime('%s', 'now') * :leased, (strftime('%s', 'now') + :delay) * :leased) -- each
RETURNING jobid, created

-- name: times () -> rows
-- The unix time, rounded down and rounded up.
SELECT strftime('%s', 'now') + 0, CAST((julianday('now') - 2440587.5) * 86400.0 + 0.9995 AS INTEGER)

-- name: insert_many (funcname, coalesce, arg, flag, priority, due, now, leased, since, lease_end) -> id
-- Inserts many jobs without a unique key. Their ids are consecutive; the result is the last. The caller has just read
-- the time, because numbers without RETURNING take a third less time than expressions for each row.
INSERT INTO job (funcname, "coalesce", arg, flag, priority, run_after, created, attempt, state, since, lease_end)
VALUES
  (:funcname, :coalesce, :arg, :flag, :priority, :due, :now, :leased, :leased, :since, :lease_end) -- each

-- name: insert_keyed (funcname, uniqkey, coalesce, arg, flag, priority, delay, leased) -> rows
-- Inserts jobs with a unique key. Only a conflict of that key is ignored; the rows returned are new.
INSERT INTO job (funcname, uniqkey, "coalesce", arg, flag, priority, run_after, created, attempt, state, since, lease_end)
VALUES
  (:funcname, :uniqkey, :coalesce, :arg, :flag, :priority, CASE WHEN :leased OR :delay = 0 THEN strftime('%s', 'now') ELSE CAST((julianday('now') - 2440587.5) * 86400.0 + 0.9995 AS INTEGER) END + :delay, strftime('%s', 'now') + 0, :leased, :leased, strftime('%s', 'now') * :leased, (strftime('%s', 'now') + :delay) * :leased) -- each
ON CONFLICT (funcname, uniqkey) WHERE uniqkey IS NOT NULL DO NOTHING
RETURNING jobid, created, funcname, uniqkey

-- name: insert_wide (funcname, coalesce, partition, headers, arg, flag, priority, delay, leased) -> rows
-- As `insert`, for jobs with a partition or headers. This is a separate statement, so that other jobs need not have the columns.
INSERT INTO job (funcname, "coalesce", "partition", headers, arg, flag, priority, run_after, created, attempt, state, since, lease_end)
VALUES
  (:funcname, :coalesce, :partition, :headers, :arg, :flag, :priority, CASE WHEN :leased OR :delay = 0 THEN strftime('%s', 'now') ELSE CAST((julianday('now') - 2440587.5) * 86400.0 + 0.9995 AS INTEGER) END + :delay, strftime('%s', 'now') + 0, :leased, :leased, strftime('%s', 'now') * :leased, (strftime('%s', 'now') + :delay) * :leased) -- each
RETURNING jobid, created

-- name: insert_keyed_wide (funcname, uniqkey, coalesce, partition, headers, arg, flag, priority, delay, leased) -> rows
-- As `insert_keyed`, for jobs with a partition or headers.
INSERT INTO job (funcname, uniqkey, "coalesce", "partition", headers, arg, flag, priority, run_after, created, attempt, state, since, lease_end)
VALUES
  (:funcname, :uniqkey, :coalesce, :partition, :headers, :arg, :flag, :priority, CASE WHEN :leased OR :delay = 0 THEN strftime('%s', 'now') ELSE CAST((julianday('now') - 2440587.5) * 86400.0 + 0.9995 AS INTEGER) END + :delay, strftime('%s', 'now') + 0, :leased, :leased, strftime('%s', 'now') * :leased, (strftime('%s', 'now') + :delay) * :leased) -- each
ON CONFLICT (funcname, uniqkey) WHERE uniqkey IS NOT NULL DO NOTHING
RETURNING jobid, created, funcname, uniqkey

-- name: live (funcname, uniqkey) -> one
-- The job that has a unique key. One index dive per key: a list of pairs would read the whole table.
SELECT jobid FROM job WHERE funcname = :funcname AND uniqkey = :uniqkey

-- name: states (jobids) -> rows
-- The states of the given jobs, read without a lock: a row locked by another transaction must not delay an insert whose
-- key exists. A caller's older snapshot may not include a job.
SELECT jobid, {effective_state}
  FROM job WHERE jobid IN (:*jobids)

-- name: lanes () -> rows
-- All lanes that hold a job in a state below dead, each with the time at which its first job is due, and the time now
-- with its fraction. This is a loose index scan: one dive per function and twelve for its lanes (from 2038 on, a second
-- dive per empty lane), whatever the backlog. It needs no statistics.
WITH RECURSIVE
  func (name) AS (
    SELECT min(funcname) FROM job
    UNION ALL
    SELECT (SELECT min(job.funcname) FROM job WHERE job.funcname > func.name) FROM func WHERE func.name IS NOT NULL
  ),
  state (state) AS (VALUES (0), (1), (2), (3)),
  priority (priority) AS (VALUES (0), (1), (2)),
  lane (funcname, state, priority, due) AS (
    SELECT func.name, state.state, priority.priority,
           coalesce(
             (SELECT min(job.run_after) FROM job INDEXED BY job_lane
               WHERE job.funcname = func.name AND job.state = state.state AND job.priority = priority.priority
                 AND job.run_after < 2147483647),
             CASE WHEN strftime('%s', 'now') + 0 > 2147483647 THEN
               (SELECT min(job.run_after) FROM job INDEXED BY job_lane
                 WHERE job.funcname = func.name AND job.state = state.state AND job.priority = priority.priority
                   AND job.run_after > 2147483647)
             END)
      FROM func, state, priority WHERE func.name IS NOT NULL
  )
SELECT funcname, state, priority, due, (julianday('now') - 2440587.5) * 86400.0 FROM lane WHERE due IS NOT NULL
 ORDER BY priority, due

-- name: due (funcname, priority, limit, small) -> rows
-- The first jobs of a lane that a claim may take, with their arguments (NULL for an argument of more than `small`
-- bytes), the time now, and the time of each insert.
SELECT jobid, run_after, CASE WHEN length(arg) > :small THEN NULL ELSE coalesce(CAST(arg AS BLOB), x'') END, uniqkey,
       "coalesce", flag, failcount, attempt, strftime('%s', 'now') + 0, created, expires, "partition", headers
  FROM job INDEXED BY job_lane
 WHERE funcname = :funcname AND state = 0 AND priority = :priority
   AND run_after <= strftime('%s', 'now') + 0 AND run_after <> 2147483647
 ORDER BY run_after LIMIT :limit

-- name: named (funcname, limit) -> rows
-- Jobs to park, because their function's name is a blob, or text that is not UTF-8. The name is given as bytes.
SELECT jobid FROM job INDEXED BY job_lane
 WHERE funcname IN (:funcname, CAST(:funcname AS TEXT)) AND state < 4 LIMIT :limit

-- name: sizes (jobids) -> rows
-- The sizes in bytes of the arguments of the given jobs.
SELECT jobid, length(arg) FROM job WHERE jobid IN (:*jobids)

-- name: args (jobids) -> rows
-- The arguments of the given jobs.
SELECT jobid, CAST(arg AS BLOB) FROM job WHERE jobid IN (:*jobids)

-- name: identities (jobids) -> rows
-- The values that distinguish a job from another one that got the same id: see `store/incarnations.py`.
SELECT jobid, attempt, created, funcname, uniqkey FROM job WHERE jobid IN (:*jobids)

-- name: claim (jobids, now, lease_end) -> none
-- Writes a claim, in the transaction that read the rows as due, with the time of that read.
UPDATE job SET attempt = attempt + 1, state = 1, since = :now, run_after = :lease_end, lease_end = :lease_end
 WHERE jobid IN (:*jobids)

-- name: expired (funcname, state, priority, limit) -> rows
-- Expired leases of a lane, and for each whether another program has put the row off.
SELECT jobid, attempt, flag, crashes, since, strftime('%s', 'now') - since, {put_off},
       funcname, bundle
  FROM job INDEXED BY job_lane
 WHERE funcname = :funcname AND state = :state AND priority = :priority
   AND run_after <= strftime('%s', 'now') + 0 AND run_after <> 2147483647
 ORDER BY run_after LIMIT :limit

-- name: requeue (jobids) -> none
-- Sets rows that were put off and are due now to waiting, so that they are claimed like any other row.
UPDATE job SET state = 0, lease_end = 0
 WHERE jobid IN (:*jobids) AND state IN (1, 2, 3) AND {put_off}
   AND run_after <= strftime('%s', 'now') + 0

-- name: extend (jobid, attempt, state, new_state, seconds, queued) -> none
-- Extends an expired lease, if nothing has changed since it was read. If `queued` is 1, a Gearman server has the job
-- queued, so the time without a start counts from now.
UPDATE job
   SET state = :new_state, run_after = strftime('%s', 'now') + :seconds, lease_end = strftime('%s', 'now') + :seconds,
       since = CASE WHEN :queued THEN strftime('%s', 'now') + 0 ELSE since END
 WHERE jobid = :jobid AND attempt = :attempt AND state = :state
   AND run_after <= strftime('%s', 'now') + 0 AND {held}

-- name: reclaim (jobid, attempt, state, lease, crashed) -> rows
-- Writes the claim of the next attempt, after a lease has expired for good.
UPDATE job
   SET attempt = attempt + 1, state = 1, since = strftime('%s', 'now') + 0, crashes = crashes + :crashed,
       run_after = strftime('%s', 'now') + :lease + 1, lease_end = strftime('%s', 'now') + :lease + 1
 WHERE jobid = :jobid AND attempt = :attempt AND state = :state
   AND run_after <= strftime('%s', 'now') + 0 AND {held}
RETURNING jobid, funcname, CAST(arg AS BLOB), uniqkey, "coalesce", run_after, flag, failcount, attempt, priority, state,
          since, crashes, created, runs, "partition", headers

-- name: release (jobid, attempt, run_after) -> none
-- Sets a claimed job that was not submitted back to waiting, due when it was before.
UPDATE job SET state = 0, run_after = :run_after, lease_end = 0
 WHERE jobid = :jobid AND attempt = :attempt AND state = 1 AND {held}

-- name: end_early (jobids, attempt, lease) -> none
-- Ends the lease of a job that may not have reached a server, unless the lease has been renewed meanwhile.
UPDATE job SET run_after = strftime('%s', 'now') + 0, lease_end = strftime('%s', 'now') + 0
 WHERE jobid IN (:*jobids) AND attempt = :attempt AND state = 1
   AND run_after <= strftime('%s', 'now') + :lease + 2 AND {held}

-- name: renew (jobids, attempt, lease) -> none
-- Renews a lease. A job that ended, that another attempt holds or that another program has put off is not touched.
UPDATE job SET state = 2, run_after = strftime('%s', 'now') + :lease + 1, lease_end = strftime('%s', 'now') + :lease + 1
 WHERE jobid IN (:*jobids) AND attempt = :attempt AND state IN (1, 2, 3) AND {held}

-- name: mine (jobids, attempt) -> rows
-- The given jobs that this attempt holds. This decides after a renewal: a count of changed rows differs in meaning
-- between databases.
SELECT jobid FROM job
 WHERE jobid IN (:*jobids) AND attempt = :attempt AND state IN (1, 2, 3) AND {held}

-- name: present (jobids) -> rows
-- The given jobs that exist.
SELECT jobid FROM job WHERE jobid IN (:*jobids)

-- name: lockable (jobids) -> rows
-- Locks the given rows that no other transaction has locked, and returns them.
SELECT jobid FROM job WHERE jobid IN (:*jobids)

-- name: known (jobids) -> rows
-- The given rows that exist, whether or not another transaction has locked them.
SELECT jobid FROM job WHERE jobid IN (:*jobids)

-- name: complete (jobids) -> count
-- Deletes jobs that succeeded, by id alone: finished work is finished, whichever attempt did it.
DELETE FROM job WHERE jobid IN (:*jobids)

-- name: complete_one (jobid) -> count
-- As `complete`, for one row that this transaction has locked.
DELETE FROM job WHERE jobid = :jobid

-- name: complete_range (first, last) -> count
-- As `complete`, for consecutive ids. This is a fifth less of the server's work than a lookup per id.
DELETE FROM job WHERE jobid BETWEEN :first AND :last

-- name: any_records (first, last) -> rows
-- Whether any job from the first id to the last has records or a successor, or is a member of a batch. Usually none has, and one range scan costs
-- less than a lookup per id.
SELECT EXISTS (SELECT 1 FROM failure WHERE jobid BETWEEN :first AND :last)
    OR EXISTS (SELECT 1 FROM report WHERE jobid BETWEEN :first AND :last)
    OR EXISTS (SELECT 1 FROM successor WHERE jobid BETWEEN :first AND :last)
    OR EXISTS (SELECT 1 FROM batch_member WHERE jobid BETWEEN :first AND :last)

-- name: with_records (jobids) -> rows
-- The given jobs that have records (rows of `failure` or `report`), each with 0, those that have a successor, each
-- with 1, and those that are members of a batch, each with 2.
SELECT jobid, 0 FROM failure WHERE jobid IN (:*jobids)
UNION SELECT jobid, 0 FROM report WHERE jobid IN (:*jobids)
UNION SELECT jobid, 1 FROM successor WHERE jobid IN (:*jobids)
UNION SELECT jobid, 2 FROM batch_member WHERE jobid IN (:*jobids)

-- name: records (jobids) -> rows
-- The job of each record of the given jobs, once per record, whether or not another transaction has locked the record.
SELECT jobid FROM failure WHERE jobid IN (:*jobids)
UNION ALL SELECT jobid FROM report WHERE jobid IN (:*jobids)

-- name: lockable_records (jobids) -> rows
-- Returns the job of each record of the given jobs. No other transaction can have locked a record, because this one has
-- locked the whole database.
SELECT jobid FROM failure WHERE jobid IN (:*jobids)
UNION ALL SELECT jobid FROM report WHERE jobid IN (:*jobids)

-- name: forget_failures (jobids) -> none
-- Deletes the failure records of jobs that are deleted.
DELETE FROM failure WHERE jobid IN (:*jobids)

-- name: forget_reports (jobids) -> none
-- Deletes the reports of jobs that are deleted.
DELETE FROM report WHERE jobid IN (:*jobids)

-- name: held (jobids, attempt) -> rows
-- The given jobs that this attempt holds.
SELECT jobid FROM job WHERE jobid IN (:*jobids) AND attempt = :attempt AND state IN (1, 2, 3) AND {held}

-- name: set_status (jobid, attempt, body) -> none
-- The progress of an attempt: one row, which is overwritten.
INSERT INTO report (jobid, attempt, number, kind, reported_at, body)
VALUES (:jobid, :attempt, 0, 'status', strftime('%s', 'now') + 0, :body)
ON CONFLICT (jobid, attempt, number) DO UPDATE SET reported_at = excluded.reported_at, body = excluded.body

-- name: add_line (jobid, attempt, kind, body, limit) -> none
-- Adds a line to the report of an attempt, unless it has `limit` lines already.
INSERT INTO report (jobid, attempt, number, kind, reported_at, body)
SELECT :jobid, :attempt, last + 1, :kind, strftime('%s', 'now') + 0, :body
  FROM (SELECT COALESCE(MAX(number), 0) AS last FROM report
         WHERE jobid = :jobid AND attempt = :attempt) AS said
 WHERE last < :limit

-- name: reports (jobid) -> rows
-- The reports of a job, oldest attempt first.
SELECT attempt, kind, reported_at, body FROM report WHERE jobid = :jobid ORDER BY attempt, number

-- name: retention (jobid) -> rows
-- How long the function of a job keeps it after success.
SELECT (SELECT retention FROM function WHERE function.funcname = job.funcname) FROM job WHERE jobid = :jobid

-- name: keep (jobid, attempt, worker, result, retention, ran) -> none
-- Keeps a job that succeeded, in the transaction that deletes its row. An id is used once.
INSERT INTO finished (jobid, funcname, uniqkey, attempt, failcount, created, finished_at, expires, worker, result,
       seconds)
SELECT jobid, funcname, uniqkey, :attempt, failcount, created, strftime('%s', 'now') + 0,
       strftime('%s', 'now') + :retention, :worker, :result, :ran
  FROM job WHERE jobid = :jobid
ON CONFLICT (jobid) DO NOTHING

-- name: finished (jobid) -> rows
-- A kept job.
SELECT jobid, funcname, uniqkey, attempt, failcount, created, finished_at, expires, worker, result, seconds
  FROM finished WHERE jobid = :jobid

-- name: kept_jobs (after, limit) -> rows
-- Kept jobs in the order of their ids, with the columns of `finished`, but without their results.
SELECT jobid, funcname, uniqkey, attempt, failcount, created, finished_at, expires, worker, NULL, seconds
  FROM finished WHERE jobid > :after ORDER BY jobid LIMIT :limit

-- name: outlived (limit) -> rows
-- Kept jobs whose retention is over.
SELECT jobid FROM finished WHERE expires <= strftime('%s', 'now') + 0
 ORDER BY expires LIMIT :limit

-- name: forget_finished (jobids) -> none
-- Deletes kept jobs.
DELETE FROM finished WHERE jobid IN (:*jobids)

-- name: failed (after, limit) -> rows
-- The jobs of failure records after an id, each as often as it has records.
SELECT jobid FROM failure WHERE jobid > :after ORDER BY jobid LIMIT :limit

-- name: dead (jobids) -> rows
-- The given jobs that are dead, and how many seconds ago each died, which is the age of its newest record. A job that
-- another program has parked by `run_after` alone is not among them. A job that a drain is moving counts as younger
-- than any.
SELECT jobid, funcname, strftime('%s', 'now') - (
         SELECT MAX(CASE WHEN kind = 'moved' THEN 2147483647 ELSE failed_at END) FROM failure WHERE failure.jobid = job.jobid)
  FROM job WHERE jobid IN (:*jobids) AND state = 4 AND run_after = 2147483647

-- name: standing (jobids) -> rows
-- The rows of jobs before their setbacks. The last columns are whether the job has a successor, whether it is a member
-- of a batch, and whether the attempt in the row holds the job.
SELECT jobid, attempt, state, failcount, crashes,
       (SELECT max_failures FROM function WHERE function.funcname = job.funcname),
       (SELECT retry FROM function WHERE function.funcname = job.funcname),
       has_successor, EXISTS (SELECT 1 FROM batch_member WHERE batch_member.jobid = job.jobid), {effective_state} IN (1, 2, 3)
  FROM job WHERE jobid IN (:*jobids)

-- name: put_back (jobid, attempt, state, failcount, delay) -> none
-- Ends an attempt without success: the job waits for this many seconds.
UPDATE job SET state = 0, failcount = :failcount, lease_end = 0,
       run_after = CASE WHEN :delay = 0 THEN strftime('%s', 'now') ELSE CAST((julianday('now') - 2440587.5) * 86400.0 + 0.9995 AS INTEGER) END + :delay
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
VALUES (:jobid, :attempt, strftime('%s', 'now') + 0, :kind, :error, :message, :trace, :worker)
ON CONFLICT (jobid, attempt, kind) DO UPDATE
   SET failed_at = excluded.failed_at, error = excluded.error, message = excluded.message, trace = excluded.trace,
       worker = excluded.worker

-- name: record_keys (jobid) -> rows
-- The failure records of a job without their texts, except the number in the row that counts omitted records.
SELECT attempt, kind, CASE WHEN kind = 'omitted' THEN message END FROM failure WHERE jobid = :jobid ORDER BY attempt, kind

-- name: omit_failures (jobid, after, before) -> count
-- Deletes the failure records of a job between two attempts.
DELETE FROM failure WHERE jobid = :jobid AND attempt > :after AND attempt < :before

-- name: count_run (jobid, attempt) -> rows
-- Counts a start whose function has read `job.run`.
UPDATE job SET runs = runs + 1
 WHERE jobid = :jobid AND attempt = :attempt AND state IN (1, 2, 3) AND {held}
RETURNING runs

-- name: recorded (jobid, attempt) -> rows
-- Whether this attempt has reported its end already. A record of the death of a process does not count as such a
-- report.
SELECT kind FROM failure WHERE jobid = :jobid AND attempt = :attempt AND kind NOT IN ('crashed', 'omitted')

-- name: failures (jobid) -> rows
-- The failure records of a job, oldest first.
SELECT attempt, failed_at, kind, error, message, trace, worker FROM failure WHERE jobid = :jobid ORDER BY attempt

-- name: failure_texts (after, size, limit) -> rows
-- The failure records of jobs after an id, with the first characters of each message.
SELECT jobid, failed_at, kind, error, substr(message, 1, :size) FROM failure
 WHERE jobid > :after ORDER BY jobid LIMIT :limit

-- name: funcnames (jobids) -> rows
-- The functions of the given jobs.
SELECT jobid, funcname FROM job WHERE jobid IN (:*jobids)

-- name: kept_funcnames (jobids) -> rows
-- The functions of the given kept jobs.
SELECT jobid, funcname FROM finished WHERE jobid IN (:*jobids)

-- name: get (jobid) -> rows
-- One job with its effective state: a job that another program has put off is waiting, or is dead if it was put off
-- until "never".
SELECT jobid, funcname, CAST(arg AS BLOB), uniqkey, "coalesce", run_after, flag, failcount, attempt, priority,
       {effective_state},
       since, crashes, created, runs, "partition", headers
  FROM job WHERE jobid = :jobid

-- name: newest () -> rows
-- The greatest id of a job.
SELECT jobid FROM job ORDER BY jobid DESC LIMIT 1

-- name: match (funcname, state, failed, uniqkey, partition, error, error_text, arg_text, created_from, created_before, due_from, due_before, after, until, limit) -> rows
-- The next jobs by id, each with its effective state if it matches and NULL if not. The conditions are not in the WHERE
-- clause, so the statement reads the next `limit` rows and no others, however many of them match. instr of two blobs
-- compares bytes.
SELECT jobid,
       CASE WHEN (:funcname IS NULL OR funcname = :funcname)
             AND (:state IS NULL OR {effective_state} = :state)
             AND (NOT :failed OR failcount > 0 OR crashes > 0 OR {effective_state} = 4)
             AND (:uniqkey IS NULL OR uniqkey = :uniqkey)
             AND (:partition IS NULL OR "partition" = :partition)
             AND (:created_from IS NULL OR created > 0 AND created >= :created_from)
             AND (:created_before IS NULL OR created > 0 AND created < :created_before)
             AND (:due_from IS NULL OR run_after <> 2147483647 AND run_after >= :due_from)
             AND (:due_before IS NULL OR run_after <> 2147483647 AND run_after < :due_before)
             AND (:arg_text IS NULL OR instr(CAST(arg AS BLOB), :arg_text) > 0)
             AND (:error IS NULL AND :error_text IS NULL OR (
                  SELECT max((:error IS NULL OR error = :error)
                         AND (:error_text IS NULL OR instr(CAST(message AS BLOB), CAST(:error_text AS BLOB)) > 0))
                    FROM failure
                   WHERE failure.jobid = job.jobid
                     AND failure.attempt = (SELECT latest.attempt FROM failure AS latest
                                             WHERE latest.jobid = job.jobid ORDER BY latest.attempt DESC LIMIT 1)))
            THEN {effective_state} END
  FROM job WHERE jobid > :after AND jobid <= :until ORDER BY jobid LIMIT :limit

-- name: jobs (jobids) -> rows
-- The given jobs in the order of their ids, each as `get` returns it.
SELECT jobid, funcname, CAST(arg AS BLOB), uniqkey, "coalesce", run_after, flag, failcount, attempt, priority,
       {effective_state},
       since, crashes, created, runs, "partition", headers
  FROM job WHERE jobid IN (:*jobids) ORDER BY jobid

-- name: lock_states (jobids) -> rows
-- Locks the given rows that no other transaction has locked, and returns them with their effective states and whether
-- each has a successor.
SELECT jobid, attempt, {effective_state}, has_successor FROM job WHERE jobid IN (:*jobids)

-- name: record_ends (jobids, kind, message) -> none
-- Inserts the failure records of jobs that an operator ends together.
INSERT INTO failure (jobid, attempt, failed_at, kind, error, message, trace, worker)
SELECT jobid, attempt, strftime('%s', 'now') + 0, :kind, '', :message, '', '' FROM job WHERE jobid IN (:*jobids)
ON CONFLICT (jobid, attempt, kind) DO UPDATE SET failed_at = excluded.failed_at, message = excluded.message

-- name: put_all_back (jobids, delay) -> none
-- Sets jobs that nobody holds to wait for this many seconds.
UPDATE job SET state = 0, lease_end = 0,
       run_after = CASE WHEN :delay = 0 THEN strftime('%s', 'now') ELSE CAST((julianday('now') - 2440587.5) * 86400.0 + 0.9995 AS INTEGER) END + :delay
 WHERE jobid IN (:*jobids)

-- name: put_all_at (jobids, run_after) -> none
-- As `put_all_back`, but the jobs wait until a unix time. If that time is "never", the new state is dead.
UPDATE job SET state = CASE WHEN :run_after = 2147483647 THEN 4 ELSE 0 END, run_after = :run_after, lease_end = 0
 WHERE jobid IN (:*jobids)

-- name: set_priority (jobids, priority) -> none
-- Moves jobs that nobody holds to the lane of another priority.
UPDATE job SET priority = :priority WHERE jobid IN (:*jobids)

-- name: retry (jobids) -> none
-- An operator makes jobs due now, with their failures forgiven. A leased or running job is not touched.
UPDATE job SET state = 0, failcount = 0, crashes = 0, run_after = strftime('%s', 'now') + 0, lease_end = 0
 WHERE jobid IN (:*jobids) AND {effective_state} IN (0, 4)

-- name: counts () -> rows
-- The number of jobs of each function and state, and how many of them never run. This reads the whole lane index, so it
-- is for operators, and not for a pass.
SELECT funcname, state, count(*), min(run_after), sum(run_after = 2147483647)
  FROM job GROUP BY funcname, state ORDER BY funcname, state

-- name: count_put_off (funcnames) -> rows
-- The number of leased jobs of the given functions that another program has put off.
SELECT funcname, state, count(*), min(run_after) FROM job INDEXED BY job_lane
 WHERE funcname IN (:*funcnames) AND state IN (1, 2, 3) AND {put_off}
 GROUP BY funcname, state

-- name: waiting () -> rows
-- The numbers of waiting jobs that are due, delayed, and backed off after a failure. The lane index is enough to count
-- the due ones. Delayed and backed-off jobs are distinguished by failcount, for which their rows are read.
SELECT (SELECT count(*) FROM job WHERE state = 0 AND run_after <= t.now AND run_after <> 2147483647),
       (SELECT count(*) FROM job WHERE state = 0 AND run_after > t.now AND run_after <> 2147483647 AND failcount = 0),
       (SELECT count(*) FROM job WHERE state = 0 AND run_after > t.now AND run_after <> 2147483647 AND failcount > 0)
  FROM (SELECT strftime('%s', 'now') + 0 AS now) AS t

-- name: facts () -> rows
-- Settings of the database that decide whether a job can be lost.
SELECT 'version', sqlite_version() UNION ALL SELECT 'journal_mode', journal_mode FROM pragma_journal_mode

-- name: functions () -> rows
-- The settings that apply to each function, and the time until which it is paused.
SELECT funcname, lease, deadline, renews, envelope, max_failures, retention, max_running, retry, timeout,
       dead_retention, rate, burst, unique_scope, unique_window, on_duplicate, max_delay, expires, partition_max_running, partition_rate, partition_burst, fair, cancel_grace,
       coalesce_max, coalesce_wait,
       CASE WHEN paused_until > strftime('%s', 'now') + 0 THEN paused_until END
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
SELECT funcname, declared FROM function WHERE funcname IN (:*funcnames)

-- name: lock_settings (funcnames) -> rows
-- The settings of the given functions, as `settings` returns them.
SELECT funcname, lease, deadline, renews, envelope, max_failures, retention, max_running, retry, timeout,
       dead_retention, rate, burst, unique_scope, unique_window, on_duplicate, max_delay, expires,
       partition_max_running, partition_rate, partition_burst, fair, cancel_grace,
       coalesce_max, coalesce_wait,
       declared, override
  FROM function WHERE funcname IN (:*funcnames) ORDER BY funcname

-- name: create_functions (funcname) -> none
-- Creates rows for functions that have none yet, so that the rows can be locked.
INSERT INTO function (funcname)
VALUES
  (:funcname) -- each
ON CONFLICT (funcname) DO NOTHING

-- name: write_settings (funcname, lease, deadline, renews, envelope, max_failures, retention, max_running, retry, timeout, dead_retention, rate, burst, unique_scope, unique_window, on_duplicate, max_delay, expires, partition_max_running, partition_rate, partition_burst, fair, cancel_grace, coalesce_max, coalesce_wait, declared, override) -> none
-- Writes all settings of functions.
INSERT INTO function (funcname, lease, deadline, renews, envelope, max_failures, retention, max_running, retry, timeout,
       dead_retention, rate, burst, unique_scope, unique_window, on_duplicate, max_delay, expires,
       partition_max_running, partition_rate, partition_burst, fair, cancel_grace,
       coalesce_max, coalesce_wait, declared, override)
VALUES
  (:funcname, :lease, :deadline, :renews, :envelope, :max_failures, :retention, :max_running, :retry, :timeout, :dead_retention, :rate, :burst, :unique_scope, :unique_window, :on_duplicate, :max_delay, :expires, :partition_max_running, :partition_rate, :partition_burst, :fair, :cancel_grace, :coalesce_max, :coalesce_wait, :declared, :override) -- each
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
-- Jobs whose copies came without an attempt and that nobody runs.
SELECT jobid FROM job WHERE jobid IN (:*jobids) AND state IN (0, 1) AND run_after <> 2147483647

-- name: adopt (jobids, lease) -> rows
-- Gives an attempt to the copies of the jobs that `adoptable` has found, which the original's QueueRunner has leased by
-- `run_after` alone. The arguments of the jobs are not read.
UPDATE job
   SET attempt = attempt + 1, state = 2, since = strftime('%s', 'now') + 0,
       run_after = strftime('%s', 'now') + :lease + 1, lease_end = strftime('%s', 'now') + :lease + 1
 WHERE jobid IN (:*jobids)
RETURNING jobid, funcname, NULL, uniqkey, "coalesce", run_after, flag, failcount, attempt, priority, state,
          since, crashes, created, runs, "partition", headers

-- name: unset_function (funcname) -> none
-- Deletes the row of a function without settings, so that the defaults apply, unless it is paused or marked.
DELETE FROM function
 WHERE funcname = :funcname AND (paused_until IS NULL OR paused_until <= strftime('%s', 'now') + 0)
   AND (checked_until IS NULL OR checked_until <= strftime('%s', 'now') + 0)

-- name: mark_function (jobid, lease) -> none
-- Marks the function of a job that is being cancelled, until the leases of its copies have ended.
INSERT INTO function (funcname, cancels, checked_until)
SELECT funcname, 1, max(run_after, strftime('%s', 'now') + 0 + max(:lease, (SELECT coalesce(max(lease), 0) FROM function WHERE function.funcname = job.funcname))) + 1
  FROM job WHERE jobid = :jobid
ON CONFLICT (funcname) DO UPDATE
   SET cancels = function.cancels + 1, checked_until = max(coalesce(function.checked_until, 0), excluded.checked_until)

-- name: marks () -> rows
-- The functions whose copies are checked before their start, and how often jobs of them were cancelled.
SELECT funcname, cancels FROM function WHERE checked_until > strftime('%s', 'now') + 0

-- name: cancelled (jobids, attempt) -> rows
-- The given jobs that are dead and have had no later attempt.
SELECT jobid FROM job WHERE jobid IN (:*jobids) AND attempt = :attempt AND {effective_state} = 4

-- name: pause (funcname, paused_until) -> none
-- Pauses a function, whose row exists, until a time. NULL ends the pause.
UPDATE function SET paused_until = :paused_until WHERE funcname = :funcname

-- name: mark_paused (funcname, lease) -> none
-- Marks a function, whose row exists, until the leases of its copies have ended.
UPDATE function
   SET cancels = cancels + 1,
       checked_until = max(coalesce(checked_until, 0), strftime('%s', 'now') + max(:lease, coalesce(lease, 0)) + 1)
 WHERE funcname = :funcname

-- name: unstarted (funcname, priority, limit) -> rows
-- The jobs of a lane that were claimed and whose leases have not been renewed.
SELECT jobid
  FROM job INDEXED BY job_lane
 WHERE funcname = :funcname AND state = 1 AND priority = :priority AND {held}
 ORDER BY run_after LIMIT :limit

-- name: take_back (jobids) -> none
-- Sets claimed jobs back to waiting, due since their claim.
UPDATE job SET state = 0, run_after = since, lease_end = 0 WHERE jobid IN (:*jobids)

-- name: paused (funcname) -> rows
-- The time until which a function is paused. No row: it is not paused.
SELECT paused_until FROM function WHERE funcname = :funcname AND paused_until > strftime('%s', 'now') + 0

-- name: dispatched (funcname, priority, age, since, after, limit) -> rows
-- Leased jobs of a lane that no worker has started and whose leases have not expired. The youngest are omitted, because
-- they may not have been submitted yet. The rows are read in pages, in the order in which their leases end.
SELECT jobid, attempt, run_after, bundle FROM job INDEXED BY job_lane
 WHERE funcname = :funcname AND state = 1 AND priority = :priority
   AND run_after > strftime('%s', 'now') + 0 AND run_after >= :after
   AND since <= strftime('%s', 'now') - :age AND since > :since AND {held}
 ORDER BY run_after LIMIT :limit

-- name: leased (funcname, lease, limit) -> one
-- The number of jobs of a function in Gearman that no worker has started, up to a limit. A row whose `run_after` is
-- later than the end of any lease was put off by another program, which the index alone shows.
SELECT count(*) FROM (
  SELECT 1 FROM job INDEXED BY job_lane
   WHERE funcname = :funcname AND state = 1 AND run_after <= strftime('%s', 'now') + :lease + 2 LIMIT :limit)

-- name: lock_function (funcname) -> rows
-- The rules of a function, whether it is paused, and the time now with its fraction. The transaction has locked the
-- whole database, so claims take turns. No row: the function has no settings.
SELECT max_running, coalesce(paused_until > strftime('%s', 'now') + 0, 0), rate, burst, rate_used_until,
       (julianday('now') - 2440587.5) * 86400.0,
       partition_max_running, partition_rate, partition_burst, fair, coalesce_max, coalesce_wait
  FROM function WHERE funcname = :funcname

-- name: use_rate (funcname, used_until) -> none
-- Stores the time up to which the rate of a function is used, in the transaction that has locked its row.
UPDATE function SET rate_used_until = :used_until WHERE funcname = :funcname

-- name: in_flight (funcname, limit) -> one
-- The number of jobs of a function that an attempt holds, up to a limit.
SELECT count(*) FROM (
  SELECT 1 FROM job INDEXED BY job_lane
   WHERE funcname = :funcname AND state IN (1, 2, 3) AND {held} LIMIT :limit)

-- name: lane_page (funcname, priority, after, after_jobid, limit) -> rows
-- The next due jobs of a lane in the order of due times and ids, and whether each has a row in `turn`: 1 or NULL. The
-- first part reads jobs with the due time that was read last, and has only the conditions of an index scan.
SELECT lane.jobid, lane.run_after,
       (SELECT 1 FROM turn WHERE turn.jobid = lane.jobid AND turn.priority = :priority)
  FROM (
        SELECT * FROM (SELECT jobid, run_after FROM job INDEXED BY job_lane
         WHERE funcname = :funcname AND state = 0 AND priority = :priority AND run_after = :after
           AND jobid > :after_jobid
         ORDER BY jobid LIMIT :limit)
        UNION ALL
        SELECT * FROM (SELECT jobid, run_after FROM job INDEXED BY job_lane
         WHERE funcname = :funcname AND state = 0 AND priority = :priority AND run_after > :after
           AND run_after <= strftime('%s', 'now') + 0 AND run_after <> 2147483647
         ORDER BY run_after, jobid LIMIT :limit)) AS lane
 ORDER BY lane.run_after, lane.jobid LIMIT :limit

-- name: add_turns (jobids, funcname, priority) -> none
-- Gives these jobs of a lane a turn, if they still wait.
INSERT INTO turn (jobid, funcname, priority, "partition", run_after)
SELECT jobid, :funcname, priority, coalesce("partition", ''), run_after FROM job
 WHERE jobid IN (:*jobids) AND state = 0 AND priority = :priority
ON CONFLICT (jobid) DO UPDATE
   SET priority = excluded.priority, "partition" = excluded."partition", run_after = excluded.run_after

-- name: add_turn_partitions (jobids, funcname, priority) -> none
-- Notes the partitions of these jobs. They may be noted already.
INSERT INTO turn_partition (funcname, priority, "partition")
SELECT DISTINCT :funcname, :priority, coalesce("partition", '') FROM job WHERE jobid IN (:*jobids)
ON CONFLICT (funcname, priority, "partition") DO NOTHING

-- name: turn_partitions (funcname, priority, start, limit) -> rows
-- The next partitions with turns, from the text `start` on.
SELECT "partition" FROM turn_partition
 WHERE funcname = :funcname AND priority = :priority AND "partition" >= :start
 ORDER BY "partition" LIMIT :limit

-- name: next_turns (funcname, priority, partition, limit) -> rows
-- The first turns of each of these partitions, as many as its `limit`.
SELECT * FROM (SELECT jobid, "partition", run_after FROM turn INDEXED BY turn_order WHERE funcname = :funcname AND priority = :priority AND "partition" = :partition ORDER BY run_after, jobid LIMIT :limit) UNION ALL -- each

-- name: in_flight_calls (funcname, limit) -> one
-- The number of calls of a function with bundles that are in flight, and the number of their jobs, which are counted up
-- to a limit. The jobs of a bundle are one call.
SELECT count(DISTINCT call_of), count(*) FROM (
  SELECT CASE WHEN substr(bundle, 1, instr(bundle, '/') - 1) = CAST(attempt AS TEXT) THEN substr(bundle, instr(bundle, '/') + 1) ELSE jobid || '/' || attempt END AS call_of
    FROM job INDEXED BY job_lane
   WHERE funcname = :funcname AND state IN (1, 2, 3) AND {held} LIMIT :limit) AS handed_out

-- name: bundle_page (funcname, priority, limit, skip) -> rows
-- Due jobs of a lane with the values that decide which of them go together, from a number of jobs on. Nothing is locked.
SELECT jobid, run_after, "coalesce", flag, failcount, crashes
  FROM job INDEXED BY job_lane
 WHERE funcname = :funcname AND state = 0 AND priority = :priority
   AND run_after <= strftime('%s', 'now') + 0 AND run_after <> 2147483647
 ORDER BY run_after LIMIT :limit OFFSET :skip

-- name: mark_bundle (jobids, call) -> none
-- Notes with the jobs of a bundle, which this transaction has claimed, their attempts and the call that carries them.
UPDATE job SET bundle = attempt || '/' || :call WHERE jobid IN (:*jobids)

-- name: due_turns (jobids, priority, small) -> rows
-- The jobs among these that a claim may take now, as `due` reads them. No other transaction can have locked one of
-- them.
SELECT jobid, run_after, CASE WHEN length(arg) > :small THEN NULL ELSE coalesce(CAST(arg AS BLOB), x'') END, uniqkey,
       "coalesce", flag, failcount, attempt, strftime('%s', 'now') + 0, created, expires, "partition", headers
  FROM job
 WHERE jobid IN (:*jobids) AND state = 0 AND priority = :priority
   AND run_after <= strftime('%s', 'now') + 0 AND run_after <> 2147483647

-- name: waiting_turns (jobids, priority) -> rows
-- The jobs among these that wait and are due, locked or not, and the partition of each.
SELECT jobid, coalesce("partition", '') FROM job
 WHERE jobid IN (:*jobids) AND state = 0 AND priority = :priority
   AND run_after <= strftime('%s', 'now') + 0 AND run_after <> 2147483647

-- name: partition_turns (funcname, priority, partition, limit) -> rows
-- The first turns of a partition.
SELECT jobid FROM turn INDEXED BY turn_order
 WHERE funcname = :funcname AND priority = :priority AND "partition" = :partition
 ORDER BY run_after, jobid LIMIT :limit

-- name: forget_turns (jobids) -> none
-- Deletes the turns of jobs that are handed out or no longer due.
DELETE FROM turn WHERE jobid IN (:*jobids)

-- name: forget_turn_partitions (funcname, priority, partitions) -> none
-- Deletes the notes of these partitions, which have no turn left.
DELETE FROM turn_partition
 WHERE funcname = :funcname AND priority = :priority AND "partition" IN (:*partitions)

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
SELECT coalesce("partition", ''), count(*) FROM (
  SELECT "partition" FROM job INDEXED BY job_lane
   WHERE funcname = :funcname AND state IN (1, 2, 3) AND {held} LIMIT :limit) AS handed_out
 GROUP BY "partition"

-- name: partition_rates (funcname, partitions) -> rows
-- The times up to which the starts of these partitions have used their rates.
SELECT "partition", used_until FROM partition_rate WHERE funcname = :funcname AND "partition" IN (:*partitions)

-- name: use_partition_rates (funcname, partition, used_until) -> none
-- Stores the times up to which partitions have used their rates, in the transaction that has locked the function's row.
INSERT INTO partition_rate (funcname, "partition", used_until)
VALUES
  (:funcname, :partition, :used_until) -- each
ON CONFLICT (funcname, "partition") DO UPDATE SET used_until = excluded.used_until

-- name: forget_partition_rates (limit) -> count
-- Deletes past times up to which partitions had used their rates. They mean the same as no row.
DELETE FROM partition_rate
 WHERE (funcname, "partition") IN (
       SELECT funcname, "partition" FROM partition_rate WHERE used_until < strftime('%s', 'now') + 0 LIMIT :limit)

-- name: give_back (jobids, attempt) -> none
-- Sets jobs that a worker holds and has not started back to waiting, due now.
UPDATE job SET state = 0, run_after = strftime('%s', 'now') + 0, lease_end = 0
 WHERE jobid IN (:*jobids) AND attempt = :attempt AND state IN (1, 2, 3) AND {held}

-- name: mark_leased (jobids, attempt) -> none
-- Sets a running job back to leased, because the worker that checked it has lost the Gearman server and will not start
-- the job. So the lease may end early. If that server still exists, the worker that has the copy now renews the lease.
UPDATE job SET state = 1 WHERE jobid IN (:*jobids) AND attempt = :attempt AND state = 2 AND {held}

-- name: crash (jobid, attempt) -> none
-- Counts the death of the process that ran the job. The lease stays: the Gearman server has given the copy to another
-- worker.
UPDATE job SET crashes = crashes + 1 WHERE jobid = :jobid AND attempt = :attempt AND state IN (1, 2, 3) AND {held}

-- name: refuse_inserts () -> none
-- Creates a trigger: from now on no program can insert jobs, whether it knows of the drain or not. Successors become
-- jobs anyway.
CREATE TRIGGER IF NOT EXISTS garivini_draining BEFORE INSERT ON job
WHEN NOT EXISTS (SELECT 1 FROM successor WHERE successor.funcname = NEW.funcname AND successor.uniqkey = NEW.uniqkey)
BEGIN SELECT RAISE(ABORT, 'garivini is draining this database'); END

-- name: allow_inserts () -> none
-- Ends the drain: programs can insert jobs again.
DROP TRIGGER IF EXISTS garivini_draining

-- name: hold (jobid, attempt, run_after, seconds) -> rows
-- Leases a waiting job for its move, if nothing has changed since it was read.
UPDATE job
   SET attempt = attempt + 1, state = 1, since = strftime('%s', 'now') + 0,
       run_after = strftime('%s', 'now') + :seconds, lease_end = strftime('%s', 'now') + :seconds
 WHERE jobid = :jobid AND attempt = :attempt AND run_after = :run_after
   AND {effective_state} = 0
RETURNING jobid

-- name: park (funcname, uniqkey, coalesce, arg, flag, priority, failcount, crashes, created, attempt, runs, partition, headers) -> rows
-- Inserts the moved row of a job, with its attempts. The row cannot be claimed until the move is finished.
INSERT INTO job (funcname, uniqkey, "coalesce", arg, flag, priority, failcount, crashes, created, attempt, runs, "partition", headers, state, run_after)
VALUES (:funcname, :uniqkey, :coalesce, :arg, :flag, :priority, :failcount, :crashes, :created, :attempt, :runs, :partition, :headers, 4, 2147483647)
RETURNING jobid

-- name: leave (jobid, attempt, state) -> rows
-- Deletes one of the two rows of a moved job, if the row is still held for the move.
DELETE FROM job
 WHERE jobid = :jobid AND attempt = :attempt AND (state = :state OR :state = 4 AND run_after = 2147483647)
RETURNING jobid

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
       CAST(strftime('%s', 'now') AS INTEGER), seen
  FROM schedule ORDER BY name

-- name: has_schedule (name) -> rows
-- Whether there is a schedule of this name.
SELECT 1 FROM schedule WHERE name = :name

-- name: due_schedules (age) -> rows
-- The schedules with a tick that is due or waits for the end of a job. A schedule that was last declared `age` seconds
-- ago is retired. There are few schedules, so all are read.
SELECT name FROM schedule
 WHERE paused = 0 AND (declared IS NULL OR CAST(strftime('%s', 'now') AS INTEGER) - seen < :age)
   AND (next_tick IS NULL OR next_tick <= CAST(strftime('%s', 'now') AS INTEGER) OR queued IS NOT NULL)

-- name: until_tick (age) -> one
-- The seconds until the first tick that is not due yet.
SELECT min(next_tick) - ((julianday('now') - 2440587.5) * 86400.0) FROM schedule
 WHERE paused = 0 AND (declared IS NULL OR CAST(strftime('%s', 'now') AS INTEGER) - seen < :age)
   AND next_tick > CAST(strftime('%s', 'now') AS INTEGER)

-- name: take_schedule (name) -> rows
-- A schedule as `schedules` returns it, locked by the transaction. No row: another scheduler has locked it, or it does
-- not exist.
SELECT name, funcname, arg, cron, every, zone, flag, priority, missed, missed_window, overlap, paused, next_tick, queued,
       last_tick, last_jobid, jobs, skipped, declared, override,
       CAST(strftime('%s', 'now') AS INTEGER), seen
  FROM schedule WHERE name = :name

-- name: lock_schedule (name) -> rows
-- As `take_schedule`, for a change of the schedule's values, which waits for the lock.
SELECT name, funcname, arg, cron, every, zone, flag, priority, missed, missed_window, overlap, paused, next_tick, queued,
       last_tick, last_jobid, jobs, skipped, declared, override,
       CAST(strftime('%s', 'now') AS INTEGER), seen
  FROM schedule WHERE name = :name

-- name: move_schedule (name, tick, next_tick, queued, last_tick, last_jobid, jobs, skipped) -> count
-- Moves a schedule on from a tick, if no other scheduler has.
UPDATE schedule
   SET next_tick = :next_tick, queued = :queued,
       last_tick = coalesce(:last_tick, last_tick), last_jobid = coalesce(:last_jobid, last_jobid),
       jobs = jobs + :jobs, skipped = skipped + :skipped
 WHERE name = :name AND next_tick IS :tick

-- name: write_schedule (name, funcname, arg, cron, every, zone, flag, priority, missed, missed_window, overlap, next_tick, declared, override) -> none
-- Creates a schedule, or writes its values. The counts and the last job of the schedule stay.
INSERT INTO schedule (name, funcname, arg, cron, every, zone, flag, priority, missed, missed_window, overlap,
  next_tick, declared, override)
VALUES (:name, :funcname, :arg, :cron, :every, :zone, :flag,
        :priority, :missed, :missed_window, :overlap, :next_tick, :declared, :override)
ON CONFLICT (name) DO UPDATE SET
       funcname = excluded.funcname, arg = excluded.arg, cron = excluded.cron, every = excluded.every,
       zone = excluded.zone, flag = excluded.flag, priority = excluded.priority, missed = excluded.missed,
       missed_window = excluded.missed_window, overlap = excluded.overlap,
       next_tick = excluded.next_tick, declared = excluded.declared, override = excluded.override

-- name: pause_schedule (name, paused, next_tick) -> none
-- Pauses or resumes a schedule.
UPDATE schedule SET paused = :paused, next_tick = :next_tick WHERE name = :name

-- name: see_schedules (names, age) -> none
-- Records that a process declares the given schedules, unless that was recorded within the last `age` seconds.
UPDATE schedule SET seen = CAST(strftime('%s', 'now') AS INTEGER)
 WHERE name IN (:*names) AND (seen IS NULL OR CAST(strftime('%s', 'now') AS INTEGER) - seen > :age)

-- name: copy_schedule (name, funcname, arg, cron, every, zone, flag, priority, missed, missed_window, overlap, paused, next_tick, queued, last_tick, jobs, skipped, declared, override) -> none
-- Creates a schedule that another database has, unless an earlier drain has created it. The last job of the schedule is
-- in the other database.
INSERT INTO schedule (name, funcname, arg, cron, every, zone, flag, priority, missed, missed_window, overlap, paused,
  next_tick, queued, last_tick, jobs, skipped, declared, override)
VALUES (:name, :funcname, :arg, :cron, :every, :zone, :flag, :priority, :missed, :missed_window, :overlap,
        :paused, :next_tick, :queued, :last_tick, :jobs, :skipped, :declared, :override)
ON CONFLICT (name) DO NOTHING

-- name: remove_schedule (name) -> none
-- Deletes a schedule. Its jobs stay.
DELETE FROM schedule WHERE name = :name

-- name: key_rules () -> rows
-- The functions with rules for unique keys.
SELECT funcname, unique_scope, unique_window, on_duplicate, max_delay FROM function
 WHERE unique_scope IS NOT NULL OR unique_window IS NOT NULL OR on_duplicate IS NOT NULL

-- name: keyed_row (funcname, uniqkey) -> rows
-- The job that has a key, locked by the transaction, with the time now, rounded down and rounded up.
SELECT jobid, attempt, {effective_state}, run_after, created, strftime('%s', 'now') + 0, CAST((julianday('now') - 2440587.5) * 86400.0 + 0.9995 AS INTEGER)
  FROM job WHERE funcname = :funcname AND uniqkey = :uniqkey

-- name: replace_job (jobid, arg, coalesce, partition, headers, priority, run_after, expires) -> none
-- Gives other values to a job that was never handed out and that this transaction has locked.
UPDATE job SET arg = :arg, "coalesce" = :coalesce, priority = :priority, run_after = :run_after,
       "partition" = :partition, headers = :headers, expires = :expires
 WHERE jobid = :jobid

-- name: free_key (jobid) -> none
-- Takes the key from a dead job, so that another job can have it.
UPDATE job SET uniqkey = NULL, has_successor = NULL WHERE jobid = :jobid

-- name: set_expires (jobids, expires) -> none
-- Sets the number of seconds after their due time within which new jobs must have been handed out.
UPDATE job SET expires = :expires WHERE jobid IN (:*jobids)

-- name: expiries (jobids) -> rows
-- The jobs among these that have a time limit of their own for being handed out.
SELECT jobid, expires FROM job WHERE jobid IN (:*jobids) AND expires IS NOT NULL

-- name: note_successor (jobid) -> none
-- Notes that a job has got its first successor.
UPDATE job SET has_successor = 1 WHERE jobid = :jobid

-- name: successor (jobid) -> rows
-- When a successor is due, and when it was first inserted. The transaction has locked the row of the job.
SELECT due, created FROM successor WHERE jobid = :jobid

-- name: put_successor (jobid, funcname, uniqkey, coalesce, partition, headers, arg, flag, priority, due, created, expires) -> none
-- Stores the successor of a job that this transaction has locked, or gives other values to it.
INSERT INTO successor (jobid, funcname, uniqkey, "coalesce", "partition", headers, arg, flag, priority, due, created, expires)
VALUES (:jobid, :funcname, :uniqkey, :coalesce, :partition, :headers, :arg, :flag, :priority,
        :due, :created, :expires)
ON CONFLICT (jobid) DO UPDATE
   SET "coalesce" = excluded."coalesce", "partition" = excluded."partition", headers = excluded.headers, arg = excluded.arg, flag = excluded.flag,
       priority = excluded.priority, due = excluded.due, expires = excluded.expires

-- name: promote (jobid) -> none
-- Turns a successor into a job, unless a newer job has its key. The transaction has ended the job before it.
INSERT INTO job (funcname, uniqkey, "coalesce", "partition", headers, arg, flag, priority, run_after, created, expires)
SELECT funcname, uniqkey, "coalesce", "partition", headers, arg, flag, priority, due, created, expires FROM successor
 WHERE jobid = :jobid
ON CONFLICT (funcname, uniqkey) WHERE uniqkey IS NOT NULL DO NOTHING;
DELETE FROM successor WHERE jobid = :jobid

-- name: lock_successor (jobid) -> rows
-- Locks a successor, unless another transaction has locked it.
SELECT jobid FROM successor WHERE jobid = :jobid

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
INSERT INTO recent_key (funcname, uniqkey, jobid, ends) VALUES (:funcname, :uniqkey, 0, strftime('%s', 'now') + 0)
ON CONFLICT (funcname, uniqkey) DO NOTHING;
SELECT jobid, ends > strftime('%s', 'now') + 0 FROM recent_key WHERE funcname = :funcname AND uniqkey = :uniqkey

-- name: note_key (funcname, uniqkey, jobid, ends) -> none
-- Stores the last job of a key, and the end of the window that has begun with the insert of that job.
UPDATE recent_key SET jobid = :jobid, ends = :ends WHERE funcname = :funcname AND uniqkey = :uniqkey

-- name: any_old_key () -> rows
-- Whether there is a key that `forget_keys` would delete.
SELECT jobid FROM recent_key WHERE ends < strftime('%s', 'now') - 60 LIMIT 1

-- name: forget_keys (limit) -> count
-- Deletes keys whose window ended more than a minute ago. Until then an insert may have locked one.
DELETE FROM recent_key WHERE (funcname, uniqkey) IN (
  SELECT funcname, uniqkey FROM recent_key WHERE ends < strftime('%s', 'now') - 60 ORDER BY ends LIMIT :limit)

-- name: late (funcname, priority, expires, limit) -> rows
-- The first jobs of a lane that have been due for too long, with their attempts and the seconds since they were due,
-- locked by the transaction.
SELECT jobid, attempt, strftime('%s', 'now') - run_after FROM job INDEXED BY job_lane
 WHERE funcname = :funcname AND state = 0 AND priority = :priority
   AND run_after < strftime('%s', 'now') + 0 - :expires AND run_after <> 2147483647
 ORDER BY run_after LIMIT :limit

-- name: put_out (target, id, funcname, uniqkey, coalesce, partition, headers, arg, flag, priority, delay, expires, rule) -> none
-- Stores a follow-up that belongs to another database, in the transaction that completes its job.
INSERT INTO outbox (target, id, funcname, uniqkey, "coalesce", "partition", headers, arg, flag, priority, run_after, expires, rule)
VALUES (:target, :id, :funcname, :uniqkey, :coalesce, :partition, :headers, :arg, :flag, :priority,
        CAST(strftime('%s', 'now') AS INTEGER) + :delay, :expires, :rule)

-- name: next_target (after) -> rows
-- The next database to which follow-ups are to be moved, by its id.
SELECT target FROM outbox WHERE target > :after ORDER BY target LIMIT 1

-- name: outbox_sizes (target, id, limit) -> rows
-- The next follow-ups for a database, by their ids, and the bytes of their arguments.
SELECT id, length(CAST(arg AS BLOB)) FROM outbox WHERE target = :target AND id > :id ORDER BY id LIMIT :limit

-- name: outbox (target, ids) -> rows
-- Follow-ups, each with the seconds until it is due.
SELECT id, funcname, uniqkey, "coalesce", "partition", headers, arg, flag, priority, max(run_after - CAST(strftime('%s', 'now') AS INTEGER), 0),
       expires, rule
  FROM outbox WHERE target = :target AND id IN (:*ids)

-- name: leave_outbox (target, ids) -> none
-- Deletes follow-ups that have arrived.
DELETE FROM outbox WHERE target = :target AND id IN (:*ids)

-- name: retarget (target, ids, home) -> none
-- Changes the database of follow-ups, because the former one is being drained.
UPDATE outbox SET target = :home WHERE target = :target AND id IN (:*ids)

-- name: arrive (id, mover) -> none
-- Notes that a follow-up arrives, unless that was noted before, in the transaction that inserts the follow-up.
INSERT INTO arrived (id, mover, arrived_at) VALUES (:id, :mover, CAST(strftime('%s', 'now') AS INTEGER))
ON CONFLICT (id) DO NOTHING

-- name: arrivals (ids, mover) -> rows
-- The follow-ups among these that arrive in this transaction. `mover` is the unique name of the transaction.
SELECT id FROM arrived WHERE id IN (:*ids) AND mover = :mover

-- name: forget_arrivals (age, limit) -> count
-- Forgets follow-ups that have arrived long ago: their rows in the outbox were deleted then.
DELETE FROM arrived WHERE id IN (SELECT id FROM arrived WHERE arrived_at < CAST(strftime('%s', 'now') AS INTEGER) - :age LIMIT :limit)

-- name: put_batch (batchid, name, on_complete, on_success) -> none
-- Creates a batch without members.
INSERT INTO batch (batchid, name, members, pending, failed, sealed, created, completed_at, on_complete, on_success)
VALUES (:batchid, :name, 0, 0, 0, 0, CAST(strftime('%s', 'now') AS INTEGER), 0, :on_complete, :on_success)

-- name: batch (batchid) -> rows
-- A batch.
SELECT batchid, name, members, pending, failed, sealed, created, completed_at, on_complete, on_success FROM batch WHERE batchid = :batchid

-- name: lock_batch (batchid) -> rows
-- A batch, locked by the transaction.
SELECT batchid, name, members, pending, failed, sealed, created, completed_at, on_complete, on_success FROM batch WHERE batchid = :batchid

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
SELECT jobid, batchid FROM batch_member WHERE jobid IN (:*jobids)

-- name: member_page (batchid, jobid, limit) -> rows
-- The next members of a batch that have not ended, in the order of their ids.
SELECT jobid FROM batch_member INDEXED BY batch_member_batch WHERE batchid = :batchid AND jobid > :jobid ORDER BY jobid LIMIT :limit

-- name: leave_batches (jobids) -> count
-- Removes members that have ended.
DELETE FROM batch_member WHERE jobid IN (:*jobids)

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
UPDATE batch SET completed_at = CAST(strftime('%s', 'now') AS INTEGER) WHERE batchid = :batchid

-- name: forget_batches (age, limit) -> count
-- Deletes batches that ended long ago.
DELETE FROM batch WHERE batchid IN (SELECT batchid FROM batch WHERE completed_at > 0 AND completed_at < CAST(strftime('%s', 'now') AS INTEGER) - :age ORDER BY completed_at LIMIT :limit)
