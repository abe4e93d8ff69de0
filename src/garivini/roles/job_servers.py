"""The Gearman servers as a dispatcher sees them: room for a function, submits, questions about attempts."""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from garivini import events
from garivini.errors import GariviniError, UnreachableError
from garivini.gearman.admin import FunctionStatus
from garivini.gearman.aio import Client
from garivini.gearman.protocol import Created, JobStatus, Submission, Unsent
from garivini.gearman.requests import SubmitResult
from garivini.gearman.servers import Counts, queued, server_for, workers
from garivini.model.job import Job
from garivini.model.lease import Found
from garivini.submission import shares


@dataclass(slots=True)
class _Server:
    client: Client
    #: Counts of each function at the last look; None while the server does not answer.
    functions: dict[bytes, FunctionStatus] | None = None
    #: Loop time of its last answer; None before the first question.
    heard: float | None = None
    #: What was submitted on the connection of this generation, by function: the newest of each.
    sent: dict[bytes, OrderedDict[bytes, None]] = field(default_factory=dict)
    generation: int = 0
    #: Loop time since when a function that it knows has had no worker here.
    deserted: dict[bytes, float] = field(default_factory=dict)


class JobServers:
    """All Gearman servers of a dispatcher."""

    def __init__(
        self, addresses: Sequence[str], *, remember: int = 8000, connect: Callable[[str], Client] = Client
    ) -> None:
        """Do no I/O.

        Args:
            addresses: of the servers, ``host:port``.
            remember: submits of each function and server to remember, the newest.
            connect: makes the client of an address.

        """
        self._servers = {address: _Server(connect(address)) for address in addresses}
        #: The server where there is one alone: then nothing is to be chosen.
        self._only = next(iter(self._servers.values())) if len(self._servers) == 1 else None
        self._remember = remember
        self._lost: set[bytes] = set()
        #: How often a connection has been opened again after a loss.
        self.reconnects = 0
        self._looked = -math.inf  # loop time

    @property
    def all_connected(self) -> bool:
        """Whether each server has a connection now."""
        return all(server.client.connected for server in self._servers.values())

    @property
    def answered(self) -> bool:
        """Whether a server answered at the last look."""
        return any(server.functions is not None for server in self._servers.values())

    @property
    def age(self) -> float:
        """Seconds since the last look."""
        return _now() - self._looked

    async def look(self) -> None:
        """Read every server's counts.

        Raises:
            UnreachableError: none of them answers.

        """
        self._looked = _now()
        await asyncio.gather(*map(self._look, self._servers.values()))
        if not self.answered:
            raise UnreachableError(f"no Gearman server answers: {', '.join(self._servers)}")

    async def _look(self, server: _Server) -> None:
        try:
            server.functions = await server.client.functions()
            server.heard = _now()
            self._notice(server)
            for function, status in server.functions.items():
                if status.workers:
                    server.deserted.pop(function, None)
                else:
                    server.deserted.setdefault(function, server.heard)
        except GariviniError as error:
            if server.functions is not None:
                events.emit("gearman.unreachable", server=server.client.address, error=str(error))
            server.functions = None

    def _notice(self, server: _Server) -> None:
        """See whether the connection is a new one: then what was sent on the old may be gone."""
        if server.client.generation == server.generation:
            return
        if server.generation:
            self.reconnects += 1
            self._lost.update(*server.sent.values())
        server.sent.clear()
        server.generation = server.client.generation

    def take_lost(self, prefix: bytes) -> list[bytes]:
        """Return, once, the uniques with this prefix that were sent on connections which have been lost."""
        mine = [unique for unique in self._lost if unique.startswith(prefix)]
        self._lost.difference_update(mine)
        return mine

    def delivered(self, function: bytes, unique: bytes) -> bool:
        """Whether this was submitted from here on a connection that has held since."""
        return any(
            unique in server.sent.get(function, ())
            for server in self._servers.values()
            if server.client.connected and server.client.generation == server.generation
        )

    def queued(self, function: bytes) -> int:
        """Return how many jobs of the function waited for a worker at the last look."""
        return queued(self._counts(), function)

    def _counts(self) -> Counts:
        return {address: server.functions for address, server in self._servers.items()}

    async def submit(self, jobs: Sequence[Submission]) -> list[SubmitResult]:
        """Submit background jobs, each to the server that its unique prefers; one result each, in order.

        A server where the function has a worker comes before one where it has none.
        """
        if not jobs:
            return []
        if self._only is not None:
            return await self._submit(self._only, jobs)
        by_server = shares(self._counts(), jobs)
        answers = await asyncio.gather(
            *(
                self._submit(self._servers[address], [jobs[index] for index in indexes])
                for address, indexes in by_server.items()
            )
        )
        results: list[SubmitResult] = [Unsent()] * len(jobs)
        for indexes, found in zip(by_server.values(), answers, strict=True):
            for index, result in zip(indexes, found, strict=True):
                results[index] = result
        return results

    async def _submit(self, server: _Server, jobs: Sequence[Submission]) -> list[SubmitResult]:
        try:
            results = await server.client.submit(jobs)
        except UnreachableError as error:
            events.emit("gearman.unreachable", server=server.client.address, error=str(error))
            server.functions = None
            return [Unsent()] * len(jobs)
        self._notice(server)
        sent: dict[bytes, list[bytes]] = {}
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, Created):
                sent.setdefault(job.function, []).append(job.unique)
        for function, uniques in sent.items():
            self._remember_sent(server, function, uniques)
        return results

    def _remember_sent(self, server: _Server, function: bytes, uniques: Sequence[bytes]) -> None:
        sent = server.sent.setdefault(function, OrderedDict())
        sent.update(dict.fromkeys(uniques))
        while len(sent) > self._remember:
            # Ordered: a plain dictionary looks for its first item among all that were deleted before it.
            sent.popitem(last=False)

    def client_for(self, job: Job) -> Client:
        """Return the client of the server that ``submit`` would choose for a job under its own function."""
        server = self._only or self._servers[server_for(self._counts(), job.funcname.encode(), job.unique)]
        return server.client

    async def ask(
        self, function: bytes, uniques: Sequence[bytes], *, silence: float, patience: float = math.inf
    ) -> list[Found]:
        """Ask every server for attempts by their uniques.

        Args:
            function: of the attempts.
            uniques: of the attempts.
            silence: seconds after which a server that does not answer counts as one that has nothing.
            patience: seconds without a worker after which a server counts as deserted.

        """
        servers = list(self._servers.values())
        answers = await asyncio.gather(*(self._ask(server, uniques, silence) for server in servers))
        served = [bool(workers(server.functions, function)) for server in servers]
        deserted = [
            not here and _now() - server.deserted.get(function, math.inf) > patience
            for server, here in zip(servers, served, strict=True)
        ]
        return [_found(said, deserted, any(served)) for said in zip(*answers, strict=True)]

    async def _ask(
        self, server: _Server, uniques: Sequence[bytes], silence: float
    ) -> Sequence[JobStatus | Found]:
        if server.heard is None:
            server.heard = _now()
        try:
            statuses = await server.client.status(uniques)
        except GariviniError:
            gone = _now() - server.heard > silence
            return [Found.UNKNOWN if gone else Found.UNDECIDED] * len(uniques)
        server.heard = _now()
        return statuses

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(server.client.close() for server in self._servers.values()))


def _now() -> float:
    """Return the loop's monotonic time."""
    return asyncio.get_running_loop().time()


def _found(said: Sequence[JobStatus | Found], deserted: Sequence[bool], served: bool) -> Found:
    """Put together what all servers say of one attempt.

    Args:
        said: by each server.
        deserted: whether each has had no worker of the function for too long.
        served: whether any has one.

    """
    known = [
        (status, alone)
        for status, alone in zip(said, deserted, strict=True)
        if isinstance(status, JobStatus) and status.known
    ]
    if any(status.running for status, _ in known):
        return Found.RUNNING
    if known:
        return Found.STRANDED if served and all(alone for _, alone in known) else Found.QUEUED
    return Found.UNDECIDED if Found.UNDECIDED in said else Found.UNKNOWN
