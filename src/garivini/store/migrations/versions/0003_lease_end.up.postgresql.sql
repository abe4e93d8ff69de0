-- lease_end repeats run_after if that is the end of a lease. If the two differ, another program has put the row off.
-- runs: the number of starts that have read their number.
ALTER TABLE job ADD COLUMN lease_end BIGINT NOT NULL DEFAULT 0, ADD COLUMN runs INTEGER NOT NULL DEFAULT 0;
-- Sets the column of leased rows. They are found by the lane index, so that a backlog is not read.
WITH RECURSIVE func (name) AS (
  (SELECT funcname FROM job ORDER BY funcname LIMIT 1)
  UNION ALL
  SELECT (SELECT job.funcname FROM job WHERE job.funcname > func.name ORDER BY job.funcname LIMIT 1)
    FROM func WHERE func.name IS NOT NULL
)
UPDATE job SET lease_end = run_after
  FROM func, (VALUES (1::smallint), (2), (3)) AS held (state)
 WHERE job.funcname = func.name AND job.state = held.state;
