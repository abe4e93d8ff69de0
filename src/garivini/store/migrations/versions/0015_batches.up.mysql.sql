-- Groups of jobs whose end as a whole inserts another job. Counts are changed with each end, and never counted anew.
-- members: all jobs that were added; pending: those that have not ended; failed: those that are dead. sealed: 1 if the
-- batch ends with its last member. completed_at: 0 while it has not. on_complete, on_success: the jobs to insert, as JSON.
CREATE TABLE batch (
  batchid      CHAR(16) NOT NULL PRIMARY KEY,
  name         VARCHAR(200) NOT NULL,
  members      BIGINT NOT NULL,
  pending      BIGINT NOT NULL,
  failed       BIGINT NOT NULL,
  sealed       TINYINT NOT NULL,
  created      BIGINT NOT NULL,
  completed_at BIGINT NOT NULL,
  on_complete  MEDIUMTEXT,
  on_success   MEDIUMTEXT,
  KEY batch_completed (completed_at, batchid)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;
-- The members that have not ended.
CREATE TABLE batch_member (
  jobid        BIGINT UNSIGNED NOT NULL PRIMARY KEY,
  batchid      CHAR(16) NOT NULL,
  KEY batch_member_batch (batchid, jobid)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;
