-- Maximum jobs of a function that start in a period, such as 100/m, and at once; NULL: any number. The time up to which
-- the starts so far have used the rate: a unix time with its fraction.
ALTER TABLE `function`
  ADD COLUMN rate            VARCHAR(20) CHECK (rate REGEXP '^[1-9][0-9]{0,6}/[smhd]$'),
  ADD COLUMN burst           INT CHECK (burst BETWEEN 1 AND 10000),
  ADD COLUMN rate_used_until DOUBLE;
