-- Adds both columns in one statement. A server that would have to copy the table for that refuses.
ALTER TABLE job
  -- Repeats run_after if that is the end of a lease. If the two differ, another program has put the row off.
  ADD COLUMN lease_end INT UNSIGNED NOT NULL DEFAULT 0,
  -- The number of starts that have read their number.
  ADD COLUMN runs      INT UNSIGNED NOT NULL DEFAULT 0,
  ALGORITHM=INSTANT;
-- Sets the column of leased rows. They are found by the lane index, so that a backlog is neither read nor locked.
UPDATE (SELECT DISTINCT funcname FROM job) AS func
       CROSS JOIN (SELECT 1 AS state UNION ALL SELECT 2 UNION ALL SELECT 3) AS held
       STRAIGHT_JOIN job FORCE INDEX (job_lane) ON job.funcname = func.funcname AND job.state = held.state
   SET job.lease_end = job.run_after
 WHERE job.lease_end = 0;
