-- Statements for SQLite 3.35 and newer. `store/sql_files.py` describes the form of this file.
--
-- The clock is the database's: strftime('%s', 'now') is the unix time in whole seconds, the same throughout a
-- statement. A lease ends at now + lease + 1 because whole seconds round down. 2147483647 is "never". Claims exclude
-- it, so that a row parked by the original's clients does not start in 2038. Later times are ordinary times. CAST(arg
-- AS BLOB): another program may have stored text that is not UTF-8.
--
-- A lease ends at `run_after`, and `lease_end` repeats it. `store/effective_state.py` describes what it means if they
-- differ, and has the conditions in braces. A delay counts from the next whole second, so it is never too short. (This
-- clock has milliseconds, and julianday may be wrong by half of one: adding 0.9995 and truncating rounds up.)

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
-- Stored once, by the first process that comes.
INSERT INTO garivini_database (dbid) SELECT :dbid WHERE NOT EXISTS (SELECT 1 FROM garivini_database)

-- name: ids_left () -> one
-- The number of ids that are left for new jobs.
SELECT 9223372036854775807 - coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'job'

-- name: folds () -> one
-- Whether the table treats names as equal that differ in their bytes: never here.
SELECT 0

-- name: insert (funcname, coalesce, arg, flag, priority, delay, leased) -> rows
-- Jobs without a unique key. Ids rise in the order of the rows, so sorted ids match them. If `leased` is 1, a
-- row is leased for its first attempt until its delay is over; if it is 0, the row waits until then.
INSERT INTO job (funcname, "coalesce", arg, flag, priority, run_after, created, attempt, state, since, lease_end)
VALUES
  (:funcname, :coalesce, :arg, :flag, :priority, CASE WHEN :leased OR :delay = 0 THEN strftime('%s', 'now') ELSE CAST((julianday('now') - 2440587.5) * 86400.0 + 0.9995 AS INTEGER) END + :delay, strftime('%s', 'now') + 0, :leased, :leased, strftime('%s', 'now') * :leased, (strftime('%s', 'now') + :delay) * :leased) -- each
RETURNING jobid, created

-- name: times () -> rows
-- The unix time, rounded down and rounded up.
SELECT strftime('%s', 'now') + 0, CAST((julianday('now') - 2440587.5) * 86400.0 + 0.9995 AS INTEGER)

-- name: insert_many (funcname, coalesce, arg, flag, priority, due, now, leased, since, lease_end) -> id
-- Many jobs without a unique key. Their ids are consecutive; the result is the last. The time was read just before:
-- numbers and no RETURNING take a third less time than expressions for each row.
INSERT INTO job (funcname, "coalesce", arg, flag, priority, run_after, created, attempt, state, since, lease_end)
VALUES
  (:funcname, :coalesce, :arg, :flag, :priority, :due, :now, :leased, :leased, :since, :lease_end) -- each

-- name: insert_keyed (funcname, uniqkey, coalesce, arg, flag, priority, delay, leased) -> rows
-- Jobs with a unique key. Only a conflict of that key is ignored; the rows returned are new.
INSERT INTO job (funcname, uniqkey, "coalesce", arg, flag, priority, run_after, created, attempt, state, since, lease_end)
VALUES
  (:funcname, :uniqkey, :coalesce, :arg, :flag, :priority, CASE WHEN :leased OR :delay = 0 THEN strftime('%s', 'now') ELSE CAST((julianday('now') - 2440587.5) * 86400.0 + 0.9995 AS INTEGER) END + :delay, strftime('%s', 'now') + 0, :leased, :leased, strftime('%s', 'now') * :leased, (strftime('%s', 'now') + :delay) * :leased) -- each
ON CONFLICT (funcname, uniqkey) WHERE uniqkey IS NOT NULL DO NOTHING
RETURNING jobid, created, funcname, uniqkey

-- name: live (funcname, uniqkey) -> one
-- The live job of a key. One index dive per key: a list of pairs would read the whole table.
SELECT jobid FROM job WHERE funcname = :funcname AND uniqkey = :uniqkey

-- name: states (jobids) -> rows
-- The states of these jobs, read without a lock: a row locked by another transaction must not delay an insert whose key
-- exists. A caller's older snapshot may not include a job.
SELECT jobid, {effective_state}
  FROM job WHERE jobid IN (:*jobids)

-- name: lanes () -> rows
-- All lanes that hold a job in a state below dead, when their first job is due, and the time now with its fraction. A
-- loose scan: one dive per function and twelve for its lanes (a second one per empty lane from 2038 on), whatever the
-- backlog and without statistics.
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
-- The first jobs of a lane that a claim may take, with their arguments, or NULL for an argument of more than `small`
-- bytes, the time now, and when they were inserted.
SELECT jobid, run_after, CASE WHEN length(arg) > :small THEN NULL ELSE coalesce(CAST(arg AS BLOB), x'') END, uniqkey,
       "coalesce", flag, failcount, attempt, strftime('%s', 'now') + 0, created
  FROM job INDEXED BY job_lane
 WHERE funcname = :funcname AND state = 0 AND priority = :priority
   AND run_after <= strftime('%s', 'now') + 0 AND run_after <> 2147483647
 ORDER BY run_after LIMIT :limit

-- name: named (funcname, limit) -> rows
-- Jobs to park, whose function's name is a blob, or text that is not UTF-8: it is given as bytes.
SELECT jobid FROM job INDEXED BY job_lane
 WHERE funcname IN (:funcname, CAST(:funcname AS TEXT)) AND state < 4 LIMIT :limit

-- name: sizes (jobids) -> rows
-- The bytes of these arguments.
SELECT jobid, length(arg) FROM job WHERE jobid IN (:*jobids)

-- name: args (jobids) -> rows
-- These arguments.
SELECT jobid, CAST(arg AS BLOB) FROM job WHERE jobid IN (:*jobids)

-- name: identities (jobids) -> rows
-- What tells a row from another job that got the same id: see `store/incarnations.py`.
SELECT jobid, attempt, created, funcname, uniqkey FROM job WHERE jobid IN (:*jobids)

-- name: claim (jobids, now, lease_end) -> none
-- The write of a claim, in the transaction that read the rows as due, with the time of that read.
UPDATE job SET attempt = attempt + 1, state = 1, since = :now, run_after = :lease_end, lease_end = :lease_end
 WHERE jobid IN (:*jobids)

-- name: expired (funcname, state, priority, limit) -> rows
-- Expired leases of a lane, and whether another program has put the row off.
SELECT jobid, attempt, flag, crashes, since, strftime('%s', 'now') - since, {put_off},
       funcname
  FROM job INDEXED BY job_lane
 WHERE funcname = :funcname AND state = :state AND priority = :priority
   AND run_after <= strftime('%s', 'now') + 0 AND run_after <> 2147483647
 ORDER BY run_after LIMIT :limit

-- name: requeue (jobids) -> none
-- Makes rows that were put off and are due now waiting, so that they are claimed like any other.
UPDATE job SET state = 0, lease_end = 0
 WHERE jobid IN (:*jobids) AND state IN (1, 2, 3) AND {put_off}
   AND run_after <= strftime('%s', 'now') + 0

-- name: extend (jobid, attempt, state, new_state, seconds, queued) -> none
-- Extends an expired lease, if nothing has changed since it was read. Queued: a Gearman server has the job queued, so
-- the time without a start counts from now.
UPDATE job
   SET state = :new_state, run_after = strftime('%s', 'now') + :seconds, lease_end = strftime('%s', 'now') + :seconds,
       since = CASE WHEN :queued THEN strftime('%s', 'now') + 0 ELSE since END
 WHERE jobid = :jobid AND attempt = :attempt AND state = :state
   AND run_after <= strftime('%s', 'now') + 0 AND {held}

-- name: reclaim (jobid, attempt, state, lease, crashed) -> rows
-- The write of a claim for the next attempt, after a lease has expired for good.
UPDATE job
   SET attempt = attempt + 1, state = 1, since = strftime('%s', 'now') + 0, crashes = crashes + :crashed,
       run_after = strftime('%s', 'now') + :lease + 1, lease_end = strftime('%s', 'now') + :lease + 1
 WHERE jobid = :jobid AND attempt = :attempt AND state = :state
   AND run_after <= strftime('%s', 'now') + 0 AND {held}
RETURNING jobid, funcname, CAST(arg AS BLOB), uniqkey, "coalesce", run_after, flag, failcount, attempt, priority, state,
          since, crashes, created, runs

-- name: release (jobid, attempt, run_after) -> none
-- Makes a claimed job that was not submitted waiting again, due when it was before.
UPDATE job SET state = 0, run_after = :run_after, lease_end = 0
 WHERE jobid = :jobid AND attempt = :attempt AND state = 1 AND {held}

-- name: end_early (jobids, attempt, lease) -> none
-- Ends now the lease of a job that may not have reached a server, unless it has been renewed meanwhile.
UPDATE job SET run_after = strftime('%s', 'now') + 0, lease_end = strftime('%s', 'now') + 0
 WHERE jobid IN (:*jobids) AND attempt = :attempt AND state = 1
   AND run_after <= strftime('%s', 'now') + :lease + 2 AND {held}

-- name: renew (jobids, attempt, lease) -> none
-- Renews a lease. A job that ended, that another attempt holds or that another program has put off is not touched.
UPDATE job SET state = 2, run_after = strftime('%s', 'now') + :lease + 1, lease_end = strftime('%s', 'now') + :lease + 1
 WHERE jobid IN (:*jobids) AND attempt = :attempt AND state IN (1, 2, 3) AND {held}

-- name: mine (jobids, attempt) -> rows
-- The jobs among these that this attempt holds. This decides after a renewal: a count of changed rows differs in
-- meaning between databases.
SELECT jobid FROM job
 WHERE jobid IN (:*jobids) AND attempt = :attempt AND state IN (1, 2, 3) AND {held}

-- name: present (jobids) -> rows
-- The jobs among these that exist.
SELECT jobid FROM job WHERE jobid IN (:*jobids)

-- name: lockable (jobids) -> rows
-- Locks the rows among these that no other transaction has locked, and returns them.
SELECT jobid FROM job WHERE jobid IN (:*jobids)

-- name: known (jobids) -> rows
-- The rows among these that exist, locked or not.
SELECT jobid FROM job WHERE jobid IN (:*jobids)

-- name: complete (jobids) -> count
-- Success. By id alone: finished work is finished, whichever attempt did it.
DELETE FROM job WHERE jobid IN (:*jobids)

-- name: complete_one (jobid) -> count
-- The same for one row that this transaction has locked.
DELETE FROM job WHERE jobid = :jobid

-- name: complete_range (first, last) -> count
-- The same for consecutive ids: a fifth less of the server's work than a lookup per id.
DELETE FROM job WHERE jobid BETWEEN :first AND :last

-- name: any_records (first, last) -> rows
-- Whether any job from the first id to the last has records. Usually none has, and one range scan costs less than a
-- lookup per id.
SELECT EXISTS (SELECT 1 FROM failure WHERE jobid BETWEEN :first AND :last)
    OR EXISTS (SELECT 1 FROM report WHERE jobid BETWEEN :first AND :last)

-- name: with_records (jobids) -> rows
-- The jobs among these that have records: rows of `failure` or `report`.
SELECT jobid FROM failure WHERE jobid IN (:*jobids)
UNION SELECT jobid FROM report WHERE jobid IN (:*jobids)

-- name: records (jobids) -> rows
-- The job of each record of these jobs: as often as it has records, locked or not.
SELECT jobid FROM failure WHERE jobid IN (:*jobids)
UNION ALL SELECT jobid FROM report WHERE jobid IN (:*jobids)

-- name: lockable_records (jobids) -> rows
-- Returns the job of each of these records: no other transaction has locked one.
SELECT jobid FROM failure WHERE jobid IN (:*jobids)
UNION ALL SELECT jobid FROM report WHERE jobid IN (:*jobids)

-- name: forget_failures (jobids) -> none
-- Deletes the failure records of jobs that are deleted.
DELETE FROM failure WHERE jobid IN (:*jobids)

-- name: forget_reports (jobids) -> none
-- Deletes the reports of jobs that are deleted.
DELETE FROM report WHERE jobid IN (:*jobids)

-- name: held (jobids, attempt) -> rows
-- The jobs among these that this attempt holds.
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
-- Kept jobs by id as above, without their results.
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
-- The dead jobs among these, and how many seconds ago each died: its newest record says that. One that another program
-- has parked by `run_after` alone is not among them, and one that a drain moves has only just died.
SELECT jobid, funcname, strftime('%s', 'now') - (
         SELECT MAX(CASE WHEN kind = 'moved' THEN 2147483647 ELSE failed_at END) FROM failure WHERE failure.jobid = job.jobid)
  FROM job WHERE jobid IN (:*jobids) AND state = 4 AND run_after = 2147483647

-- name: standing (jobids) -> rows
-- The row before a setback; the last column is whether its attempt holds it.
SELECT jobid, attempt, state, failcount, crashes,
       (SELECT max_failures FROM function WHERE function.funcname = job.funcname),
       (SELECT retry FROM function WHERE function.funcname = job.funcname),
       {effective_state} IN (1, 2, 3)
  FROM job WHERE jobid IN (:*jobids)

-- name: put_back (jobid, attempt, state, failcount, delay) -> none
-- The end of an attempt without success: the job waits for this many seconds.
UPDATE job SET state = 0, failcount = :failcount, lease_end = 0,
       run_after = CASE WHEN :delay = 0 THEN strftime('%s', 'now') ELSE CAST((julianday('now') - 2440587.5) * 86400.0 + 0.9995 AS INTEGER) END + :delay
 WHERE jobid = :jobid AND attempt = :attempt AND state = :state

-- name: put_at (jobid, attempt, state, failcount, run_after) -> none
-- The same until a unix time. If that is "never", the new state is dead.
UPDATE job SET state = CASE WHEN :run_after = 2147483647 THEN 4 ELSE 0 END, failcount = :failcount,
       run_after = :run_after, lease_end = 0
 WHERE jobid = :jobid AND attempt = :attempt AND state = :state

-- name: record_failure (jobid, attempt, kind, error, message, trace, worker) -> none
-- Records a setback. An attempt ends once, and a repeated report does not reach this. A report without an attempt, or
-- the death of a process, may be recorded twice for one attempt: the newest is kept.
INSERT INTO failure (jobid, attempt, failed_at, kind, error, message, trace, worker)
VALUES (:jobid, :attempt, strftime('%s', 'now') + 0, :kind, :error, :message, :trace, :worker)
ON CONFLICT (jobid, attempt, kind) DO UPDATE
   SET failed_at = excluded.failed_at, error = excluded.error, message = excluded.message, trace = excluded.trace,
       worker = excluded.worker

-- name: record_keys (jobid) -> rows
-- The failure records of a job without their texts, except the number in the row that counts omitted ones.
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
-- Whether this attempt has reported its end already. The death of a process is not the attempt's own report.
SELECT kind FROM failure WHERE jobid = :jobid AND attempt = :attempt AND kind NOT IN ('crashed', 'omitted')

-- name: failures (jobid) -> rows
-- The failure records of a job, oldest first.
SELECT attempt, failed_at, kind, error, message, trace, worker FROM failure WHERE jobid = :jobid ORDER BY attempt

-- name: failure_texts (after, size, limit) -> rows
-- The failure records of jobs after an id, with the first characters of each message.
SELECT jobid, failed_at, kind, error, substr(message, 1, :size) FROM failure
 WHERE jobid > :after ORDER BY jobid LIMIT :limit

-- name: funcnames (jobids) -> rows
-- The functions of these jobs.
SELECT jobid, funcname FROM job WHERE jobid IN (:*jobids)

-- name: kept_funcnames (jobids) -> rows
-- The functions of these kept jobs.
SELECT jobid, funcname FROM finished WHERE jobid IN (:*jobids)

-- name: get (jobid) -> rows
-- One job with its effective state: one that another program has put off waits, or is dead if that is "never".
SELECT jobid, funcname, CAST(arg AS BLOB), uniqkey, "coalesce", run_after, flag, failcount, attempt, priority,
       {effective_state},
       since, crashes, created, runs
  FROM job WHERE jobid = :jobid

-- name: newest () -> rows
-- The greatest id of a job.
SELECT jobid FROM job ORDER BY jobid DESC LIMIT 1

-- name: match (funcname, state, failed, uniqkey, error, error_text, arg_text, created_from, created_before, due_from, due_before, after, until, limit) -> rows
-- The next jobs by id, each with its effective state if it matches and NULL if not. The conditions are not in the WHERE
-- clause, so the statement reads these rows and no others, whether one matches or not. instr of two blobs compares bytes.
SELECT jobid,
       CASE WHEN (:funcname IS NULL OR funcname = :funcname)
             AND (:state IS NULL OR {effective_state} = :state)
             AND (NOT :failed OR failcount > 0 OR crashes > 0 OR {effective_state} = 4)
             AND (:uniqkey IS NULL OR uniqkey = :uniqkey)
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
-- These jobs by id, as `get` reads one.
SELECT jobid, funcname, CAST(arg AS BLOB), uniqkey, "coalesce", run_after, flag, failcount, attempt, priority,
       {effective_state},
       since, crashes, created, runs
  FROM job WHERE jobid IN (:*jobids) ORDER BY jobid

-- name: lock_states (jobids) -> rows
-- Locks the rows among these that no other transaction has locked, and returns them with their effective states.
SELECT jobid, attempt, {effective_state} FROM job WHERE jobid IN (:*jobids)

-- name: record_ends (jobids, kind, message) -> none
-- The failure records of jobs that an operator ends together.
INSERT INTO failure (jobid, attempt, failed_at, kind, error, message, trace, worker)
SELECT jobid, attempt, strftime('%s', 'now') + 0, :kind, '', :message, '', '' FROM job WHERE jobid IN (:*jobids)
ON CONFLICT (jobid, attempt, kind) DO UPDATE SET failed_at = excluded.failed_at, message = excluded.message

-- name: put_all_back (jobids, delay) -> none
-- Jobs that nobody holds wait for this many seconds.
UPDATE job SET state = 0, lease_end = 0,
       run_after = CASE WHEN :delay = 0 THEN strftime('%s', 'now') ELSE CAST((julianday('now') - 2440587.5) * 86400.0 + 0.9995 AS INTEGER) END + :delay
 WHERE jobid IN (:*jobids)

-- name: put_all_at (jobids, run_after) -> none
-- The same until a unix time. If that is "never", the new state is dead.
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
-- Jobs of each function and state, and how many of them never run. Reads the whole lane index: for operators, not for a
-- pass.
SELECT funcname, state, count(*), min(run_after), sum(run_after = 2147483647)
  FROM job GROUP BY funcname, state ORDER BY funcname, state

-- name: count_put_off (funcnames) -> rows
-- The number of leased jobs of these functions that another program has put off.
SELECT funcname, state, count(*), min(run_after) FROM job INDEXED BY job_lane
 WHERE funcname IN (:*funcnames) AND state IN (1, 2, 3) AND {put_off}
 GROUP BY funcname, state

-- name: waiting () -> rows
-- The numbers of waiting jobs that are due, delayed, and backed off after a failure. The lane index is enough to count
-- the due ones. The others are told apart by failcount, for which their rows are read.
SELECT (SELECT count(*) FROM job WHERE state = 0 AND run_after <= t.now AND run_after <> 2147483647),
       (SELECT count(*) FROM job WHERE state = 0 AND run_after > t.now AND run_after <> 2147483647 AND failcount = 0),
       (SELECT count(*) FROM job WHERE state = 0 AND run_after > t.now AND run_after <> 2147483647 AND failcount > 0)
  FROM (SELECT strftime('%s', 'now') + 0 AS now) AS t

-- name: facts () -> rows
-- Settings of the database that decide whether a job can be lost.
SELECT 'version', sqlite_version() UNION ALL SELECT 'journal_mode', journal_mode FROM pragma_journal_mode

-- name: functions () -> rows
-- The settings of all functions that apply, and until when a function is paused.
SELECT funcname, lease, deadline, renews, envelope, max_failures, retention, max_running, retry, timeout,
       dead_retention, rate, burst,
       CASE WHEN paused_until > strftime('%s', 'now') + 0 THEN paused_until END
  FROM function ORDER BY funcname

-- name: settings () -> rows
-- The same, with what code has declared and what an operator has set instead.
SELECT funcname, lease, deadline, renews, envelope, max_failures, retention, max_running, retry, timeout,
       dead_retention, rate, burst, declared, override
  FROM function ORDER BY funcname

-- name: declared (funcnames) -> rows
-- The settings of these functions that code has declared.
SELECT funcname, declared FROM function WHERE funcname IN (:*funcnames)

-- name: lock_settings (funcnames) -> rows
-- The settings of these functions as above.
SELECT funcname, lease, deadline, renews, envelope, max_failures, retention, max_running, retry, timeout,
       dead_retention, rate, burst, declared, override
  FROM function WHERE funcname IN (:*funcnames) ORDER BY funcname

-- name: create_functions (funcname) -> none
-- Rows for functions that have none yet, so that they can be locked.
INSERT INTO function (funcname)
VALUES
  (:funcname) -- each
ON CONFLICT (funcname) DO NOTHING

-- name: write_settings (funcname, lease, deadline, renews, envelope, max_failures, retention, max_running, retry, timeout, dead_retention, rate, burst, declared, override) -> none
-- Writes the whole settings of functions.
INSERT INTO function (funcname, lease, deadline, renews, envelope, max_failures, retention, max_running, retry, timeout,
       dead_retention, rate, burst, declared, override)
VALUES
  (:funcname, :lease, :deadline, :renews, :envelope, :max_failures, :retention, :max_running, :retry, :timeout, :dead_retention, :rate, :burst, :declared, :override) -- each
ON CONFLICT (funcname) DO UPDATE
   SET lease = excluded.lease, deadline = excluded.deadline, renews = excluded.renews,
       envelope = excluded.envelope, max_failures = excluded.max_failures, retention = excluded.retention,
       max_running = excluded.max_running, retry = excluded.retry, timeout = excluded.timeout,
       dead_retention = excluded.dead_retention, rate = excluded.rate, burst = excluded.burst,
       declared = excluded.declared, override = excluded.override

-- name: adoptable (jobids) -> rows
-- Jobs whose copies came without an attempt and that nobody runs.
SELECT jobid FROM job WHERE jobid IN (:*jobids) AND state IN (0, 1) AND run_after <> 2147483647

-- name: adopt (jobids, lease) -> rows
-- Gives an attempt to such copies: the original's QueueRunner leases by `run_after` alone. Their arguments are not
-- read.
UPDATE job
   SET attempt = attempt + 1, state = 2, since = strftime('%s', 'now') + 0,
       run_after = strftime('%s', 'now') + :lease + 1, lease_end = strftime('%s', 'now') + :lease + 1
 WHERE jobid IN (:*jobids)
RETURNING jobid, funcname, NULL, uniqkey, "coalesce", run_after, flag, failcount, attempt, priority, state,
          since, crashes, created, runs

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
-- Which of these jobs are dead, and no later attempt has had them.
SELECT jobid FROM job WHERE jobid IN (:*jobids) AND attempt = :attempt AND {effective_state} = 4

-- name: pause (funcname, paused_until) -> none
-- Pauses a function that has a row until a time; NULL: not any longer.
UPDATE function SET paused_until = :paused_until WHERE funcname = :funcname

-- name: paused (funcname) -> rows
-- The time until which a function is paused. No row: it is not.
SELECT paused_until FROM function WHERE funcname = :funcname AND paused_until > strftime('%s', 'now') + 0

-- name: dispatched (funcname, priority, age, since, after, limit) -> rows
-- Leased jobs of a lane that no worker has started and whose leases have not expired. The youngest are omitted, because
-- they may not have been submitted yet. Read in pages by the end of the lease.
SELECT jobid, attempt, run_after FROM job INDEXED BY job_lane
 WHERE funcname = :funcname AND state = 1 AND priority = :priority
   AND run_after > strftime('%s', 'now') + 0 AND run_after >= :after
   AND since <= strftime('%s', 'now') - :age AND since > :since AND {held}
 ORDER BY run_after LIMIT :limit

-- name: leased (funcname, lease, limit) -> one
-- The number of jobs of a function in Gearman that no worker has started, up to a limit. A row that ends later than any
-- of its leases was put off by another program; the index alone shows that.
SELECT count(*) FROM (
  SELECT 1 FROM job INDEXED BY job_lane
   WHERE funcname = :funcname AND state = 1 AND run_after <= strftime('%s', 'now') + :lease + 2 LIMIT :limit)

-- name: lock_function (funcname) -> rows
-- The rules of a function, whether it is paused, and the time now with its fraction. The transaction has the whole
-- database, so claims take turns. No row: it has no settings.
SELECT max_running, coalesce(paused_until > strftime('%s', 'now') + 0, 0), rate, burst, rate_used_until,
       (julianday('now') - 2440587.5) * 86400.0
  FROM function WHERE funcname = :funcname

-- name: use_rate (funcname, used_until) -> none
-- The time up to which the rate of a function is used, in the transaction that has locked its row.
UPDATE function SET rate_used_until = :used_until WHERE funcname = :funcname

-- name: in_flight (funcname, limit) -> one
-- The number of jobs of a function that an attempt holds, up to a limit.
SELECT count(*) FROM (
  SELECT 1 FROM job INDEXED BY job_lane
   WHERE funcname = :funcname AND state IN (1, 2, 3) AND {held} LIMIT :limit)

-- name: give_back (jobids, attempt) -> none
-- Makes jobs that a worker holds and has not started waiting again, due now.
UPDATE job SET state = 0, run_after = strftime('%s', 'now') + 0, lease_end = 0
 WHERE jobid IN (:*jobids) AND attempt = :attempt AND state IN (1, 2, 3) AND {held}

-- name: mark_leased (jobids, attempt) -> none
-- Makes a job leased again that a worker has checked and will not start, because its Gearman server is lost: not
-- running, so that the lease may end early. If that server still exists, the worker that has the copy now renews it.
UPDATE job SET state = 1 WHERE jobid IN (:*jobids) AND attempt = :attempt AND state = 2 AND {held}

-- name: crash (jobid, attempt) -> none
-- The process that ran it died. The lease stays: the Gearman server has given the copy to another worker.
UPDATE job SET crashes = crashes + 1 WHERE jobid = :jobid AND attempt = :attempt AND state IN (1, 2, 3) AND {held}

-- name: refuse_inserts () -> none
-- From now on no program inserts jobs, whether it knows of the drain or not.
CREATE TRIGGER IF NOT EXISTS garivini_draining BEFORE INSERT ON job BEGIN SELECT RAISE(ABORT, 'garivini is draining this database'); END

-- name: allow_inserts () -> none
-- The drain is over.
DROP TRIGGER IF EXISTS garivini_draining

-- name: hold (jobid, attempt, run_after, seconds) -> rows
-- Leases a waiting job for its move, if nothing has changed since it was read.
UPDATE job
   SET attempt = attempt + 1, state = 1, since = strftime('%s', 'now') + 0,
       run_after = strftime('%s', 'now') + :seconds, lease_end = strftime('%s', 'now') + :seconds
 WHERE jobid = :jobid AND attempt = :attempt AND run_after = :run_after
   AND {effective_state} = 0
RETURNING jobid

-- name: park (funcname, uniqkey, coalesce, arg, flag, priority, failcount, crashes, created, attempt, runs) -> rows
-- Inserts the moved row of a job, with its attempts. It cannot be claimed until its move is finished.
INSERT INTO job (funcname, uniqkey, "coalesce", arg, flag, priority, failcount, crashes, created, attempt, runs, state, run_after)
VALUES (:funcname, :uniqkey, :coalesce, :arg, :flag, :priority, :failcount, :crashes, :created, :attempt, :runs, 4, 2147483647)
RETURNING jobid

-- name: leave (jobid, attempt, state) -> rows
-- Deletes one of the two rows of a moved job, if it is still held for the move.
DELETE FROM job
 WHERE jobid = :jobid AND attempt = :attempt AND (state = :state OR :state = 4 AND run_after = 2147483647)
RETURNING jobid

-- name: let_go (jobid, run_after) -> none
-- Makes a moved row wait as its job did.
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
-- All schedules, with the time and when each was last declared.
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
-- A schedule as above, locked by the transaction. No row: another scheduler has it, or it is gone.
SELECT name, funcname, arg, cron, every, zone, flag, priority, missed, missed_window, overlap, paused, next_tick, queued,
       last_tick, last_jobid, jobs, skipped, declared, override,
       CAST(strftime('%s', 'now') AS INTEGER), seen
  FROM schedule WHERE name = :name

-- name: lock_schedule (name) -> rows
-- The same for a change of its values, which waits for the lock.
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
-- Creates a schedule, or writes its values. Its counts and its last job stay.
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
-- Records that a process declares these schedules, unless that was recorded within the last `age` seconds.
UPDATE schedule SET seen = CAST(strftime('%s', 'now') AS INTEGER)
 WHERE name IN (:*names) AND (seen IS NULL OR CAST(strftime('%s', 'now') AS INTEGER) - seen > :age)

-- name: copy_schedule (name, funcname, arg, cron, every, zone, flag, priority, missed, missed_window, overlap, paused, next_tick, queued, last_tick, jobs, skipped, declared, override) -> none
-- Creates a schedule that another database has, unless an earlier drain has. Its last job is not here.
INSERT INTO schedule (name, funcname, arg, cron, every, zone, flag, priority, missed, missed_window, overlap, paused,
  next_tick, queued, last_tick, jobs, skipped, declared, override)
VALUES (:name, :funcname, :arg, :cron, :every, :zone, :flag, :priority, :missed, :missed_window, :overlap,
        :paused, :next_tick, :queued, :last_tick, :jobs, :skipped, :declared, :override)
ON CONFLICT (name) DO NOTHING

-- name: remove_schedule (name) -> none
-- Deletes a schedule. Its jobs stay.
DELETE FROM schedule WHERE name = :name

-- name: put_out (target, id, funcname, uniqkey, coalesce, arg, flag, priority, delay) -> none
-- Stores a follow-up that belongs to another database, in the transaction that completes its job.
INSERT INTO outbox (target, id, funcname, uniqkey, "coalesce", arg, flag, priority, run_after)
VALUES (:target, :id, :funcname, :uniqkey, :coalesce, :arg, :flag, :priority,
        CAST(strftime('%s', 'now') AS INTEGER) + :delay)

-- name: next_target (after) -> rows
-- The next database to which follow-ups are to be moved, by its id.
SELECT target FROM outbox WHERE target > :after ORDER BY target LIMIT 1

-- name: outbox_sizes (target, id, limit) -> rows
-- The next follow-ups for a database, by their ids, and the bytes of their arguments.
SELECT id, length(CAST(arg AS BLOB)) FROM outbox WHERE target = :target AND id > :id ORDER BY id LIMIT :limit

-- name: outbox (target, ids) -> rows
-- Follow-ups, each with the seconds until it is due.
SELECT id, funcname, uniqkey, "coalesce", arg, flag, priority, max(run_after - CAST(strftime('%s', 'now') AS INTEGER), 0)
  FROM outbox WHERE target = :target AND id IN (:*ids)

-- name: leave_outbox (target, ids) -> none
-- Deletes follow-ups that have arrived.
DELETE FROM outbox WHERE target = :target AND id IN (:*ids)

-- name: retarget (target, ids, home) -> none
-- Sends follow-ups to another database, because theirs is being drained.
UPDATE outbox SET target = :home WHERE target = :target AND id IN (:*ids)

-- name: arrive (id, mover) -> none
-- Notes that a follow-up arrives, unless it has before. In the transaction that inserts it.
INSERT INTO arrived (id, mover, arrived_at) VALUES (:id, :mover, CAST(strftime('%s', 'now') AS INTEGER))
ON CONFLICT (id) DO NOTHING

-- name: arrivals (ids, mover) -> rows
-- Which of these arrive in this transaction, whose name is unique.
SELECT id FROM arrived WHERE id IN (:*ids) AND mover = :mover

-- name: forget_arrivals (age, limit) -> count
-- Forgets follow-ups that have arrived long ago: their rows in the outbox were deleted then.
DELETE FROM arrived WHERE id IN (SELECT id FROM arrived WHERE arrived_at < CAST(strftime('%s', 'now') AS INTEGER) - :age LIMIT :limit)
