DROP TABLE arrived;
DROP TABLE outbox;
