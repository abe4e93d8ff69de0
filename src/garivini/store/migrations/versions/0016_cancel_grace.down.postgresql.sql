ALTER TABLE function DROP COLUMN cancel_grace;
