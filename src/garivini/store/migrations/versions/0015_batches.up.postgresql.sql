-- Groups of jobs whose end as a whole inserts another job. Counts are changed with each end, and never counted anew.
-- members: all jobs that were added; pending: those that have not ended; failed: those that are dead. sealed: 1 if the
-- batch ends with its last member. completed_at: 0 while it has not. on_complete, on_success: the jobs to insert, as JSON.
CREATE TABLE batch (
  batchid      VARCHAR(16) COLLATE "C" NOT NULL PRIMARY KEY,
  name         VARCHAR(200) NOT NULL,
  members      BIGINT NOT NULL,
  pending      BIGINT NOT NULL,
  failed       BIGINT NOT NULL,
  sealed       SMALLINT NOT NULL,
  created      BIGINT NOT NULL,
  completed_at BIGINT NOT NULL,
  on_complete  TEXT,
  on_success   TEXT
);
CREATE INDEX batch_completed ON batch (completed_at, batchid);
-- The members that have not ended.
CREATE TABLE batch_member (
  jobid        BIGINT NOT NULL PRIMARY KEY,
  batchid      VARCHAR(16) COLLATE "C" NOT NULL
);
CREATE INDEX batch_member_batch ON batch_member (batchid, jobid);
