"""The client of a queue: inserts jobs, reports their ends and reads them."""

from garivini.client.client import Client

__all__ = ["Client"]
