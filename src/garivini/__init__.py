"""Durable jobs for Gearman: a job is a row in a SQL database, Gearman carries it to a worker."""

__version__ = "0.1.0"
