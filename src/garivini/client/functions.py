"""The calls of both clients that concern a function instead of a job."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

from garivini.errors import UsageError
from garivini.model.new_jobs import new_job
from garivini.model.policy import RULES_APPLY_AFTER
from garivini.model.when import Never, When, parse_when
from garivini.store.original import check_exact
from garivini.store.shards import Shards


class FunctionCalls:
    """The calls of ``Client`` that concern a function."""

    _shards: Shards

    def pause(
        self,
        funcname: str,
        until: str | int | timedelta | datetime | None = None,
        *,
        now: bool = False,
        wait: bool = True,
        inexact: bool = False,
    ) -> int:
        """Pause a function, or change the end of its pause. Its jobs can still be inserted.

        When the call returns, after 8 seconds, no program hands out jobs of the function any more. Jobs that
        were handed out before go on, whether they run or wait in a Gearman server.

        Args:
            funcname: the function.
            until: the end of the pause, as ``when`` of ``reschedule_job``; by default, the pause has no end.
            now: let only running jobs go on. Jobs that wait in Gearman servers are set back to waiting.
                A worker in another language that receives a copy of such a job starts it anyway.
            wait: False: return immediately. Jobs may be handed out until 8 seconds later.
            inexact: pause although QueueRunners of the original can use a table. They ignore the pause.

        Returns:
            With ``now``, the number of jobs that were set back to waiting; otherwise 0.

        Raises:
            UsageError: the name is not valid, ``until`` is not a time or has passed, ``now`` is given without
                ``wait``, or QueueRunners of the original can use a table.
            GariviniError: a database failed. Other databases may have paused the function: repeat the call.

        """
        self._begin_pause(funcname, until, now=now, wait=wait, inexact=inexact)
        if wait:
            time.sleep(RULES_APPLY_AFTER)
        return self._take_back(funcname) if now else 0

    def _begin_pause(
        self,
        funcname: str,
        until: str | int | timedelta | datetime | None,
        *,
        now: bool,
        wait: bool,
        inexact: bool,
    ) -> None:
        if now and not wait:
            raise UsageError(
                "a pause with now=True has to wait: jobs may be handed out until 8 seconds later"
            )
        new_job(funcname, b"")  # checks the name
        end: When = Never() if until is None else parse_when(until)
        if not inexact:
            check_exact(self._shards)
        for database in self._shards:
            database.pause(funcname, end, mark=now)

    def _take_back(self, funcname: str) -> int:
        total = 0
        for database in self._shards:
            while count := database.take_back(funcname):
                total += count
        return total

    def resume(self, funcname: str) -> bool:
        """End the pause of a function; return whether it was paused. The due times of its jobs stay."""
        resumed = [database.resume(funcname) for database in self._shards]
        return any(resumed)


class AsyncFunctionCalls:
    """The calls of ``AsyncClient`` that concern a function."""

    _client: FunctionCalls
    _call: Callable[..., Awaitable[Any]]

    async def pause(
        self,
        funcname: str,
        until: str | int | timedelta | datetime | None = None,
        *,
        now: bool = False,
        wait: bool = True,
        inexact: bool = False,
    ) -> int:
        """Pause a function, or change the end of its pause. Its jobs can still be inserted.

        When the call returns, after 8 seconds, no program hands out jobs of the function any more. Jobs that
        were handed out before go on, whether they run or wait in a Gearman server.

        Args:
            funcname: the function.
            until: the end of the pause, as ``when`` of ``reschedule_job``; by default, the pause has no end.
            now: let only running jobs go on. Jobs that wait in Gearman servers are set back to waiting.
                A worker in another language that receives a copy of such a job starts it anyway.
            wait: False: return immediately. Jobs may be handed out until 8 seconds later.
            inexact: pause although QueueRunners of the original can use a table. They ignore the pause.

        Returns:
            With ``now``, the number of jobs that were set back to waiting; otherwise 0.

        Raises:
            UsageError: the name is not valid, ``until`` is not a time or has passed, ``now`` is given without
                ``wait``, or QueueRunners of the original can use a table.
            GariviniError: a database failed. Other databases may have paused the function: repeat the call.

        """
        await self._call(self._client._begin_pause, funcname, until, now=now, wait=wait, inexact=inexact)
        if wait:
            await asyncio.sleep(RULES_APPLY_AFTER)
        count: int = await self._call(self._client._take_back, funcname) if now else 0
        return count

    async def resume(self, funcname: str) -> bool:
        """End the pause of a function; return whether it was paused. The due times of its jobs stay."""
        resumed: bool = await self._call(self._client.resume, funcname)
        return resumed
