ALTER TABLE outbox DROP COLUMN headers;
ALTER TABLE successor DROP COLUMN headers;
ALTER TABLE job DROP COLUMN headers;
