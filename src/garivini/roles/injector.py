"""The Injector: stores the jobs of any Gearman client, answers after the commit, and dispatches them.

A client submits a foreground job of ``inject_jobs``. The calls that arrive while a batch is being committed
become the next batch, so many callers cost few commits. A batch is answered after its commit, and only
then are its jobs submitted to the Gearman servers, while the next batch is being committed. A QueueRunner may
submit a job before its call is answered: a job that has no room here, or whose function has rules.
"""

import asyncio
import ssl
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from garivini import events
from garivini.clock import SYSTEM_CLOCK, Clock
from garivini.errors import GariviniError, UsageError
from garivini.gearman.aio import Held, Worker
from garivini.model.inserted import Inserted
from garivini.model.job import NewJob
from garivini.model.lease import LEASE, check_lease
from garivini.model.limits import MAX_ARG
from garivini.model.pacing import WATERMARK
from garivini.roles.inject_calls import Rate, Rules, answer, read, refusal
from garivini.roles.inject_dispatch import InjectDispatch
from garivini.roles.inject_streams import InjectCall, Stream
from garivini.roles.runner import run_role
from garivini.store.shards import Shards
from garivini.store.split_inserts import SplitInserts
from garivini.submission import INJECT_JOBS

#: While the held payloads have at least this many bytes, no more calls are requested.
_MAX_BYTES: Final = 64 * 1024 * 1024
#: Maximum characters of the reason for a refusal.
_MAX_REASON: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectorSettings:
    """Settings of an Injector.

    Raises:
        UsageError: one is out of range.

    """

    #: Names or glob patterns of the functions whose jobs are accepted; empty: all.
    allow: Sequence[str] = ()
    #: Maximum bytes of an argument.
    max_arg: int = MAX_ARG
    #: Whether an argument that is not a text is stored as its JSON text.
    json_args: bool = False
    #: Maximum jobs per second of all clients together; a refused call counts as one. 0: unlimited.
    rate: float = 0.0
    #: Maximum calls to hold per Gearman server.
    calls: int = 1000
    #: Seconds of the first lease, for functions without a lease of their own.
    lease: int = LEASE
    #: Maximum jobs of a function that wait in gearmand; 0: unlimited.
    watermark: int = WATERMARK

    def __post_init__(self) -> None:
        if not 0 <= self.max_arg <= MAX_ARG:
            raise UsageError(f"max_arg is 0 to {MAX_ARG}, not {self.max_arg}")
        if not self.rate >= 0:
            raise UsageError(f"a rate is 0 (unlimited) or more jobs per second, not {self.rate}")
        if not 1 <= self.calls <= 100_000:
            raise UsageError(f"calls are 1 to 100000, not {self.calls}")
        check_lease(self.lease)
        if self.watermark < 0:
            raise UsageError(f"a watermark is 0 (none) or more, not {self.watermark}")


class Injector:
    """A role for all databases of a queue."""

    #: Maximum seconds from a stop until all calls are answered and their jobs dispatched.
    drain_timeout: Final = 30.0

    def __init__(
        self,
        shards: Shards,
        addresses: Sequence[str],
        settings: InjectorSettings = InjectorSettings(),  # frozen
        *,
        tls: ssl.SSLContext | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Create an Injector; this does no I/O."""
        self._monotonic = clock.monotonic
        self._shards = shards
        self._settings = settings
        self._rules = Rules(settings.allow, settings.max_arg, settings.json_args)
        self._rate = Rate(settings.rate) if settings.rate else None
        self._dispatch = InjectDispatch(shards, addresses, settings.lease, settings.watermark, tls, clock)
        # One stream per database, as the home of keys, and one for jobs without a key. While a database is
        # unreachable, or another transaction has locked a key there, the calls of other streams are stored.
        self._streams = {
            dbid: Stream(ThreadPoolExecutor(1, "garivini-injector"), clock.monotonic)
            for dbid in (None, *(database.dbid for database in shards))
        }
        self.links: list[Worker] = [
            Worker(
                address,
                [INJECT_JOBS.encode()],
                self._arrived,
                slots=settings.calls,
                client_id=b"injector",
                eager=True,
                tls=tls,
            )
            for address in addresses
        ]
        #: Number of the calls that are held, and bytes of their payloads.
        self._calls = 0
        self._bytes = 0
        self._draining = False

    # ---- the lifecycle

    async def start(self) -> Iterable[asyncio.Task[None]]:
        """Start the passes of the dispatch."""
        return await self._dispatch.start()

    async def drain(self) -> None:
        """Accept no more calls; answer those that are held, and dispatch their jobs."""
        self._draining = True
        await asyncio.gather(*(link.drain() for link in self.links))
        # A call whose connection was lost may still be in a batch that is being stored.
        await asyncio.gather(*(stream.storing for stream in self._streams.values() if stream.storing))
        await self._dispatch.drain()

    async def give_up(self) -> None:
        """Report the calls that were not answered. The servers give these calls to another Injector."""
        events.emit("role.drain_incomplete", role="injector", left=self._calls, seconds=self.drain_timeout)

    async def close(self) -> None:
        """Close connections and end the database threads."""
        storing = [stream.storing for stream in self._streams.values() if stream.storing]
        for task in storing:
            task.cancel()
        await asyncio.gather(*storing, return_exceptions=True)
        for stream in self._streams.values():
            stream.thread.shutdown(wait=False, cancel_futures=True)
        await self._dispatch.close()

    # ---- calls

    def _arrived(self, held: Held) -> None:
        """Refuse a call immediately, or add it to the next batch."""
        try:
            if self._rate is not None:
                # Counted before the call is read, because a refused call counts as well.
                self._rate.use(1, self._monotonic())
            jobs, many = read(held.job.data, self._rules)
            if self._rate is not None and len(jobs) > 1:
                self._rate.use(len(jobs) - 1, self._monotonic(), used=1)
        except UsageError as error:
            # The text of the error may quote the payload, at any length.
            reason = str(error)[:_MAX_REASON]
            events.emit("inject.refused", reason=reason)
            held.refuse(f"{reason}; nothing was stored")
            return
        except Exception:
            # A defect. An error raised here would close the connection, and the server would send the same
            # call again and again.
            events.emit("inject.failed", calls=1, error=traceback.format_exc())
            held.refuse("a fault in the Injector; nothing was stored")
            return
        size = len(held.job.data)
        self._hold(1, size)
        dbid, spread = self._place(jobs)
        stream = self._streams[dbid]
        stream.add(InjectCall(held, jobs, many, spread, size))
        if stream.storing is None:
            stream.storing = asyncio.create_task(self._store(stream))

    def _place(self, jobs: Sequence[NewJob]) -> tuple[int | None, bool]:
        """Return the stream of a call's jobs, and whether they may belong to several databases."""
        found = [self._shards.home_of_job(job) for job in jobs]
        homes = [None if home is None else home.dbid for home in found]
        first = next((home for home in homes if home is not None), None)
        # With two streams, there is only one database.
        return first, len(self._streams) > 2 and any(home != first for home in homes)

    def _hold(self, calls: int, size: int) -> None:
        """Count held calls and their bytes. While these are too many, no more calls are requested."""
        self._calls += calls
        before, self._bytes = self._bytes, self._bytes + size
        if (before < _MAX_BYTES) != (self._bytes < _MAX_BYTES) and not self._draining:
            for link in self.links:
                link.slots = self._settings.calls if self._bytes < _MAX_BYTES else 0

    def _let_go(self, calls: Sequence[InjectCall]) -> None:
        self._hold(-len(calls), -sum(call.size for call in calls))

    # ---- batches

    async def _store(self, stream: Stream) -> None:
        """Store the calls of a stream until there are none."""
        try:
            while stream.calls:
                await stream.gather()
                batch = stream.next_batch()
                # The server has given a disconnected call to another Injector, or has dropped it because its
                # caller is gone.
                disconnected = [call for call in batch if call.held.disconnected]
                if disconnected:
                    self._let_go(disconnected)
                    batch = [call for call in batch if not call.held.disconnected]
                if batch:
                    await self._insert(stream, batch)
        finally:
            stream.storing = None

    async def _insert(self, stream: Stream, batch: Sequence[InjectCall]) -> None:
        """Store a batch. If that fails, store smaller batches, so that each call gets its own answer."""
        split = SplitInserts(batch)
        while part := split.next_batch():
            began = self._monotonic()
            jobs = self._dispatch.lease([job for call in part for job in call.jobs])
            loop = asyncio.get_running_loop()
            try:
                stored = await loop.run_in_executor(stream.thread, self._shards.insert, jobs)
            except Exception as error:
                ends = split.failed(part, error)
                self._answer([call for call, _ in ends.stored], [at for _, ats in ends.stored for at in ats])
                self._fail(ends.failed)
                if isinstance(error, GariviniError):
                    self._dispatch.dispatch([(jobs[index], at) for index, at in error.stored.items()], began)
            else:
                self._answer(part, stored)
                self._dispatch.dispatch(list(zip(jobs, stored, strict=True)), began)
                stream.gate.stored(len(part) + len(stream.calls), began, self._monotonic())

    # ---- answers

    def _answer(self, calls: Sequence[InjectCall], stored: Sequence[Inserted]) -> None:
        """Answer calls that are stored. ``stored``: one result per job, in order."""
        if not calls:
            return
        events.emit(
            "inject.stored",
            calls=len(calls),
            jobs=len(stored),
            duplicates=sum(not at.new for at in stored),
        )
        unheard = [call for call in calls if call.held.disconnected]
        if unheard:
            jobs = [job for call in unheard for job in call.jobs]
            keyless = sum(job.uniqkey is None for job in jobs)
            events.emit("inject.unheard", calls=len(unheard), jobs=len(jobs), keyless=keyless)
        position = 0
        for call in calls:
            end = position + len(call.jobs)
            call.held.complete(answer(stored[position:end], many=call.many))
            position = end
        self._let_go(calls)

    def _fail(self, failed: Sequence[tuple[InjectCall, Exception]]) -> None:
        """Refuse calls that are not stored; errors with the same text are one event."""
        texts: Counter[str] = Counter()
        for call, error in failed:
            known = isinstance(error, GariviniError)
            texts[str(error) if known else "".join(traceback.format_exception(error))] += 1
            call.held.refuse(refusal(error))
        for text, calls in texts.items():
            events.emit("inject.failed", calls=calls, error=text)
        self._let_go([call for call, _ in failed])


async def serve(
    shards: Shards,
    addresses: Sequence[str],
    settings: InjectorSettings,
    *,
    stop: asyncio.Event,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Run an Injector until ``stop`` is set, then answer the calls that it holds."""
    await run_role(Injector(shards, addresses, settings, tls=tls), stop)
