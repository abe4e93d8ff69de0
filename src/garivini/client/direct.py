"""Direct dispatch: a client submits what it has just inserted, and wakes a QueueRunner for the rest.

Blocking. The row is inserted with its first lease, so no QueueRunner claims it meanwhile, and the job is
submitted after the commit. What cannot be submitted is given back at once, and a QueueRunner carries it.
What fails after the commit raises nothing: the jobs are stored, and it costs time alone.
"""

import ssl
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from garivini import events
from garivini.backoff import Backoff
from garivini.errors import GariviniError
from garivini.gearman import blocking
from garivini.gearman.admin import FunctionStatus
from garivini.gearman.protocol import Created, Refused, Submission, Unknown, Unsent
from garivini.gearman.requests import SubmitResult
from garivini.gearman.servers import Counts, queued
from garivini.model.inserted import Inserted
from garivini.model.job import Job, NewJob
from garivini.model.lease import LEASE, SUBMIT_WITHIN
from garivini.model.pacing import BATCH_BYTES
from garivini.model.policy import Policies
from garivini.store.database import Database
from garivini.store.shards import Shards
from garivini.submission import WAKE, reason_of, shares, submission, unfit

#: Jobs of one insert; of a longer list none is submitted: it takes longer than a submit may wait.
_MOST: Final = 4000
#: Seconds for which the servers' counts are good, and what is set for functions.
_COUNTS_AGE: Final = 1.0
_POLICIES_AGE: Final = 5.0


@dataclass(slots=True)
class _Server:
    """What is known of a server, by all threads."""

    functions: dict[bytes, FunctionStatus] | None = None
    retry_at: float = 0.0  # monotonic
    backoff: Backoff = field(default_factory=lambda: Backoff(first=0.5, longest=10.0))


class DirectDispatch:
    """The way from a client to the Gearman servers. Safe for threads, and after a fork.

    A call takes a set of connections out of a pool, or makes one, and puts it back: so each thread has its
    own without a lock, which a fork could leave locked. What threads know together may be a little wrong:
    then a function gets a little more or less than its room.

    Args:
        shards: where the jobs are.
        job_servers: as ``host:port``.
        watermark: jobs of a function that may wait in gearmand; 0: any number.
        tls: how to encrypt the connections.

    """

    #: Seconds that a call may wait for a server that does not answer.
    TIMEOUT: Final = 1.0

    def __init__(
        self, shards: Shards, job_servers: Sequence[str], *, watermark: int, tls: ssl.SSLContext | None
    ) -> None:
        self._shards = shards
        self._servers = {address: _Server() for address in job_servers}
        self._watermark = watermark
        self._tls = tls
        self._idle: deque[dict[str, blocking.Client]] = deque()
        self._counted = -_COUNTS_AGE  # monotonic
        #: What may still be submitted until the next count, by function and flag.
        self._room: dict[tuple[str, str], int] = {}
        #: By database: when it was read, and what is set there.
        self._policies: dict[int, tuple[float, Policies]] = {}

    def insert(self, jobs: Sequence[NewJob], wake: Callable[[], None]) -> list[Inserted]:
        """Insert jobs and submit those that have room; return one answer each, as ``Shards.insert``.

        ``wake`` is called if jobs are left for a QueueRunner, also if another database has failed.
        """
        left = False

        def into(database: Database, part: Sequence[NewJob]) -> list[Inserted]:
            nonlocal left
            part = self._taken(database, part)
            began = time.monotonic()
            answers = database.insert(part)
            try:
                left |= self._send(database, part, answers, began)
            except Exception:
                # A defect. The jobs are stored, and the caller must get that result.
                events.emit("dispatch.failed", dbid=database.dbid, error=traceback.format_exc())
                left = True
            return answers

        try:
            return self._shards.insert(jobs, into=into)
        finally:
            if left:
                wake()

    # ---- before the insert

    def _taken(self, database: Database, jobs: Sequence[NewJob]) -> Sequence[NewJob]:
        """Return the jobs, with a lease for those that there is room for."""
        if len(jobs) > _MOST or not any(job.dispatch and not job.delay for job in jobs):
            return jobs
        if not self._count():
            return jobs
        policies = self._read_policies(database)
        left = BATCH_BYTES
        taken = []
        for job in jobs:
            policy = policies[job.funcname]
            left -= len(job.arg)
            wanted = job.dispatch and not job.delay and left >= 0 and not unfit(job, policy)
            lease = policy.lease or LEASE
            if wanted and self._use_room(database, job, lease):
                job = replace(job, lease=lease)
            taken.append(job)
        return taken

    def _read_policies(self, database: Database) -> Policies:
        """Return what is set for functions, as it was some seconds ago at most."""
        now = time.monotonic()
        read, policies = self._policies.get(database.dbid, (0.0, None))
        if policies is None or now - read >= _POLICIES_AGE:
            policies = Policies(database.functions())
            self._policies[database.dbid] = now, policies
        return policies

    def _count(self) -> bool:
        """Read how much each function has waiting, unless that is known; return whether a server answers."""
        now = time.monotonic()
        if now - self._counted >= _COUNTS_AGE:
            clients = self._borrow()
            for address, server in self._servers.items():
                if server.retry_at <= now:
                    try:
                        server.functions = clients[address].functions()
                        server.backoff.succeeded()
                    except GariviniError as error:
                        self._failed(address, error)
            self._idle.append(clients)
            self._room = {}
            self._counted = now
        return any(server.functions is not None for server in self._servers.values())

    def _use_room(self, database: Database, job: NewJob, lease: int) -> bool:
        if not self._watermark:
            return True
        rooms, key = self._room, (job.funcname, job.flag)
        if key not in rooms:
            waiting = queued(self._counts(), job.funcname.encode())
            if job.flag == "controller":
                # They wait under one name with those of all functions, and then in a Controller.
                leased = database.leased(job.funcname, lease=lease, limit=self._watermark)
                waiting = max(waiting, leased)
            rooms[key] = self._watermark - waiting
        rooms[key] -= 1
        return rooms[key] >= 0

    # ---- after the commit

    def _send(
        self, database: Database, jobs: Sequence[NewJob], answers: Sequence[Inserted], began: float
    ) -> bool:
        """Submit what was taken and is new; return whether there is something left for a QueueRunner.

        ``began``: monotonic time before the insert.
        """
        taken = []
        left = False
        for job, answer in zip(jobs, answers, strict=True):
            if answer.new and job.lease:
                taken.append(Job.taken(job, answer))
            elif answer.new and not job.delay:
                left = True
        if not taken:
            return left
        _, policies = self._policies[database.dbid]
        results: list[SubmitResult] = [Unsent()] * len(taken)
        # After a longer time somebody may take the attempts for lost.
        if time.monotonic() - began <= min(SUBMIT_WITHIN, *(job.lease / 3 for job in taken)):
            results = self._submit([submission(job, policies[job.funcname]) for job in taken])
        unsent, unknown = [], []
        for held, result in zip(taken, results, strict=True):
            if isinstance(result, Unknown):
                unknown.append(held)
            elif not isinstance(result, Created):
                unsent.append(held)
        events.emit("jobs.dispatched", dbid=database.dbid, jobs=len(taken) - len(unsent) - len(unknown))
        try:
            if unsent:
                self._release(database, unsent, results)
            if unknown:
                self._end_early(database, unknown)
        except GariviniError as error:
            # The leases bring them back.
            events.emit("dispatch.failed", dbid=database.dbid, error=str(error))
        return left or bool(unsent or unknown)

    def _release(self, database: Database, jobs: Sequence[Job], results: Sequence[SubmitResult]) -> None:
        for job in jobs:
            self._room[job.funcname, job.flag] = 0
        events.emit("jobs.released", dbid=database.dbid, jobs=len(jobs), reason=reason_of(results))
        database.release(jobs)

    def _end_early(self, database: Database, jobs: Sequence[Job]) -> None:
        """Let a QueueRunner ask the servers whether they have these."""
        events.emit("jobs.unknown", dbid=database.dbid, jobs=len(jobs))
        for lease in {job.lease for job in jobs}:
            database.end_early([job.handle for job in jobs if job.lease == lease], lease=lease)

    def _submit(self, jobs: Sequence[Submission]) -> list[SubmitResult]:
        results: list[SubmitResult] = [Unsent()] * len(jobs)
        clients = self._borrow()
        for address, indexes in shares(self._counts(), jobs).items():
            try:
                found = clients[address].submit([jobs[index] for index in indexes])
            except GariviniError as error:
                self._failed(address, error)
                continue
            if isinstance(found[-1], Unknown | Unsent):
                self._failed(address, None)  # it went away before it had answered all
            for index, result in zip(indexes, found, strict=True):
                results[index] = result
        self._idle.append(clients)
        return results

    # ---- a QueueRunner

    def wake(self) -> None:
        """Let a QueueRunner look for work at once, through whichever server answers."""
        # One unique: a wake-up that waits already is enough.
        job = Submission(WAKE.encode(), b"", unique=b"wake")
        clients = self._borrow()
        for address, server in self._servers.items():
            if server.retry_at > time.monotonic():
                continue
            try:
                (result,) = clients[address].submit([job])
            except GariviniError as error:
                self._failed(address, error)
                continue
            if isinstance(result, Created | Refused):
                server.backoff.succeeded()
                break
            self._failed(address, None)
        self._idle.append(clients)

    # ---- the servers

    def _counts(self) -> Counts:
        return {address: server.functions for address, server in self._servers.items()}

    def _failed(self, address: str, error: GariviniError | None) -> None:
        """Leave a server alone for a while."""
        server = self._servers[address]
        server.functions = None
        server.retry_at = time.monotonic() + server.backoff.failed()
        events.emit("gearman.unreachable", server=address, error=str(error or "no answer"))

    def _borrow(self) -> dict[str, blocking.Client]:
        try:
            return self._idle.pop()
        except IndexError:
            return {
                address: blocking.Client(address, timeout=self.TIMEOUT, tls=self._tls)
                for address in self._servers
            }

    def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        while self._idle:
            for client in self._idle.pop().values():
                client.close()
