-- The rest of a function's settings, and where each setting comes from: JSON objects of the settings that code has
-- declared, and of those that an operator has set instead. The other columns have the values that apply.
ALTER TABLE function ADD COLUMN retry TEXT;
ALTER TABLE function ADD COLUMN timeout REAL CHECK (timeout > 0);
ALTER TABLE function ADD COLUMN declared TEXT;
ALTER TABLE function ADD COLUMN override TEXT;
-- How long the attempt that succeeded ran.
ALTER TABLE finished ADD COLUMN seconds REAL;
