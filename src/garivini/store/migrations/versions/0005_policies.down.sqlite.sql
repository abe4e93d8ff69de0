ALTER TABLE finished DROP COLUMN seconds;
ALTER TABLE function DROP COLUMN override;
ALTER TABLE function DROP COLUMN declared;
ALTER TABLE function DROP COLUMN timeout;
ALTER TABLE function DROP COLUMN retry;
