"""The jobs that a process holds: keepers renew their leases and commit their outcomes."""
