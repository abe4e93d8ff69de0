"""Gearman: packets, both sides of the protocol, blocking and asyncio shells, and an embedded server."""
