-- Names and keys are compared by bytes. An id is never reused: the sequence only rises, and with ALWAYS no other
-- program can choose one.
CREATE TABLE job (
  jobid      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  funcname   VARCHAR(200) COLLATE "C" NOT NULL,
  arg        BYTEA,
  uniqkey    VARCHAR(255) COLLATE "C",
  run_after  BIGINT NOT NULL,
  "coalesce" VARCHAR(255),
  flag       VARCHAR(10) DEFAULT 'shim',
  failcount  SMALLINT NOT NULL DEFAULT 0,
  -- Our columns, all with defaults, so that a program that writes only the columns above still works.
  priority   SMALLINT NOT NULL DEFAULT 1 CHECK (priority IN (0, 1, 2)),
  created    BIGINT NOT NULL DEFAULT 0,
  attempt    INTEGER NOT NULL DEFAULT 0,
  state      SMALLINT NOT NULL DEFAULT 0 CHECK (state BETWEEN 0 AND 4),
  since      BIGINT NOT NULL DEFAULT 0,
  crashes    INTEGER NOT NULL DEFAULT 0
);
-- A job leaves several dead rows, so with the default threshold of a fifth of the table millions would collect beside
-- a backlog. No update here can be heap-only, because each changes the lane index, so free space in the pages would not
-- help. The file keeps its size: shrinking it locks the table, and the queue needs the space again.
ALTER TABLE job SET (
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000, vacuum_truncate = off
);
-- A claim reads the first rows of one lane, and none of a function at its limit or of a backlog in another state.
CREATE INDEX job_lane ON job (funcname, state, priority, run_after);
CREATE UNIQUE INDEX job_uniqkey ON job (funcname, uniqkey) WHERE uniqkey IS NOT NULL;
-- One row per attempt that did not complete, and per death of its process. The key makes a repeated report
-- harmless.
CREATE TABLE failure (
  jobid      BIGINT NOT NULL,
  attempt    INTEGER NOT NULL,
  failed_at  BIGINT NOT NULL,
  kind       VARCHAR(20) NOT NULL,
  error      VARCHAR(255) NOT NULL,
  message    TEXT NOT NULL,
  trace      TEXT NOT NULL,
  worker     VARCHAR(255) NOT NULL,
  PRIMARY KEY (jobid, attempt, kind)
);
-- The settings of a function; NULL if the default applies.
CREATE TABLE function (
  funcname      VARCHAR(200) COLLATE "C" NOT NULL PRIMARY KEY,
  lease         INTEGER CHECK (lease BETWEEN 3 AND 604800),
  deadline      INTEGER CHECK (deadline BETWEEN 1 AND 31536000),
  renews        BOOLEAN,
  envelope      VARCHAR(10) CHECK (envelope IN ('json', 'latin-1', 'raw')),
  max_failures  INTEGER CHECK (max_failures BETWEEN 1 AND 255)
);
-- The id by which rows and handles name this database. A client that knows the database by another id is refused.
CREATE TABLE garivini_database (
  dbid       BIGINT NOT NULL,
  -- At most one row, even if two processes insert it at the same time.
  one       BOOLEAN NOT NULL DEFAULT true CHECK (one) UNIQUE
);
