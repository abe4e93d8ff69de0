"""Workers: the real one, its threads in lockstep with the loop, and a foreign one."""

import asyncio
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

from garivini.client import Client
from garivini.errors import GariviniError
from garivini.gearman.aio import Held as RealHeld
from garivini.gearman.protocol import Assigned
from garivini.keeper.supervised_child import Obituary, Slot, SupervisedChild
from garivini.model.job import Job
from garivini.model.payload import decode_payload
from garivini.worker import Registered, Worker
from garivini.worker.serving import Serving
from tests.simulation.database import Connection
from tests.simulation.loop import VirtualLoop
from tests.simulation.processes import MainThread, Process, Thread, Threads, clock_of
from tests.simulation.servers import Held, Server, WorkerLink


class Databases:
    """Stands in for ``store.shards.Shards``: one database."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __iter__(self) -> Any:
        return iter([self._connection])

    def __getitem__(self, dbid: int) -> Connection:
        assert dbid == self._connection.dbid
        return self._connection


class WorkerProcess(Process):
    """A child of ``garivini worker``.

    Args:
        functions: makes what it runs.
        concurrency: of ``async def`` functions.
        obituaries: what its parent gives it to record.
        arrived: called with each copy that comes in.
        told: called with each copy that it says to have done with.
        source: of the jitter of its delays.

    """

    def __init__(
        self,
        loop: VirtualLoop,
        name: str,
        servers: Sequence[Server],
        connect: Callable[[Process], Connection],
        functions: Callable[["WorkerProcess"], Mapping[str, Registered]],
        *,
        concurrency: int,
        obituaries: list[Obituary],
        arrived: Callable[[Process, Assigned], None],
        told: Callable[[Process, Assigned], None],
        source: random.Random,
    ) -> None:
        super().__init__(loop, name)
        self.child = SupervisedChild(-1, Slot(), list(obituaries), 30.0)
        self._given = obituaries
        self.links: list[WorkerLink] = []
        self.stop = asyncio.Event()
        self._came: dict[bytes, Held] = {}
        self._servers = {server.address: server for server in servers}
        self._arrived = arrived
        self._told = told
        shards = Databases(connect(self))
        client = cast(Client, SimpleNamespace(shards=shards, job_servers=(), wake=None))
        worker = Worker(client, list(self._servers), concurrency=concurrency)
        worker.functions.update(functions(self))
        self.main = MainThread(self, lambda call: False)
        self.serving = Serving(
            worker,
            cast(asyncio.AbstractEventLoop, self.main),
            self.child.drain,
            self.child,
            clock=clock_of(self, source),
            connection=cast(Any, self.link),
        )

    def start(self) -> None:
        self.loop.create_task(self.serving.run(self.stop))
        Thread(self.serving.blocking.run, process=self).start()

    def link(
        self,
        address: str,
        functions: Sequence[bytes],
        on_job: Callable[[RealHeld], None],
        *,
        on_lost: Callable[[Collection[Any]], None],
        **options: Any,
    ) -> WorkerLink:
        """Take the place of ``gearman.aio.Worker``."""

        def arrive(held: Held) -> None:
            self._came[held.job.unique] = held
            self._arrived(self, held.job)
            on_job(cast(RealHeld, held))

        link = WorkerLink(
            self._servers[address],
            self,
            lambda: self.main,
            list(functions),
            arrive,
            1,
            lambda job: self._told(self, job),
            on_lost,
        )
        self.links.append(link)
        return link

    def lost(self, unique: bytes) -> bool:
        """Whether the connection is gone over which this copy came last."""
        return self._came[unique].disconnected

    def left(self, message: str) -> list[Obituary]:
        """Return what its parent reads of it after its death."""
        handle, _, told, _ = self.child.slot.read()[:4]
        left = [] if told else list(self._given)
        if handle is not None:
            left.append(Obituary(handle, "crashed", message))
        return left


class ForeignWorker(Process):
    """A worker in another language: it knows nothing of leases, and deletes or puts off jobs by their ids.

    Args:
        run: called with this process and a job; returns ``done``, or ``later`` and seconds.

    """

    def __init__(
        self,
        loop: VirtualLoop,
        name: str,
        server: Server,
        connect: Callable[[Process], Connection],
        functions: Sequence[str],
        run: Callable[["ForeignWorker", Job], Any],
        told: Callable[[Process, Assigned], None],
    ) -> None:
        super().__init__(loop, name)
        self._database = connect(self)
        self._run = run
        self._main = MainThread(self, lambda call: False)
        self.links = [
            WorkerLink(
                server,
                self,
                lambda: self._main,
                [name.encode() for name in functions],
                self._take,
                1,
                lambda job: told(self, job),
            )
        ]

    def start(self) -> None:
        self.loop.create_task(self.links[0].run())

    def lost(self, unique: bytes) -> bool:
        return False  # it looks at nothing

    def _take(self, held: Held) -> None:
        self.loop.create_task(self._work(held))

    async def _work(self, held: Held) -> None:
        job = decode_payload(held.job.data)
        word, _, seconds = (await self._run(self, job)).partition(" ")
        while True:
            try:
                if word == "later":
                    put_off = self._database.put_off_apart
                    await self.loop.run_in_executor(Threads(self), put_off, job.jobid, int(seconds))
                else:
                    await self.loop.run_in_executor(Threads(self), self._database.complete, [job.jobid])
            except GariviniError:
                await self.sleep(0.5)
            else:
                break
        held.complete()
