-- Follow-ups whose unique key has its home in another database, until a QueueRunner has moved them there.
-- rule: the rules of the key, as JSON; NULL: the defaults.
CREATE TABLE outbox (
  target     INTEGER NOT NULL,
  id         VARCHAR(32) NOT NULL,
  funcname   VARCHAR(200) NOT NULL,
  uniqkey    VARCHAR(255) NOT NULL,
  "coalesce" VARCHAR(255),
  "partition" VARCHAR(200),
  arg        BLOB,
  flag       VARCHAR(20) NOT NULL,
  priority   INTEGER NOT NULL,
  run_after  INTEGER NOT NULL,
  expires    INTEGER,
  rule       VARCHAR(300),
  PRIMARY KEY (target, id)
) WITHOUT ROWID;
-- Notes of follow-ups that have arrived here, so that none arrives twice.
CREATE TABLE arrived (
  id         VARCHAR(32) NOT NULL PRIMARY KEY,
  mover      VARCHAR(32) NOT NULL,
  arrived_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX arrived_at ON arrived (arrived_at);
