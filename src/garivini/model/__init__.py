"""A job, its values, and the decisions about it. No I/O, no clock."""
