-- The call that carries a job together with others: the job's attempt, and the id and the attempt of the first job. If the
-- attempt is not that of the row, the text is of an earlier claim. NULL: no call has carried the job with others. The
-- column has no index, because that would make the writes of every job slower.
ALTER TABLE job
  ADD COLUMN bundle VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
  ALGORITHM=INSTANT;
-- Maximum jobs of a bundle, and maximum seconds for which a due job waits for others. NULL: jobs run alone.
ALTER TABLE `function`
  ADD COLUMN coalesce_max  INT CHECK (coalesce_max BETWEEN 1 AND 1000),
  ADD COLUMN coalesce_wait INT CHECK (coalesce_wait BETWEEN 0 AND 86400);
