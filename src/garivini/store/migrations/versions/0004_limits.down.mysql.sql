ALTER TABLE `function` DROP COLUMN max_running;
