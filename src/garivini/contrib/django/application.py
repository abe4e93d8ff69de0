"""The application whose jobs are inserted through Django's own connection, in its transaction."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from copy import copy
from typing import Any, Final
from weakref import WeakKeyDictionary

from asgiref.sync import sync_to_async
from django.db import connections, transaction

from garivini import settings
from garivini.app import Garivini
from garivini.client import Client
from garivini.client.aio import AsyncClient
from garivini.contrib.django import databases
from garivini.contrib.django.job_connections import around_async_job, around_job
from garivini.errors import DuplicateJobError, UsageError
from garivini.model.inserted import Inserted
from garivini.model.job import Job, NewJob
from garivini.store.callers import Joinable
from garivini.store.database import Database


class DjangoClient(Client):
    """A client that inserts through Django's connection of the calling thread.

    In ``atomic()``, the job is part of that transaction, and a QueueRunner is woken after its commit.
    Otherwise the insert is a transaction of its own.

    Args:
        alias: of the database in ``DATABASES``.

    """

    def __init__(self, alias: str, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        #: The alias of the database in ``DATABASES``.
        self.alias: str = alias

    def reading(self) -> Database:
        """Return the database, for reads through Django's connection, which see the open transaction."""
        (database,) = self._shards
        found = connections[self.alias]
        found.ensure_connection()
        other = copy(database)
        other.connections = database.connections.joining(found.connection)
        return other

    def _insert_checked(
        self,
        jobs: Sequence[NewJob],
        connection: Joinable | None = None,
        *,
        wake: Callable[[], None] | None = None,
    ) -> list[Inserted]:
        if connection is not None:
            return super()._insert_checked(jobs, connection, wake=wake)
        duplicate: DuplicateJobError | UsageError | None = None
        answers: list[Inserted] = []
        # An error of the database breaks the transaction on PostgreSQL, so that Django has to know of it.
        with transaction.atomic(using=self.alias, savepoint=False):
            try:
                # The driver's own connection: Django's cursor of SQLite replaces %s inside of texts.
                answers = super()._insert_checked(jobs, connections[self.alias].connection, wake=wake)
            except (DuplicateJobError, UsageError) as error:
                duplicate = error  # nothing was done, and the transaction can continue
            if any(answer.new and not job.delay for job, answer in zip(jobs, answers, strict=False)):
                transaction.on_commit(wake or self.wake, using=self.alias)
        if duplicate is not None:
            raise duplicate
        return answers


class DjangoAsyncClient(AsyncClient):
    """An asynchronous client that inserts through Django's connection, in the thread of ``sync_to_async``."""

    def __init__(self, client: DjangoClient, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._django: Final = client

    async def insert_job(self, *args: Any, **named: Any) -> Inserted:
        """Insert a job: see ``Client.insert_job``."""
        found: Inserted = await sync_to_async(self._django.insert_job)(*args, **named)
        return found

    async def insert_jobs(self, *args: Any, **named: Any) -> list[Inserted]:
        """Insert jobs: see ``Client.insert_jobs``."""
        found: list[Inserted] = await sync_to_async(self._django.insert_jobs)(*args, **named)
        return found


class DjangoGarivini(Garivini):
    """An application with the database and Gearman servers of Django's settings.

    ``GARIVINI`` has ``DATABASE``, an alias of ``DATABASES`` (by default, the routers choose), and
    ``JOB_SERVERS``. The environment and ``garivini.toml`` have the Gearman servers if it has none.
    """

    def __init__(self) -> None:
        super().__init__()
        self._clients: dict[tuple[str, str], DjangoClient] = {}
        self._async: WeakKeyDictionary[asyncio.AbstractEventLoop, DjangoAsyncClient] = WeakKeyDictionary()
        self.around(_around)
        self.around(_around_async)

    @property
    def client(self) -> Client:
        """The client of the database. Raises ``UsageError`` if its settings cannot be used."""
        others = self._connecting._others  # those of ``garivini.testing``
        return self.django_client if others is None else others.client

    @property
    def django_client(self) -> DjangoClient:
        """The client of the database, also in a test that replaces ``client``. Raises as ``client``."""
        alias = databases.alias()
        key = alias, str(connections[alias].settings_dict["NAME"])  # tests replace the name
        if key not in self._clients:
            self._clients[key] = DjangoClient(alias, **_values())
        return self._clients[key]

    @property
    def async_client(self) -> AsyncClient:
        """The client of the running event loop; it inserts as ``client`` does."""
        if self._connecting._others is not None:
            return self._connecting._others.async_client
        loop = asyncio.get_running_loop()
        if loop not in self._async:
            self._async[loop] = DjangoAsyncClient(self.django_client, **_values())
        return self._async[loop]

    def close(self) -> None:
        """Close the connections that are not Django's. A later call opens new ones."""
        for client in self._clients.values():
            client.close()

    async def close_async(self) -> None:
        """Close the client of the running event loop, after the calls in progress."""
        found = self._async.pop(asyncio.get_running_loop(), None)
        if found is not None:
            await found.close()


def _values() -> dict[str, Any]:
    servers, found = databases.options().get("JOB_SERVERS"), settings.current()
    named = servers is None and found.names_job_servers
    return {
        "dbs": databases.database(),
        "job_servers": found.job_servers() if named else servers,
        "tls": found.tls() if found.names_job_servers or servers else None,
    }


def _around(job: Job) -> Iterator[None]:
    with around_job():
        yield


async def _around_async(job: Job) -> AsyncIterator[None]:
    async with around_async_job():
        yield


#: The application: ``@app.job`` makes typed functions, whose inserts are part of Django's transaction.
app: Final = DjangoGarivini()
