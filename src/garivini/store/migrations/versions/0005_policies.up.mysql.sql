-- The rest of a function's settings, and where each setting comes from: JSON objects of the settings that code has
-- declared, and of those that an operator has set instead. The other columns have the values that apply.
ALTER TABLE `function`
  ADD COLUMN retry    TEXT,
  ADD COLUMN timeout  DOUBLE CHECK (timeout > 0),
  ADD COLUMN declared MEDIUMTEXT,
  ADD COLUMN override MEDIUMTEXT;
-- How long the attempt that succeeded ran. A server that would have to copy the table for that refuses.
ALTER TABLE finished ADD COLUMN seconds DOUBLE, ALGORITHM=INSTANT;
