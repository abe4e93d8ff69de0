-- Rules of unique keys: whether a dead job holds its key, the seconds after an insert for which its key stays taken,
-- the effect of an insert whose key is taken, and the maximum seconds for which debouncing puts a job off. expires: the
-- seconds after a job is due within which it must have been handed out. NULL: the defaults.
ALTER TABLE function
  ADD COLUMN unique_scope  VARCHAR(20) CHECK (unique_scope IN ('while_live', 'while_live_or_dead')),
  ADD COLUMN unique_window INTEGER CHECK (unique_window BETWEEN 1 AND 31536000),
  ADD COLUMN on_duplicate  VARCHAR(10) CHECK (on_duplicate IN ('existing', 'raise', 'replace', 'debounce', 'one_more')),
  ADD COLUMN max_delay     INTEGER CHECK (max_delay BETWEEN 1 AND 31536000),
  ADD COLUMN expires       INTEGER CHECK (expires BETWEEN 1 AND 31536000);
-- The seconds after a job is due within which it must have been handed out; NULL: the setting of its function. Whether
-- the job has a successor; NULL: no.
ALTER TABLE job ADD COLUMN expires INTEGER, ADD COLUMN has_successor SMALLINT;
-- The successor of a job with a unique key: what was inserted with that key while an attempt held the job. It becomes a
-- job when that job ends. due and created are unix times; expires is in seconds.
CREATE TABLE successor (
  jobid      BIGINT NOT NULL PRIMARY KEY,
  funcname   VARCHAR(200) COLLATE "C" NOT NULL,
  uniqkey    VARCHAR(255) COLLATE "C" NOT NULL,
  "coalesce" VARCHAR(255),
  arg        BYTEA,
  flag       VARCHAR(20) NOT NULL DEFAULT 'shim',
  priority   SMALLINT NOT NULL DEFAULT 1,
  due        BIGINT NOT NULL,
  created    BIGINT NOT NULL,
  partition  VARCHAR(200) COLLATE "C",
  expires    INTEGER
);
CREATE INDEX successor_key ON successor (funcname, uniqkey);
-- Keys that stay taken for some time after their insert, with the last job of each. ends is a unix time.
CREATE TABLE recent_key (
  funcname   VARCHAR(200) COLLATE "C" NOT NULL,
  uniqkey    VARCHAR(255) COLLATE "C" NOT NULL,
  jobid      BIGINT NOT NULL,
  ends       BIGINT NOT NULL,
  PRIMARY KEY (funcname, uniqkey)
);
CREATE INDEX recent_key_ends ON recent_key (ends);
