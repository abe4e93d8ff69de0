-- Repeats run_after if that is the end of a lease. If the two differ, another program has put the row off.
ALTER TABLE job ADD COLUMN lease_end INTEGER NOT NULL DEFAULT 0;
-- The number of starts that have read their number.
ALTER TABLE job ADD COLUMN runs INTEGER NOT NULL DEFAULT 0;
-- Sets the column of leased rows.
UPDATE job SET lease_end = run_after WHERE state IN (1, 2, 3);
