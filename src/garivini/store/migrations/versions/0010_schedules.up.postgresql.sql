-- Schedules: each tick inserts a job, in the transaction that moves next_tick. Times are unix seconds.
CREATE TABLE schedule (
  name       VARCHAR(200) COLLATE "C" NOT NULL PRIMARY KEY,
  funcname   VARCHAR(200) COLLATE "C" NOT NULL,
  arg        BYTEA,
  cron       VARCHAR(200),
  every      INTEGER CHECK (every > 0),
  zone       VARCHAR(64) NOT NULL DEFAULT 'UTC',
  flag       VARCHAR(20) NOT NULL DEFAULT 'shim',
  priority   SMALLINT NOT NULL DEFAULT 1,
  missed     VARCHAR(10) NOT NULL DEFAULT 'last',
  missed_window INTEGER NOT NULL DEFAULT 3600,
  overlap    VARCHAR(10) NOT NULL DEFAULT 'skip',
  paused     SMALLINT NOT NULL DEFAULT 0 CHECK (paused IN (0, 1)),
  -- The tick that is handled next. NULL: a scheduler finds the first one after now.
  next_tick  BIGINT,
  -- A tick that waits for the end of the previous job.
  queued     BIGINT,
  last_tick  BIGINT,
  last_jobid BIGINT,
  jobs       BIGINT NOT NULL DEFAULT 0,
  skipped    BIGINT NOT NULL DEFAULT 0,
  -- JSON objects: the values that code has declared, and those that an operator has set. `seen`: when a process last
  -- declared the schedule.
  declared   TEXT,
  override   TEXT,
  seen       BIGINT
);
