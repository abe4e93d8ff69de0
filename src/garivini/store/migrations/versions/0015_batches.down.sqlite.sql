DROP TABLE batch_member;
DROP TABLE batch;
