"""The client for asyncio, which ``garivini.client.aio`` defines."""

from garivini.client.aio import AsyncClient

__all__ = ["AsyncClient"]
