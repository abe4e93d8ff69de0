"""The Gearman servers of a dispatcher: submits jobs, reads counts, and asks about attempts."""

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from garivini import events
from garivini.clock import SYSTEM_CLOCK, Clock
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
    #: Last counts of each function; None while the server does not answer.
    functions: dict[bytes, FunctionStatus] | None = None
    #: Monotonic time of its last answer; None before the first question.
    answered_at: float | None = None
    #: Newest uniques that were delivered on the connection of this generation, by function, oldest first.
    sent: dict[bytes, dict[bytes, None]] = field(default_factory=dict)
    generation: int = 0
    #: For each function without a worker on this server, the monotonic time at which that was first noticed.
    deserted: dict[bytes, float] = field(default_factory=dict)


class JobServers:
    """All Gearman servers of a dispatcher."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        remember: int = 8000,
        connect: Callable[[str], Client] = Client,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Create the clients; this does no I/O.

        Args:
            addresses: ``host:port`` of each server.
            remember: minimum number of delivered jobs to remember per function and server; the maximum is
                twice as many.
            connect: makes the client for an address.
            clock: gives the time.

        """
        self._servers = {address: _Server(connect(address)) for address in addresses}
        #: The server, if there is only one: then there is nothing to choose.
        self._only = next(iter(self._servers.values())) if len(self._servers) == 1 else None
        self._remember = remember
        self._monotonic = clock.monotonic
        self._disconnected: dict[bytes, None] = {}  # in the order in which their connections were lost
        #: How often a connection has been opened again after a loss.
        self.reconnects: int = 0
        self._refreshed_at = -math.inf  # monotonic

    @property
    def all_connected(self) -> bool:
        """Return whether each server is connected."""
        return all(server.client.connected for server in self._servers.values())

    @property
    def answered(self) -> bool:
        """Return whether a server answered at the last refresh."""
        return any(server.functions is not None for server in self._servers.values())

    @property
    def age(self) -> float:
        """Return the seconds since the last refresh began."""
        return self._monotonic() - self._refreshed_at

    async def refresh_counts(self) -> None:
        """Read the counts of every server.

        Raises:
            UnreachableError: no server answers.

        """
        self._refreshed_at = self._monotonic()
        await asyncio.gather(*map(self._refresh, self._servers.values()))
        if not self.answered:
            raise UnreachableError(f"no Gearman server answers: {', '.join(self._servers)}")

    async def _refresh(self, server: _Server) -> None:
        try:
            server.functions = await server.client.functions()
            server.answered_at = self._monotonic()
            self._check_connection(server)
            for function, status in server.functions.items():
                if status.workers:
                    server.deserted.pop(function, None)
                else:
                    server.deserted.setdefault(function, server.answered_at)
        except GariviniError as error:
            if server.functions is not None:
                events.emit("gearman.unreachable", server=server.client.address, error=str(error))
            server.functions = None

    def _check_connection(self, server: _Server) -> None:
        """Detect a new connection: the server may have forgotten jobs that were delivered on the old one."""
        if server.client.generation == server.generation:
            return
        if server.generation:
            self.reconnects += 1
            for sent in server.sent.values():
                self._disconnected.update(dict.fromkeys(self._newest(sent)))
        server.sent.clear()
        server.generation = server.client.generation

    def pop_disconnected(self, prefix: bytes) -> list[bytes]:
        """Return each unique with this prefix, once, that was delivered on a connection lost since then."""
        mine = [unique for unique in self._disconnected if unique.startswith(prefix)]
        for unique in mine:
            del self._disconnected[unique]
        return mine

    def delivered(self, function: bytes, unique: bytes) -> bool:
        """Return whether this process has delivered the job on a connection that is still open."""
        return any(
            unique in server.sent.get(function, ())
            for server in self._servers.values()
            if server.client.connected and server.client.generation == server.generation
        )

    def queued(self, function: bytes) -> int:
        """Return how many jobs of the function waited for a worker at the last refresh."""
        return queued(self._counts(), function)

    def _counts(self) -> Counts:
        return {address: server.functions for address, server in self._servers.items()}

    async def submit(self, jobs: Sequence[Submission]) -> list[SubmitResult]:
        """Submit background jobs, each to the server that its unique prefers; return their results, in order.

        A server on which the function has a worker is preferred to one on which it has none.
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
        self._check_connection(server)
        sent: defaultdict[bytes, list[bytes]] = defaultdict(list)
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, Created):
                sent[job.function].append(job.unique)
        for function, uniques in sent.items():
            self._remember_sent(server, function, uniques)
        return results

    def _remember_sent(self, server: _Server, function: bytes, uniques: Sequence[bytes]) -> None:
        sent = server.sent.setdefault(function, {})
        sent.update(dict.fromkeys(uniques))
        if len(sent) > 2 * self._remember:
            # Many are forgotten at a time, because a dictionary searches for its first item among all deleted
            # ones. An OrderedDict takes several times as long per job.
            server.sent[function] = dict.fromkeys(self._newest(sent))

    def _newest(self, sent: dict[bytes, None]) -> list[bytes]:
        """Return the newest uniques of a function that are to be remembered."""
        return list(sent)[-self._remember :]

    def client_for(self, job: Job) -> Client:
        """Return the client of the server that ``submit`` would choose for a job of its own function."""
        server = self._only or self._servers[server_for(self._counts(), job.funcname.encode(), job.unique)]
        return server.client

    async def ask(
        self, function: bytes, uniques: Sequence[bytes], *, silence: float, patience: float = math.inf
    ) -> list[Found]:
        """Ask every server about attempts; return the combined answer for each, in order.

        Args:
            function: the attempts' function; empty if it does not matter whether they are stranded.
            uniques: the attempts' uniques.
            silence: seconds after which a server that does not answer counts as one that knows no job.
            patience: seconds without a worker of the function after which its jobs on a server are stranded.

        """
        servers = list(self._servers.values())
        answers = await asyncio.gather(*(self._ask(server, uniques, silence) for server in servers))
        served = [bool(workers(server.functions, function)) for server in servers]
        deserted = [
            not here and self._monotonic() - server.deserted.get(function, math.inf) > patience
            for server, here in zip(servers, served, strict=True)
        ]
        return [_combined(each, deserted, any(served)) for each in zip(*answers, strict=True)]

    async def _ask(
        self, server: _Server, uniques: Sequence[bytes], silence: float
    ) -> Sequence[JobStatus | Found]:
        if server.answered_at is None:
            server.answered_at = self._monotonic()
        try:
            statuses = await server.client.status(uniques)
        except GariviniError:
            gone = self._monotonic() - server.answered_at > silence
            return [Found.UNKNOWN if gone else Found.UNDECIDED] * len(uniques)
        server.answered_at = self._monotonic()
        return statuses

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(server.client.close() for server in self._servers.values()))


def _combined(answers: Sequence[JobStatus | Found], deserted: Sequence[bool], served: bool) -> Found:
    """Combine the answers of all servers about one attempt.

    Args:
        answers: one per server.
        deserted: for each server, whether it has had no worker of the function for too long.
        served: whether any server has a worker of the function.

    """
    known = [
        (status, alone)
        for status, alone in zip(answers, deserted, strict=True)
        if isinstance(status, JobStatus) and status.known
    ]
    if any(status.running for status, _ in known):
        return Found.RUNNING
    if known:
        return Found.STRANDED if served and all(alone for _, alone in known) else Found.QUEUED
    return Found.UNDECIDED if Found.UNDECIDED in answers else Found.UNKNOWN
