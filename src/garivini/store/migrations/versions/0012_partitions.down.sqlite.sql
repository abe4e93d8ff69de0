DROP TABLE partition_rate;
DROP TABLE turn_partition;
DROP TABLE turn;
ALTER TABLE function DROP COLUMN fair;
ALTER TABLE function DROP COLUMN partition_burst;
ALTER TABLE function DROP COLUMN partition_rate;
ALTER TABLE function DROP COLUMN partition_max_running;
ALTER TABLE job DROP COLUMN "partition";
