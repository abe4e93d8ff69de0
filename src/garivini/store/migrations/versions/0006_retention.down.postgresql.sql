ALTER TABLE function DROP COLUMN dead_retention;
