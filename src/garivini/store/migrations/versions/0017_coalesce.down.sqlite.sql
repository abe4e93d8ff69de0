ALTER TABLE function DROP COLUMN coalesce_wait;
ALTER TABLE function DROP COLUMN coalesce_max;
ALTER TABLE job DROP COLUMN bundle;
