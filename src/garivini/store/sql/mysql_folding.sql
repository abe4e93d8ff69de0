-- Statements for a table of the original on MariaDB or MySQL whose collation treats names as equal that differ in their
-- bytes, such as `Mail` and `mail`. These statements replace those of the same name in mysql.sql, and compare names by
-- their bytes.

-- name: live (funcname, uniqkey) -> one
-- As in mysql.sql, and whether function and key match by their bytes.
SELECT jobid, CAST(CONVERT(funcname USING utf8mb4) AS BINARY) = CAST(CONVERT(:funcname USING utf8mb4) AS BINARY)
          AND CAST(CONVERT(uniqkey USING utf8mb4) AS BINARY) = CAST(CONVERT(:uniqkey USING utf8mb4) AS BINARY)
  FROM job WHERE funcname = :funcname AND uniqkey = :uniqkey LOCK IN SHARE MODE

-- name: due (funcname, priority, limit, small) -> rows
-- As in mysql.sql, with each row's own function at the end: the index treats names that differ only in case as equal.
SELECT jobid, run_after, IF(LENGTH(arg) > :small, NULL, COALESCE(arg, '')), uniqkey, `coalesce`, flag, failcount,
       attempt, UNIX_TIMESTAMP(), created, expires, `partition`, headers, funcname
  FROM job FORCE INDEX (job_lane)
 WHERE funcname = :funcname AND state = 0 AND priority = :priority
   AND run_after <= UNIX_TIMESTAMP() AND run_after <> 2147483647
 ORDER BY run_after LIMIT :limit
   FOR UPDATE SKIP LOCKED

-- name: counts () -> rows
-- As in mysql.sql, comparing names by their bytes.
SELECT MIN(funcname), state, COUNT(*), MIN(run_after), CAST(SUM(run_after = 2147483647) AS SIGNED)
  FROM job FORCE INDEX (job_lane)
 GROUP BY CAST(CONVERT(funcname USING utf8mb4) AS BINARY), state ORDER BY 1, 2

-- name: count_put_off (funcnames) -> rows
-- As in mysql.sql, comparing names by their bytes.
SELECT MIN(funcname), state, COUNT(*), MIN(run_after) FROM job FORCE INDEX (job_lane)
 WHERE funcname IN (:*funcnames) AND state IN (1, 2, 3) AND {put_off}
 GROUP BY CAST(CONVERT(funcname USING utf8mb4) AS BINARY), state

-- name: leased (funcname, lease, limit) -> one
-- As in mysql.sql, comparing names by their bytes.
SELECT COUNT(*) FROM (
  SELECT 1 FROM job FORCE INDEX (job_lane)
   WHERE funcname = :funcname AND state = 1 AND run_after <= UNIX_TIMESTAMP() + :lease + 2
     AND CAST(CONVERT(funcname USING utf8mb4) AS BINARY) = CAST(CONVERT(:funcname USING utf8mb4) AS BINARY)
   LIMIT :limit) AS handed_out

-- name: keyed_row (funcname, uniqkey) -> rows
-- As in mysql.sql, and whether function and key match by their bytes.
SELECT jobid, attempt, {effective_state}, run_after, created, UNIX_TIMESTAMP(), UNIX_TIMESTAMP() + (MICROSECOND(NOW(6)) > 0),
       CAST(CONVERT(funcname USING utf8mb4) AS BINARY) = CAST(CONVERT(:funcname USING utf8mb4) AS BINARY)
          AND CAST(CONVERT(uniqkey USING utf8mb4) AS BINARY) = CAST(CONVERT(:uniqkey USING utf8mb4) AS BINARY)
  FROM job WHERE funcname = :funcname AND uniqkey = :uniqkey FOR UPDATE

-- name: due_turns (jobids, priority, small) -> rows
-- As in mysql.sql, with the function of each row at the end.
SELECT jobid, run_after, IF(LENGTH(arg) > :small, NULL, COALESCE(arg, '')), uniqkey,
       `coalesce`, flag, failcount, attempt, UNIX_TIMESTAMP(), created, expires, `partition`, headers, funcname
  FROM job FORCE INDEX (PRIMARY)
 WHERE jobid IN (:*jobids) AND state = 0 AND priority = :priority
   AND run_after <= UNIX_TIMESTAMP() AND run_after <> 2147483647
   FOR UPDATE SKIP LOCKED
