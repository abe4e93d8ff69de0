-- `rate`: maximum jobs of a function that start in a period, such as 100/m. `burst`: maximum that start at once. NULL:
-- any number. `rate_used_until`: the unix time, with its fraction, up to which the starts so far have used the rate.
ALTER TABLE function ADD COLUMN rate VARCHAR(20)
  CHECK (rate GLOB '[1-9]*/[smhd]' AND rate NOT GLOB '*[^0-9]*[^0-9]*[^0-9]*');
ALTER TABLE function ADD COLUMN burst INTEGER CHECK (burst BETWEEN 1 AND 10000);
ALTER TABLE function ADD COLUMN rate_used_until REAL;
