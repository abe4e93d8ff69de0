-- Values of a job beside its argument, for hooks and tools: a JSON object. NULL: there are none.
ALTER TABLE outbox ADD COLUMN headers VARCHAR(2048);
ALTER TABLE successor ADD COLUMN headers VARCHAR(2048);
ALTER TABLE job ADD COLUMN headers VARCHAR(2048);
