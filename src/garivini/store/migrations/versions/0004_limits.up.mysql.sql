-- Maximum jobs of a function in flight; NULL: any number.
ALTER TABLE `function` ADD COLUMN max_running INT CHECK (max_running BETWEEN 1 AND 10000);
