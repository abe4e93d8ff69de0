-- How often held jobs of the function were cancelled, and the unix time until which a worker checks each copy of its
-- jobs before the start, because copies of cancelled jobs may wait in Gearman servers.
ALTER TABLE function ADD COLUMN cancels INTEGER NOT NULL DEFAULT 0, ADD COLUMN checked_until BIGINT;
