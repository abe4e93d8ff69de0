-- Unix time until which no job of the function is handed out; NULL: the function is not paused.
ALTER TABLE function ADD COLUMN paused_until BIGINT;
