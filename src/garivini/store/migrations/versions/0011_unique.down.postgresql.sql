DROP TABLE recent_key;
DROP TABLE successor;
ALTER TABLE job DROP COLUMN has_successor, DROP COLUMN expires;
ALTER TABLE function DROP COLUMN expires, DROP COLUMN max_delay, DROP COLUMN on_duplicate, DROP COLUMN unique_window, DROP COLUMN unique_scope;
