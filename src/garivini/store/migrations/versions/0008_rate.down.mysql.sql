ALTER TABLE `function` DROP COLUMN rate_used_until, DROP COLUMN burst, DROP COLUMN rate;
