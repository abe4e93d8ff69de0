-- Rules of unique keys: whether a dead job holds its key, the seconds after an insert for which its key stays taken,
-- the effect of an insert whose key is taken, and the maximum seconds for which debouncing puts a job off. expires: the
-- seconds after a job is due within which it must have been handed out. NULL: the defaults.
ALTER TABLE `function`
  ADD COLUMN unique_scope  VARCHAR(20) CHECK (unique_scope IN ('while_live', 'while_live_or_dead')),
  ADD COLUMN unique_window INT CHECK (unique_window BETWEEN 1 AND 31536000),
  ADD COLUMN on_duplicate  VARCHAR(10) CHECK (on_duplicate IN ('existing', 'raise', 'replace', 'debounce', 'one_more')),
  ADD COLUMN max_delay     INT CHECK (max_delay BETWEEN 1 AND 31536000),
  ADD COLUMN expires       INT CHECK (expires BETWEEN 1 AND 31536000);
-- The seconds after a job is due within which it must have been handed out; NULL: the setting of its function. Whether
-- the job has a successor; NULL: no.
ALTER TABLE job ADD COLUMN expires INT UNSIGNED, ADD COLUMN has_successor TINYINT, ALGORITHM=INSTANT;
-- The successor of a job with a unique key: what was inserted with that key while an attempt held the job. It becomes a
-- job when that job ends. due and created are unix times; expires is in seconds.
CREATE TABLE successor (
  jobid      BIGINT UNSIGNED NOT NULL PRIMARY KEY,
  funcname   VARCHAR(200) NOT NULL,
  uniqkey    VARCHAR(255) NOT NULL,
  `coalesce` VARCHAR(255),
  arg        MEDIUMBLOB,
  flag       VARCHAR(20) NOT NULL DEFAULT 'shim',
  priority   TINYINT NOT NULL DEFAULT 1,
  due        BIGINT NOT NULL,
  created    BIGINT NOT NULL,
  `partition` VARCHAR(200),
  expires    INT UNSIGNED,
  KEY successor_key (funcname, uniqkey)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;
-- Keys that stay taken for some time after their insert, with the last job of each. ends is a unix time.
CREATE TABLE recent_key (
  funcname   VARCHAR(200) NOT NULL,
  uniqkey    VARCHAR(255) NOT NULL,
  jobid      BIGINT UNSIGNED NOT NULL,
  ends       BIGINT NOT NULL,
  PRIMARY KEY (funcname, uniqkey),
  KEY recent_key_ends (ends)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;
