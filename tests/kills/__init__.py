"""Processes killed under load, and a check that every acknowledged job came to its end."""
