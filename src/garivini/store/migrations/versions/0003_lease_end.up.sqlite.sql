-- Repeats run_after where that is the end of a lease. Where the two differ, another program has put the row off.
ALTER TABLE job ADD COLUMN lease_end INTEGER NOT NULL DEFAULT 0;
-- How many starts have asked for their number.
ALTER TABLE job ADD COLUMN runs INTEGER NOT NULL DEFAULT 0;
-- What is leased.
UPDATE job SET lease_end = run_after WHERE state IN (1, 2, 3);
