ALTER TABLE function DROP COLUMN checked_until, DROP COLUMN cancels;
