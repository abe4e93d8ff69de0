ALTER TABLE failure DROP COLUMN fingerprint;
ALTER TABLE finished DROP COLUMN seconds;
ALTER TABLE function DROP COLUMN override;
ALTER TABLE function DROP COLUMN declared;
ALTER TABLE function DROP COLUMN dead_retention;
ALTER TABLE function DROP COLUMN timeout;
ALTER TABLE function DROP COLUMN retry;
