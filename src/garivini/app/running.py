"""Runs the jobs of typed functions: decodes their arguments, and calls the function inside of the hooks."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Any, Final

import msgspec

from garivini.app.arguments import ArgumentsError, UnknownArgumentsError
from garivini.app.job_functions import Around, AsyncAround, Definition
from garivini.model.job import Job
from garivini.model.records import FailedAttempt
from garivini.worker.functions import Discard, Function, Retry

#: Seconds after which a job with unknown arguments is tried again, ten minutes in all. In a rolling deploy, a
#: worker of the newer version gets it meanwhile.
UNKNOWN_DELAYS: Final = (10, 20, 30, 60, 120, 180, 180)
_UNKNOWN: Final = "unknown argument: "


def handler(made: Definition, arounds: Sequence[Around], async_arounds: Sequence[AsyncAround]) -> Function:
    """Return the function of a ``Worker`` that runs the jobs of a typed function.

    Args:
        made: the typed function.
        arounds: the hooks around all jobs.
        async_arounds: the hooks around jobs of ``async def`` functions.

    """
    if not made.is_async:
        return _with_hooks(_caller(made), arounds) if arounds else _caller(made)
    call = _async_caller(made)
    return _with_async_hooks(call, arounds, async_arounds) if arounds or async_arounds else call


def _caller(made: Definition) -> Function:
    function, arguments, takes_job = made.function, made.arguments, made.takes_job
    if takes_job or arguments.positional < len(arguments.names):

        def call(job: Job) -> Any:
            args, named = arguments.call_values(_decoded(made, job))
            return function(job, *args, **named) if takes_job else function(*args, **named)

        return call

    def call_by_position(job: Job) -> Any:
        return function(*msgspec.structs.astuple(_decoded(made, job)))

    return call_by_position


def _async_caller(made: Definition) -> Function:
    function, arguments, takes_job = made.function, made.arguments, made.takes_job

    async def call(job: Job) -> Any:
        try:
            decoded = arguments.decode(job.arg)
        except UnknownArgumentsError as error:
            raise _unknown(job, error, await asyncio.to_thread(_failures, made, job)) from None
        except ArgumentsError as error:
            raise Discard(str(error)) from None
        args, named = arguments.call_values(decoded)
        return await (function(job, *args, **named) if takes_job else function(*args, **named))

    return call


def _decoded(made: Definition, job: Job) -> msgspec.Struct:
    try:
        return made.arguments.decode(job.arg)
    except UnknownArgumentsError as error:
        raise _unknown(job, error, _failures(made, job)) from None
    except ArgumentsError as error:
        raise Discard(str(error)) from None


def _failures(made: Definition, job: Job) -> list[FailedAttempt]:
    return made.app.client.failures(job)


def _unknown(job: Job, error: UnknownArgumentsError, failures: Sequence[FailedAttempt]) -> Retry | Discard:
    """Return the end of a job with unknown arguments: it is tried again for ten minutes, then it is dead."""
    tries = sum(each.kind == "rescheduled" and each.message.startswith(_UNKNOWN) for each in failures)
    if tries < len(UNKNOWN_DELAYS):
        return Retry(UNKNOWN_DELAYS[tries], f"{_UNKNOWN}{error}")
    return Discard(str(error))


def _with_hooks(call: Function, arounds: Sequence[Around]) -> Function:
    contexts = [contextmanager(each) for each in arounds]

    def call_in_hooks(job: Job) -> Any:
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context(job))
            return call(job)

    return call_in_hooks


def _with_async_hooks(
    call: Function, arounds: Sequence[Around], async_arounds: Sequence[AsyncAround]
) -> Function:
    contexts = [contextmanager(each) for each in arounds]
    async_contexts = [asynccontextmanager(each) for each in async_arounds]

    async def call_in_hooks(job: Job) -> Any:
        async with AsyncExitStack() as stack:
            for context in contexts:
                stack.enter_context(context(job))
            for async_context in async_contexts:
                await stack.enter_async_context(async_context(job))
            return await call(job)

    return call_in_hooks
