DROP TABLE recent_key;
DROP TABLE successor;
ALTER TABLE job DROP COLUMN has_successor;
ALTER TABLE job DROP COLUMN expires;
ALTER TABLE function DROP COLUMN expires;
ALTER TABLE function DROP COLUMN max_delay;
ALTER TABLE function DROP COLUMN on_duplicate;
ALTER TABLE function DROP COLUMN unique_window;
ALTER TABLE function DROP COLUMN unique_scope;
