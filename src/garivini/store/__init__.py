"""Jobs in SQL: named statements, one database, and which of several."""
