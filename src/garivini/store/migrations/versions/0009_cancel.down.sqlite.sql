ALTER TABLE function DROP COLUMN checked_until;
ALTER TABLE function DROP COLUMN cancels;
