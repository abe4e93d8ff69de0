"""Servers of other versions than the machine's: how they are fetched, and which tests run on each."""
