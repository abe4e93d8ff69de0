-- Names and keys are compared by their bytes, trailing spaces included: the collations of MariaDB and MySQL for that
-- have different names. Ids are never reused: InnoDB keeps its counter over a restart.
CREATE TABLE job (
  jobid      BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  funcname   VARCHAR(200) NOT NULL,
  arg        MEDIUMBLOB,
  uniqkey    VARCHAR(255),
  run_after  INT UNSIGNED NOT NULL,
  `coalesce` VARCHAR(255),
  flag       ENUM('controller', 'shim') DEFAULT 'shim',
  failcount  TINYINT UNSIGNED NOT NULL DEFAULT 0,
  -- Our columns, all with defaults, so that a program that writes only the columns above still works.
  priority   TINYINT UNSIGNED NOT NULL DEFAULT 1 CHECK (priority IN (0, 1, 2)),
  created    INT UNSIGNED NOT NULL DEFAULT 0,
  attempt    INT UNSIGNED NOT NULL DEFAULT 0,
  state      TINYINT UNSIGNED NOT NULL DEFAULT 0 CHECK (state BETWEEN 0 AND 4),
  since      INT UNSIGNED NOT NULL DEFAULT 0,
  crashes    SMALLINT UNSIGNED NOT NULL DEFAULT 0,
  -- A claim reads the first rows of one lane, and none of a function at its limit or of a backlog in another state.
  KEY job_lane (funcname, state, priority, run_after),
  UNIQUE KEY job_uniqkey (funcname, uniqkey)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;
-- One row per attempt that did not complete, and per death of its process. The key makes a repeated report
-- harmless.
CREATE TABLE failure (
  jobid      BIGINT UNSIGNED NOT NULL,
  attempt    INT UNSIGNED NOT NULL,
  failed_at  INT UNSIGNED NOT NULL,
  kind       VARCHAR(20) NOT NULL,
  error      VARCHAR(255) NOT NULL,
  message    MEDIUMTEXT NOT NULL,
  trace      MEDIUMTEXT NOT NULL,
  worker     VARCHAR(255) NOT NULL,
  PRIMARY KEY (jobid, attempt, kind)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;
-- The settings of a function; NULL if the default applies.
CREATE TABLE `function` (
  funcname      VARCHAR(200) NOT NULL PRIMARY KEY,
  lease         INT CHECK (lease BETWEEN 3 AND 604800),
  deadline      INT CHECK (deadline BETWEEN 1 AND 31536000),
  renews        TINYINT CHECK (renews IN (0, 1)),
  envelope      VARCHAR(10) CHECK (envelope IN ('json', 'latin-1', 'raw')),
  max_failures  INT CHECK (max_failures BETWEEN 1 AND 255)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;
-- The id by which rows and handles name this database. A client that knows the database by another id is refused.
CREATE TABLE garivini_database (
  dbid       INT UNSIGNED NOT NULL,
  only_row   TINYINT NOT NULL DEFAULT 1 PRIMARY KEY CHECK (only_row = 1)
) ENGINE=InnoDB;
