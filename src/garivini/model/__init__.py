"""What a job is, and the decisions about it: no I/O, no clock."""
