DROP TABLE garivini_database;
DROP TABLE function;
DROP TABLE failure;
DROP TABLE job;
