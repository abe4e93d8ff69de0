"""Direct dispatch of an Injector: it leases jobs before their insert, and submits them after it."""

import asyncio
import ssl
import traceback
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from garivini import events
from garivini.clock import Clock
from garivini.errors import GariviniError
from garivini.gearman.aio import Client
from garivini.gearman.protocol import Submission
from garivini.model.inserted import Inserted
from garivini.model.job import Job, NewJob
from garivini.model.pacing import WATERMARK
from garivini.roles.dispatcher import Dispatcher
from garivini.roles.id_watch import IdWatch
from garivini.roles.inject_passes import InjectPasses
from garivini.roles.job_servers import JobServers
from garivini.roles.runner import run_passes
from garivini.roles.watermark import Watermark
from garivini.store.shards import Shards
from garivini.submission import WAKE

#: Seconds between two counts of the jobs that wait in the servers: usually, and while a function fills up.
_COUNT_INTERVAL: Final = 1.0
_COUNT_INTERVAL_MIN: Final = 0.02


class InjectDispatch:
    """Dispatches the jobs that an Injector stores, as far as their functions have room.

    It is also a loop of passes, which count the jobs that wait in the servers.

    Args:
        shards: the databases of the jobs.
        addresses: ``host:port`` of each Gearman server.
        lease: seconds of a lease, for functions that have none of their own.
        watermark: maximum jobs of a function that wait in gearmand; 0: unlimited.
        tls: encrypts the connections, if given.
        clock: gives the time.

    """

    name: Final = "injector"

    def __init__(
        self,
        shards: Shards,
        addresses: Sequence[str],
        lease: int,
        watermark: int,
        tls: ssl.SSLContext | None,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._servers = JobServers(
            addresses,
            remember=2 * (watermark or WATERMARK),
            connect=partial(Client, tls=tls),
            clock=clock,
        )
        self._watermark = Watermark(self._servers, watermark)
        self._dispatchers = {
            database.dbid: Dispatcher(database, self._servers, self._watermark, lease=lease, clock=clock)
            for database in shards
        }
        self._ids = {dbid: IdWatch(dbid) for dbid in self._dispatchers}
        self._stop = asyncio.Event()
        #: Events that start the next count immediately: of the servers, and of the leased rows of each
        #: database.
        self._count = asyncio.Event()
        self._count_leased = [asyncio.Event() for _ in self._dispatchers]
        self._loops: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> list[asyncio.Task[None]]:
        """Count once, so that the first call can be dispatched, and start the loops."""
        policies = (dispatcher.refresh() for dispatcher in self._dispatchers.values())
        # If a server or database does not answer now, the passes ask it again.
        await asyncio.gather(*policies, self.run_pass(), return_exceptions=True)
        passes = [InjectPasses(each, self._servers, self._watermark) for each in self._dispatchers.values()]
        self._loops = [
            asyncio.create_task(run_passes(self, stop=self._stop, wake=self._count, clock=self._clock)),
            *(
                asyncio.create_task(run_passes(one, stop=self._stop, wake=wake, clock=self._clock))
                for one, wake in zip(passes, self._count_leased, strict=True)
            ),
        ]
        return self._loops

    async def run_pass(self) -> float:
        """Count the jobs that wait in the servers; return the seconds until the next count."""
        try:
            await self._servers.refresh_counts()
        finally:
            self._watermark.counts_refreshed(self._clock.monotonic())
        return _COUNT_INTERVAL

    async def drain(self) -> None:
        """Wait until the stored jobs are dispatched and the passes have ended."""
        await asyncio.gather(*self._tasks)
        self._stop.set()
        await asyncio.gather(*self._loops)

    async def close(self) -> None:
        """Close connections and end the database threads."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for dispatcher in self._dispatchers.values():
            dispatcher.close()
        await self._servers.close()

    # ---- before the insert

    def lease(self, jobs: list[NewJob]) -> list[NewJob]:
        """Give jobs that are due and have room their first lease; QueueRunners dispatch the others."""
        dispatchers = self._dispatchers.values()
        if not self._servers.answered or not all(each.knows_rules() for each in dispatchers):
            return jobs
        due: dict[str, list[int]] = {}
        ruled = frozenset[str]().union(*(each.ruled for each in dispatchers))
        for index, job in enumerate(jobs):
            if not job.delay and job.funcname not in ruled:
                due.setdefault(job.funcname, []).append(index)
                if job.flag == "controller":
                    self._watermark.note_controlled(job.funcname)
        for funcname, indexes in due.items():
            left = self._watermark.room(funcname)
            leased = indexes if left is None else indexes[:left]
            self._watermark.use(funcname, len(leased))
            filling = left is not None and left - len(leased) <= self._watermark.limit // 2
            if filling and self._servers.age > _COUNT_INTERVAL_MIN:
                for count in (self._count, *self._count_leased):
                    count.set()
            lease = max(each.lease(funcname) for each in dispatchers)
            for index in leased:
                jobs[index] = jobs[index].with_lease(lease)
        return jobs

    # ---- after the commit

    def dispatch(self, stored: Sequence[tuple[NewJob, Inserted]], began: float) -> None:
        """Start to submit the new jobs that are leased. If others are due, wake a QueueRunner.

        ``began``: the monotonic time just before the insert.
        """
        leased: dict[int, list[Job]] = {}
        rest = False
        for job, at in stored:
            if at.new and job.lease:
                leased.setdefault(at.dbid, []).append(Job.from_insert(job, at))
            elif at.new and not job.delay:
                rest = True
        if stored and (last := stored[-1][1]).new:
            self._ids[last.dbid].note(last.jobid, last.created)
        if rest:
            self._run(self._wake())
        for dbid, part in leased.items():
            self._run(self._dispatch(self._dispatchers[dbid], part, began))

    def _run(self, step: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(step)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _wake(self) -> None:
        """Start the next pass of a QueueRunner, for jobs that have no room here."""
        # All wake-ups have the same unique, because one waiting wake-up is enough.
        await self._servers.submit([Submission(WAKE.encode(), b"", unique=b"wake")])

    async def _dispatch(self, dispatcher: Dispatcher, jobs: Sequence[Job], began: float) -> None:
        try:
            # If the settings cannot be read now, those that were read before apply.
            with suppress(GariviniError):
                await dispatcher.refresh()
            await dispatcher.send(jobs, began)
        except Exception as error:
            text = str(error) if isinstance(error, GariviniError) else traceback.format_exc()
            events.emit("inject.not_dispatched", dbid=dispatcher.database.dbid, jobs=len(jobs), error=text)
