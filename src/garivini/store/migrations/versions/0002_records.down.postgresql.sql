ALTER TABLE function DROP COLUMN retention;
DROP TABLE finished;
DROP TABLE report;
