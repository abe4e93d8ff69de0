-- Days for which dead jobs of a function are kept; NULL: for ever.
ALTER TABLE function ADD COLUMN dead_retention INTEGER CHECK (dead_retention BETWEEN 1 AND 3650);
