"""What a process holds of each database's jobs: leases are renewed, outcomes committed."""
