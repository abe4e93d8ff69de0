-- Reports of a running attempt. Number 0 is its progress, which is overwritten; its lines have the numbers from 1.
CREATE TABLE report (
  jobid       INTEGER NOT NULL,
  attempt     INTEGER NOT NULL,
  number      INTEGER NOT NULL,
  kind        VARCHAR(20) NOT NULL CHECK (kind IN ('status', 'data', 'warning')),
  reported_at INTEGER NOT NULL,
  body        BLOB NOT NULL,
  PRIMARY KEY (jobid, attempt, number)
);
-- Finished jobs that are kept until they expire. A result that was too large is NULL.
CREATE TABLE finished (
  jobid       INTEGER PRIMARY KEY,
  funcname    VARCHAR(200) NOT NULL,
  uniqkey     VARCHAR(255),
  attempt     INTEGER NOT NULL,
  failcount   INTEGER NOT NULL,
  created     INTEGER NOT NULL,
  finished_at INTEGER NOT NULL,
  expires     INTEGER NOT NULL,
  worker      VARCHAR(255) NOT NULL,
  result      BLOB
);
CREATE INDEX finished_expires ON finished (expires);
-- Seconds for which finished jobs of a function are kept; NULL: they are not.
ALTER TABLE function ADD COLUMN retention INTEGER CHECK (retention BETWEEN 1 AND 31536000);
