DROP TABLE partition_rate;
DROP TABLE turn_partition;
DROP TABLE turn;
ALTER TABLE `function` DROP COLUMN fair, DROP COLUMN partition_burst, DROP COLUMN partition_rate,
  DROP COLUMN partition_max_running;
ALTER TABLE job DROP COLUMN `partition`;
