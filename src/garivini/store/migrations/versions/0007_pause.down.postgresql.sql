ALTER TABLE function DROP COLUMN paused_until;
