DROP TABLE finished;
DROP TABLE report;
ALTER TABLE function DROP COLUMN retention;
