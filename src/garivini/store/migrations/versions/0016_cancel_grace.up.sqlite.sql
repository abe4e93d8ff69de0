-- Seconds after a cancel of a running job, after which a supervised Worker ends the process of a `def`. NULL: the
-- function continues.
ALTER TABLE function ADD COLUMN cancel_grace INTEGER CHECK (cancel_grace BETWEEN 1 AND 31536000);
