-- Values of a job beside its argument, for hooks and tools: a JSON object. NULL: there are none.
ALTER TABLE job
  ADD COLUMN headers VARCHAR(2048) CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */,
  ALGORITHM=INSTANT;
ALTER TABLE successor
  ADD COLUMN headers VARCHAR(2048) CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */,
  ALGORITHM=INSTANT;
ALTER TABLE outbox
  ADD COLUMN headers VARCHAR(2048) CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */,
  ALGORITHM=INSTANT;
