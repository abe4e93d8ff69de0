"""The clients of an application, which are made when they are first used."""

import asyncio
import os
import ssl
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from garivini import settings
from garivini.client import Client
from garivini.client.aio import AsyncClient
from garivini.databases import DatabasesLike
from garivini.errors import UsageError


@dataclass(frozen=True, slots=True)
class Connections:
    """The values that an application was given. None: the value comes from the settings."""

    dbs: DatabasesLike | None = None
    job_servers: str | Iterable[str] | None = None
    tls: ssl.SSLContext | None = None
    watermark: int | None = None


class Clients(Protocol):
    """What inserts the jobs of an application."""

    @property
    def client(self) -> Client:
        """The client for blocking calls."""

    @property
    def async_client(self) -> AsyncClient:
        """The client of the running loop."""


class Connecting:
    """Makes the clients of an application.

    Args:
        name: of the application's module, for messages.
        file: of that module, near which ``garivini.toml`` is searched; None: it has none.
        given: what the application was given.

    """

    def __init__(self, name: str, file: str | None, given: Connections) -> None:
        self._name = name
        self._file = file
        self._given = given
        self._lock = threading.Lock()
        self._others: Clients | None = None
        self._client: Client | None = None
        self._async_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[int, AsyncClient]] = (
            WeakKeyDictionary()
        )

    def configure(self, **given: Any) -> None:
        """Replace what the application was given. None leaves a value as it is.

        Raises:
            UsageError: a client exists already.

        """
        with self._lock:
            if self._client is not None or self._async_clients:
                raise UsageError("configure() is called before the first insert, and a client exists already")
            named = {name: value for name, value in given.items() if value is not None}
            self._given = replace(self._given, **named)

    @property
    def client(self) -> Client:
        """The client for blocking calls."""
        if self._others is not None:
            return self._others.client
        if self._client is None:
            with self._lock:
                if self._client is None:
                    self._client = Client(**self._values())
        return self._client

    @property
    def async_client(self) -> AsyncClient:
        """The client of the running loop in this process."""
        if self._others is not None:
            return self._others.async_client
        loop = asyncio.get_running_loop()
        pid, client = self._async_clients.get(loop, (0, None))
        if client is None or pid != os.getpid():
            client = AsyncClient(**self._values())
            self._async_clients[loop] = (os.getpid(), client)
        return client

    @contextmanager
    def replaced(self, others: "Clients") -> Iterator[None]:
        """Use other clients in the body, as tests do."""
        before, self._others = self._others, others
        try:
            yield
        finally:
            self._others = before

    def close(self) -> None:
        """Close the connections of the blocking client. A later call opens new ones."""
        if self._client is not None:
            self._client.close()

    async def close_async(self) -> None:
        """Close the client of the running loop, after the calls in progress."""
        _, client = self._async_clients.pop(asyncio.get_running_loop(), (0, None))
        if client is not None:
            await client.close()

    def _values(self) -> dict[str, Any]:
        given = self._given
        dbs, job_servers, tls = given.dbs, given.job_servers, given.tls
        if dbs is None or job_servers is None:
            found = settings.of_application(self._file)
            if dbs is None:
                if not found.names_databases:
                    raise UsageError(
                        f"the application in {self._name} has no database: give Garivini(...) one, call "
                        "app.configure(dbs=...), set the environment variable GARIVINI_DB, or write "
                        f"{settings.SETTINGS_FILE} beside the module or in a folder above"
                    )
                dbs = found.databases()
            if job_servers is None and found.names_job_servers:
                job_servers, tls = found.job_servers(), tls or found.tls()
        values = {"dbs": dbs, "job_servers": job_servers, "tls": tls}
        return values if given.watermark is None else {**values, "watermark": given.watermark}
