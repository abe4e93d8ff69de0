-- Without AUTOINCREMENT SQLite reuses the id of a deleted last row, and a late completion would delete another job.
CREATE TABLE job (
  jobid      INTEGER PRIMARY KEY AUTOINCREMENT,
  funcname   VARCHAR(200) NOT NULL,
  arg        BLOB,
  uniqkey    VARCHAR(255),
  run_after  INTEGER NOT NULL,
  "coalesce" VARCHAR(255),
  flag       VARCHAR(10) DEFAULT 'shim',
  failcount  INTEGER NOT NULL DEFAULT 0,
  -- Our columns, all with defaults, so that a program that writes only the columns above still works.
  priority   INTEGER NOT NULL DEFAULT 1 CHECK (priority IN (0, 1, 2)),
  created    INTEGER NOT NULL DEFAULT 0,
  attempt    INTEGER NOT NULL DEFAULT 0,
  state      INTEGER NOT NULL DEFAULT 0 CHECK (state BETWEEN 0 AND 4),
  since      INTEGER NOT NULL DEFAULT 0,
  crashes    INTEGER NOT NULL DEFAULT 0
);
-- A claim reads the first rows of one lane, and none of a function at its limit or of a backlog in another state.
CREATE INDEX job_lane ON job (funcname, state, priority, run_after);
CREATE UNIQUE INDEX job_uniqkey ON job (funcname, uniqkey) WHERE uniqkey IS NOT NULL;
-- One row per attempt that did not complete, and per death of its process. The key makes a repeated report
-- harmless.
CREATE TABLE failure (
  jobid      INTEGER NOT NULL,
  attempt    INTEGER NOT NULL,
  failed_at  INTEGER NOT NULL,
  kind       VARCHAR(20) NOT NULL,
  error      VARCHAR(255) NOT NULL,
  message    TEXT NOT NULL,
  trace      TEXT NOT NULL,
  worker     VARCHAR(255) NOT NULL,
  PRIMARY KEY (jobid, attempt, kind)
) WITHOUT ROWID;
-- The settings of a function; NULL if the default applies.
CREATE TABLE function (
  funcname      VARCHAR(200) NOT NULL PRIMARY KEY,
  lease         INTEGER CHECK (lease BETWEEN 3 AND 604800),
  deadline      INTEGER CHECK (deadline BETWEEN 1 AND 31536000),
  renews        INTEGER CHECK (renews IN (0, 1)),
  envelope      VARCHAR(10) CHECK (envelope IN ('json', 'latin-1', 'raw')),
  max_failures  INTEGER CHECK (max_failures BETWEEN 1 AND 255)
) WITHOUT ROWID;
-- The id by which rows and handles name this database. A client that knows the database by another id is refused.
CREATE TABLE garivini_database (
  dbid       INTEGER NOT NULL PRIMARY KEY
);
