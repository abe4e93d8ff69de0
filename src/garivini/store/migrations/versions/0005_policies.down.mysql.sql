ALTER TABLE finished DROP COLUMN seconds;
ALTER TABLE `function`
  DROP COLUMN override, DROP COLUMN declared, DROP COLUMN timeout, DROP COLUMN retry;
