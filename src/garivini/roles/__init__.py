"""The processes between database and Gearman. Each does one pass and says how long to wait."""
