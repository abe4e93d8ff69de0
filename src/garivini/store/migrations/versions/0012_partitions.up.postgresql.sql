-- For whom or what a job runs. NULL: the job was inserted without a partition. The column has no index, because that
-- would make the writes of every job slower.
ALTER TABLE job ADD COLUMN partition VARCHAR(200) COLLATE "C";
-- Rules of a function for each of its partitions: the maximum of jobs in flight, of jobs that start in a period, and of
-- jobs that start at once. `fair`: whether the partitions take turns. NULL: there is no such rule.
ALTER TABLE function
  ADD COLUMN partition_max_running INTEGER CHECK (partition_max_running BETWEEN 1 AND 10000),
  ADD COLUMN partition_rate        VARCHAR(20) CHECK (partition_rate ~ '^[1-9][0-9]{0,6}/[smhd]$'),
  ADD COLUMN partition_burst       INTEGER CHECK (partition_burst BETWEEN 1 AND 10000),
  ADD COLUMN fair                  SMALLINT CHECK (fair IN (0, 1));
-- Due jobs of functions with these rules, in the order of their partitions. QueueRunners add rows for jobs that they
-- find due, and check each row with its job: a row here is a hint. A job without a partition has an empty one here.
CREATE TABLE turn (
  jobid     BIGINT NOT NULL PRIMARY KEY,
  funcname  VARCHAR(200) COLLATE "C" NOT NULL,
  priority  SMALLINT NOT NULL,
  partition VARCHAR(200) COLLATE "C" NOT NULL,
  run_after BIGINT NOT NULL
);
CREATE INDEX turn_order ON turn (funcname, priority, partition, run_after, jobid);
-- The partitions that have rows in `turn`.
CREATE TABLE turn_partition (
  funcname  VARCHAR(200) COLLATE "C" NOT NULL,
  priority  SMALLINT NOT NULL,
  partition VARCHAR(200) COLLATE "C" NOT NULL,
  PRIMARY KEY (funcname, priority, partition)
);
-- The time up to which the starts of a partition have used its rate: a unix time with its fraction. A past time is the
-- same as no row.
CREATE TABLE partition_rate (
  funcname   VARCHAR(200) COLLATE "C" NOT NULL,
  partition  VARCHAR(200) COLLATE "C" NOT NULL,
  used_until DOUBLE PRECISION NOT NULL,
  PRIMARY KEY (funcname, partition)
);
CREATE INDEX partition_rate_used ON partition_rate (used_until);
