"""The calls of the clients that wait for the end of a job."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final, assert_never

from garivini.errors import JobCancelled, JobDead, RefusedError
from garivini.model.handles import HandleLike, handle_of
from garivini.model.job import Handle
from garivini.model.records import KeptJob
from garivini.store.ends import End
from garivini.store.shards import Shards

#: Seconds between two polls: the first value, the maximum, and the factor by which each value grows.
_FIRST: Final = 0.02
_LONGEST: Final = 1.0
_GROWTH: Final = 1.5


class WaitCalls:
    """The calls of ``Client`` that wait for the end of a job."""

    _shards: Shards

    def wait(self, handle: HandleLike, timeout: float | None = None) -> KeptJob | None:
        """Wait until a job has ended; return the kept job with its result if its function has a retention.

        It polls the database, first quickly and then once per second. Each poll is one short statement.

        Args:
            handle: as for ``complete_job``. An attempt in it is ignored.
            timeout: maximum seconds; None: no limit; 0: check once.

        Returns:
            The kept job, or None if the job has succeeded and is not kept, was deleted, or never existed.

        Raises:
            TimeoutError: the job has not ended. It is not affected.
            JobDead: the job is dead, and runs again only if an operator retries it.
            JobCancelled: the job was cancelled.
            RefusedError: the job was moved, because its database was drained.

        """
        jobid, dbid, _ = handle_of(handle)
        database = self._shards[dbid]
        stop = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST
        while True:
            if found := database.ended([jobid]):
                return _kept(Handle(jobid, dbid), found[jobid])
            left = _LONGEST if stop is None else stop - time.monotonic()
            if left <= 0:
                raise _timed_out(Handle(jobid, dbid), timeout)
            time.sleep(min(left, pause * random.uniform(0.8, 1.2)))
            pause = min(pause * _GROWTH, _LONGEST)


class AsyncWaitCalls:
    """The calls of ``AsyncClient`` that wait for the end of a job."""

    _client: WaitCalls
    _call: Callable[..., Awaitable[Any]]
    #: By database, the object that polls those of its jobs that are waited for.
    _polls: "dict[int, SharedPolls]"

    async def wait(self, handle: HandleLike, timeout: float | None = None) -> KeptJob | None:
        """Wait until a job has ended; return the kept job with its result if its function has a retention.

        It polls the database, first quickly and then once per second. Each poll is one short statement for
        all jobs that are waited for.

        Args:
            handle: as for ``complete_job``. An attempt in it is ignored.
            timeout: maximum seconds; None: no limit; 0: check once.

        Returns:
            The kept job, or None if the job has succeeded and is not kept, was deleted, or never existed.

        Raises:
            TimeoutError: the job has not ended. It is not affected.
            JobDead: the job is dead, and runs again only if an operator retries it.
            JobCancelled: the job was cancelled.
            RefusedError: the job was moved, because its database was drained.

        """
        jobid, dbid, _ = handle_of(handle)
        database = self._client._shards[dbid]
        if dbid not in self._polls:
            self._polls[dbid] = SharedPolls(lambda jobids: self._call(database.ended, jobids))
        polls = self._polls[dbid]
        named = Handle(jobid, dbid)
        try:
            if timeout is not None and timeout <= 0:
                found: dict[int, End] = await self._call(database.ended, [jobid])
                if not found:
                    raise TimeoutError
                return _kept(named, found[jobid])
            async with asyncio.timeout(timeout):
                return _kept(named, await polls.until_ended(jobid))
        except TimeoutError:
            raise _timed_out(named, timeout) from None


class SharedPolls:
    """Polls the jobs of one database that are waited for, with one call for all of them.

    Args:
        read: returns, by id, how jobs have ended; it leaves out jobs that have not ended.

    """

    def __init__(self, read: Callable[[Collection[int]], Awaitable[dict[int, End]]]) -> None:
        self._read = read
        self._waiters: dict[int, set[asyncio.Future[End]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._pause = _FIRST

    async def until_ended(self, jobid: int) -> End:
        """Wait until a job has ended; return how it ended."""
        waiter: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(jobid, set())
        waiters.add(waiter)
        self._pause = _FIRST
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        try:
            return await waiter
        finally:
            waiters.discard(waiter)
            if not waiters and self._waiters.get(jobid) is waiters:
                del self._waiters[jobid]

    async def _run(self) -> None:
        try:
            while self._waiters:
                for jobid, end in (await self._read(list(self._waiters))).items():
                    for waiter in self._waiters.pop(jobid, ()):
                        if not waiter.done():
                            waiter.set_result(end)
                await asyncio.sleep(self._pause * random.uniform(0.8, 1.2))
                self._pause = min(self._pause * _GROWTH, _LONGEST)
        except Exception as error:
            for waiters in self._waiters.values():
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_exception(error)
            self._waiters.clear()
        finally:
            self._task = None


def _kept(handle: Handle, end: End) -> KeptJob | None:
    """Return the kept job of a success, or raise the error of another end."""
    match end.kind:
        case "succeeded":
            return end.kept
        case "cancelled":
            error: JobDead = JobCancelled(f"job {handle.id} was cancelled{_reason(end)}")
        case "dead":
            error = JobDead(f"job {handle.id} is dead{_reason(end)}")
        case "moved":
            raise RefusedError(f"job {handle.id} was moved to another database, where it has another id")
        case _:
            assert_never(end.kind)
    error.failure = end.failure
    raise error


def _reason(end: End) -> str:
    if end.failure is None or not (end.failure.error or end.failure.message):
        return ""
    return ": " + f"{end.failure.error} {end.failure.message[:200]}".strip()


def _timed_out(handle: Handle, timeout: float | None) -> TimeoutError:
    return TimeoutError(f"job {handle.id} has not ended within {timeout:g} s")
