ALTER TABLE function DROP COLUMN rate_used_until;
ALTER TABLE function DROP COLUMN burst;
ALTER TABLE function DROP COLUMN rate;
