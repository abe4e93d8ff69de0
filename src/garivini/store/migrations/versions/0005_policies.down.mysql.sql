ALTER TABLE failure DROP COLUMN fingerprint;
ALTER TABLE finished DROP COLUMN seconds;
ALTER TABLE `function`
  DROP COLUMN override, DROP COLUMN declared, DROP COLUMN dead_retention, DROP COLUMN timeout, DROP COLUMN retry;
