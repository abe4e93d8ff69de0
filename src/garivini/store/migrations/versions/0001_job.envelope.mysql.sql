-- Workers of the original read each character of an argument as one byte. The row without a name holds for all
-- functions that have no envelope of their own.
INSERT INTO `function` (funcname, envelope)
SELECT '', 'latin-1' FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM `function` AS given WHERE given.funcname = '');
