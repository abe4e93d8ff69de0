DROP TABLE garivini_database;
DROP TABLE failure;
DROP TABLE job;
