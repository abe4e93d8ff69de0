-- Adds our columns to a table that the original made and uses. The table is not copied: a server that cannot do this
-- instantly refuses.
ALTER TABLE job
  ADD COLUMN priority TINYINT UNSIGNED NOT NULL DEFAULT 1,
  ADD COLUMN created  INT UNSIGNED NOT NULL DEFAULT 0,
  ADD COLUMN attempt  INT UNSIGNED NOT NULL DEFAULT 0,
  ADD COLUMN state    TINYINT UNSIGNED NOT NULL DEFAULT 0,
  ADD COLUMN since    INT UNSIGNED NOT NULL DEFAULT 0,
  ADD COLUMN crashes  SMALLINT UNSIGNED NOT NULL DEFAULT 0,
  ALGORITHM=INSTANT;
-- The index of claims. It is built while other programs read and write.
ALTER TABLE job
  ADD INDEX job_lane (funcname, state, priority, run_after),
  ALGORITHM=INPLACE, LOCK=NONE;
