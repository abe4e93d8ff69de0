-- lease_end repeats run_after where that is the end of a lease: where the two differ, another program has put the row
-- off. runs: how many starts have asked for their number.
ALTER TABLE job ADD COLUMN lease_end BIGINT NOT NULL DEFAULT 0, ADD COLUMN runs INTEGER NOT NULL DEFAULT 0;
-- What is leased. By the lane index, so that a backlog is not read.
WITH RECURSIVE func (name) AS (
  (SELECT funcname FROM job ORDER BY funcname LIMIT 1)
  UNION ALL
  SELECT (SELECT job.funcname FROM job WHERE job.funcname > func.name ORDER BY job.funcname LIMIT 1)
    FROM func WHERE func.name IS NOT NULL
)
UPDATE job SET lease_end = run_after
  FROM func, (VALUES (1::smallint), (2), (3)) AS held (state)
 WHERE job.funcname = func.name AND job.state = held.state;
