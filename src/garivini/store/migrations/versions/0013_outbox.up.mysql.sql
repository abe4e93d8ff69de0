-- Follow-ups whose unique key has its home in another database, until a QueueRunner has moved them there.
-- rule: the rules of the key, as JSON; NULL: the defaults.
CREATE TABLE outbox (
  target     INT UNSIGNED NOT NULL,
  id         CHAR(32) NOT NULL,
  funcname   VARCHAR(200) NOT NULL,
  uniqkey    VARCHAR(255) NOT NULL,
  `coalesce` VARCHAR(255),
  `partition` VARCHAR(200),
  arg        MEDIUMBLOB,
  flag       VARCHAR(20) NOT NULL,
  priority   TINYINT NOT NULL,
  run_after  BIGINT NOT NULL,
  expires    INT UNSIGNED,
  rule       VARCHAR(300),
  PRIMARY KEY (target, id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;
-- Notes of follow-ups that have arrived here, so that none arrives twice.
CREATE TABLE arrived (
  id         CHAR(32) NOT NULL PRIMARY KEY,
  mover      CHAR(32) NOT NULL,
  arrived_at BIGINT NOT NULL,
  KEY arrived_at (arrived_at)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;
