-- Both at once. What the server could do by a copy of the table only it refuses here.
ALTER TABLE job
  -- Repeats run_after where that is the end of a lease. Where the two differ, another program has put the row off.
  ADD COLUMN lease_end INT UNSIGNED NOT NULL DEFAULT 0,
  -- How many starts have asked for their number.
  ADD COLUMN runs      INT UNSIGNED NOT NULL DEFAULT 0,
  ALGORITHM=INSTANT;
-- What is leased. By the lane index, so that a backlog is neither read nor locked.
UPDATE (SELECT DISTINCT funcname FROM job) AS func
       CROSS JOIN (SELECT 1 AS state UNION ALL SELECT 2 UNION ALL SELECT 3) AS held
       STRAIGHT_JOIN job FORCE INDEX (job_lane) ON job.funcname = func.funcname AND job.state = held.state
   SET job.lease_end = job.run_after
 WHERE job.lease_end = 0;
