-- Follow-ups whose unique key has its home in another database, until a QueueRunner has moved them there.
-- rule: the rules of the key, as JSON; NULL: the defaults.
CREATE TABLE outbox (
  target     BIGINT NOT NULL,
  id         VARCHAR(32) COLLATE "C" NOT NULL,
  funcname   VARCHAR(200) COLLATE "C" NOT NULL,
  uniqkey    VARCHAR(255) COLLATE "C" NOT NULL,
  "coalesce" VARCHAR(255) COLLATE "C",
  partition  VARCHAR(200) COLLATE "C",
  arg        BYTEA,
  flag       VARCHAR(20) NOT NULL,
  priority   SMALLINT NOT NULL,
  run_after  BIGINT NOT NULL,
  expires    BIGINT,
  rule       VARCHAR(300),
  PRIMARY KEY (target, id)
);
-- Notes of follow-ups that have arrived here, so that none arrives twice.
CREATE TABLE arrived (
  id         VARCHAR(32) COLLATE "C" NOT NULL PRIMARY KEY,
  mover      VARCHAR(32) NOT NULL,
  arrived_at BIGINT NOT NULL
);
CREATE INDEX arrived_at ON arrived (arrived_at);
