-- Reports of a running attempt. Number 0 is its progress, which is overwritten; its lines have the numbers from 1.
CREATE TABLE report (
  jobid       BIGINT NOT NULL,
  attempt     INTEGER NOT NULL,
  number      SMALLINT NOT NULL,
  kind        VARCHAR(20) NOT NULL CHECK (kind IN ('status', 'data', 'warning')),
  reported_at BIGINT NOT NULL,
  body        BYTEA NOT NULL,
  PRIMARY KEY (jobid, attempt, number)
);
-- Finished jobs that are kept until they expire. A result that was too large is NULL.
CREATE TABLE finished (
  jobid       BIGINT NOT NULL PRIMARY KEY,
  funcname    VARCHAR(200) COLLATE "C" NOT NULL,
  uniqkey     VARCHAR(255) COLLATE "C",
  attempt     INTEGER NOT NULL,
  failcount   SMALLINT NOT NULL,
  created     BIGINT NOT NULL,
  finished_at BIGINT NOT NULL,
  expires     BIGINT NOT NULL,
  worker      VARCHAR(255) NOT NULL,
  result      BYTEA
);
CREATE INDEX finished_expires ON finished (expires);
-- Seconds for which finished jobs of a function are kept; NULL: they are not.
ALTER TABLE function ADD COLUMN retention INTEGER CHECK (retention BETWEEN 1 AND 31536000);
