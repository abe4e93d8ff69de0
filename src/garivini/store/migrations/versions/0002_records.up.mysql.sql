-- Reports of a running attempt. Number 0 is its progress, which is overwritten; its lines have the numbers from 1.
CREATE TABLE report (
  jobid       BIGINT UNSIGNED NOT NULL,
  attempt     INT UNSIGNED NOT NULL,
  number      SMALLINT UNSIGNED NOT NULL,
  kind        VARCHAR(20) NOT NULL CHECK (kind IN ('status', 'data', 'warning')),
  reported_at INT UNSIGNED NOT NULL,
  body        MEDIUMBLOB NOT NULL,
  PRIMARY KEY (jobid, attempt, number)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;
-- Finished jobs that are kept until they expire. A result that was too large is NULL.
CREATE TABLE finished (
  jobid       BIGINT UNSIGNED NOT NULL PRIMARY KEY,
  funcname    VARCHAR(200) NOT NULL,
  uniqkey     VARCHAR(255),
  attempt     INT UNSIGNED NOT NULL,
  failcount   TINYINT UNSIGNED NOT NULL,
  created     INT UNSIGNED NOT NULL,
  finished_at INT UNSIGNED NOT NULL,
  expires     INT UNSIGNED NOT NULL,
  worker      VARCHAR(255) NOT NULL,
  result      MEDIUMBLOB,
  KEY finished_expires (expires)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;
-- Seconds for which finished jobs of a function are kept; NULL: they are not.
ALTER TABLE `function` ADD COLUMN retention INT CHECK (retention BETWEEN 1 AND 31536000);
