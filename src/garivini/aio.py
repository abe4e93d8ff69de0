"""The client for asyncio; its home is ``garivini.client.aio``."""

from garivini.client.aio import AsyncClient

__all__ = ["AsyncClient"]
